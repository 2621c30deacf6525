// One way to launch a kernel for nvcc and for the harness of tests/simt. Errors are cudaError_t
// as int; 0 is success. Nothing here waits for the device.
#pragma once

#include "cuda/device.h"

EVK_NAMESPACE_BEGIN

#if defined(EVK_SIMT)

template <class... P, class... A>
int launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, void*, const A&... a) {
  return simt::launch(reinterpret_cast<const void*>(kernel), grid, block, shared_bytes,
                      [&] { kernel(static_cast<P>(a)...); });
}

#else

// Not as <<<...>>>, whose error is the last of any call, earlier ones too.
template <class... P>
int launch_values(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, void* stream,
                  P... values) {
  void* addresses[] = {&values...};
  return static_cast<int>(cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid, block,
                                           addresses, shared_bytes,
                                           static_cast<cudaStream_t>(stream)));
}

template <class... P, class... A>
int launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, void* stream,
           const A&... a) {
  return launch_values<P...>(kernel, grid, block, shared_bytes, stream, static_cast<P>(a)...);
}

#endif

// A grid of one dimension; more blocks than it can have are refused like none.
static inline dim3 grid_of(i64 blocks) {
  return dim3(blocks <= 0x7fffffff ? static_cast<unsigned>(blocks) : 0);
}

// Lets a kernel have more than the 48 KiB of dynamic shared memory that all devices grant.
template <class... P>
int allow_shared_bytes(void (*kernel)(P...), int bytes) {
  return static_cast<int>(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                               cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
}

EVK_NAMESPACE_END
