// Stands in for CUDA's header of the same name, so that g++ compiles kernels and their launches.
#pragma once

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "device_functions.h"
#include "simt.h"
#include "vector_types.h"

#if defined(__SANITIZE_ADDRESS__)
// What templates declare __shared__ gets no redzones where several files might share it.
#define __global__ static
#else
#define __global__
#endif
#define __device__
#define __host__
#define __constant__ static
// The linker gathers these of all .cu files in one place (shared.ld).
#define __shared__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) __attribute__((aligned(bytes)))

#define threadIdx (simt::builtins.thread)
#define blockIdx (simt::builtins.block)
#define blockDim (simt::builtins.threads)
#define gridDim (simt::builtins.blocks)
constexpr int warpSize = 32;

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInsufficientDriver = 35,
  cudaErrorInvalidDevice = 101,
};
using cudaStream_t = struct CUstream_st*;

inline cudaError_t cudaGetLastError() { return static_cast<cudaError_t>(simt::last_error(true)); }
inline cudaError_t cudaPeekAtLastError() {
  return static_cast<cudaError_t>(simt::last_error(false));
}
inline const char* cudaGetErrorString(cudaError_t error) { return simt::error_text(error); }

enum cudaFuncAttribute {
  cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
  cudaFuncAttributePreferredSharedMemoryCarveout = 9,
};
inline cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute what, int value) {
  if (what != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  return static_cast<cudaError_t>(simt::set_dynamic_shared_limit(kernel, value));
}

enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
};
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr what, int device) {
  if (device != 0) return cudaErrorInvalidDevice;
  switch (what) {
    case cudaDevAttrMultiProcessorCount:
      *value = 1;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = 8;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = 0;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = simt::shared_limit();
      return cudaSuccess;
  }
  return cudaErrorInvalidValue;
}
inline cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

// A thread has none until it selects the device.
inline void*& simt_context() {
  static thread_local void* context = nullptr;
  return context;
}
inline cudaError_t cudaSetDevice(int device) {
  if (device != 0) return cudaErrorInvalidDevice;
  static int primary;
  simt_context() = &primary;
  return cudaSuccess;
}
inline int cuCtxGetCurrent(void** context) {
  *context = simt_context();
  return 0;
}
inline int cuCtxSetCurrent(void* context) {
  simt_context() = context;
  return 0;
}
constexpr unsigned long long cudaEnableDefault = 0;
inline cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned,
                                                    unsigned long long) {
  *function = nullptr;
  if (!strcmp(name, "cuCtxGetCurrent")) *function = reinterpret_cast<void*>(&cuCtxGetCurrent);
  if (!strcmp(name, "cuCtxSetCurrent")) *function = reinterpret_cast<void*>(&cuCtxSetCurrent);
  return *function ? cudaSuccess : cudaErrorInvalidValue;
}
inline cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
inline cudaError_t cudaDriverGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}

// The device's memory is the host's, and everything happens at once.
enum cudaMemcpyKind {
  cudaMemcpyHostToHost = 0,
  cudaMemcpyHostToDevice = 1,
  cudaMemcpyDeviceToHost = 2,
  cudaMemcpyDeviceToDevice = 3,
  cudaMemcpyDefault = 4,
};
inline cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  if (bytes) memcpy(to, from, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                                   cudaStream_t = nullptr) {
  return cudaMemcpy(to, from, bytes, kind);
}
inline cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  if (bytes) memset(to, value, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t = nullptr) {
  return cudaMemset(to, value, bytes);
}
inline cudaError_t cudaMalloc(void** memory, size_t bytes) {
  *memory = aligned_alloc(256, (bytes + 255) / 256 * 256);
  return *memory ? cudaSuccess : cudaErrorMemoryAllocation;
}
inline cudaError_t cudaFree(void* memory) {
  free(memory);
  return cudaSuccess;
}
inline cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* all_bytes) {
  *free_bytes = *all_bytes = size_t{16} << 30;
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
