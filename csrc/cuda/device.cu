// What is no op: copies to the device and back, errors as text.
#include <string.h>

#include "cuda/kernels.h"
#include "cuda/launch.h"
#include "cuda/upload.cuh"

EVK_NAMESPACE_BEGIN

namespace {

// More goes as a copy of memory, which may wait and which no graph can hold.
constexpr size_t kMostParcels = 8;

// The driver's own functions, without its header: the runtime does not say whether a thread has a
// context, and makes one on the device that it then names.
struct Contexts {
  int (*get_current)(void** context) = nullptr;
  int (*set_current)(void* context) = nullptr;
};

// Found once; whoever looks at the same time finds the same.
Contexts contexts;

template <class Function>
int find_in_driver(const char* name, Function** function) {
  void** address = reinterpret_cast<void**>(function);
#if defined(CUDART_VERSION) && CUDART_VERSION < 12050
  return static_cast<int>(cudaGetDriverEntryPoint(name, address, cudaEnableDefault));
#else
  constexpr unsigned kCuda4 = 4000;  // has both
  return static_cast<int>(
      cudaGetDriverEntryPointByVersion(name, address, kCuda4, cudaEnableDefault));
#endif
}

int find_contexts() {
  if (contexts.get_current) return 0;
  if (const int error = find_in_driver("cuCtxSetCurrent", &contexts.set_current)) return error;
  return find_in_driver("cuCtxGetCurrent", &contexts.get_current);
}

}  // namespace

int upload(void* to, const void* from, size_t bytes, void* stream) {
  constexpr size_t parcel_bytes = kParcelWords * sizeof(u32);
  if (bytes % sizeof(u32) || bytes > kMostParcels * parcel_bytes) {
    return static_cast<int>(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice,
                                            static_cast<cudaStream_t>(stream)));
  }
  for (size_t done = 0; done < bytes; done += parcel_bytes) {
    const size_t count = bytes - done < parcel_bytes ? bytes - done : parcel_bytes;
    Parcel p;
    p.to = reinterpret_cast<u32*>(static_cast<char*>(to) + done);
    p.count = static_cast<i64>(count / sizeof(u32));
    memcpy(p.words, static_cast<const char*>(from) + done, count);
    if (const int error = launch(store_parcel_kernel, 1, kParcelThreads, 0, stream, p)) {
      return error;
    }
  }
  return 0;
}

int download(void* to, const void* from, size_t bytes, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  const cudaError_t error = cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, on);
  return static_cast<int>(error != cudaSuccess ? error : cudaStreamSynchronize(on));
}

int synchronize(void* stream) {
  return static_cast<int>(cudaStreamSynchronize(static_cast<cudaStream_t>(stream)));
}

int device_count(int* error) {
  int count = 0;
  *error = static_cast<int>(cudaGetDeviceCount(&count));
  return *error ? 0 : count;
}

int capability(int device, int* result) {
  int major = 0, minor = 0;
  const cudaError_t error =
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (error != cudaSuccess) return static_cast<int>(error);
  *result = major * 10;
  const int code =
      static_cast<int>(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
  *result += minor;
  return code;
}

int memory_info(size_t* free_bytes, size_t* all_bytes) {
  return static_cast<int>(cudaMemGetInfo(free_bytes, all_bytes));
}

int select_device(int device, int* before) {
  if (const int error = static_cast<int>(cudaGetDevice(before))) return error;
  if (const int error = find_contexts()) return error;
  void* context = nullptr;
  if (const int error = contexts.get_current(&context)) return error;
  if (!context) *before = kNoDevice;
  if (*before == device) return 0;
  return device == kNoDevice ? contexts.set_current(nullptr)
                             : static_cast<int>(cudaSetDevice(device));
}

const char* error_text(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

EVK_NAMESPACE_END
