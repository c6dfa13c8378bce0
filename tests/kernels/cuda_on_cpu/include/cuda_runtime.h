// CUDA's execution model on the CPU, as far as csrc/cuda uses it, so that g++ compiles these sources as they stand and
// their kernels run without a GPU. Found in place of CUDA's header of this name.
//
// Blocks run one after the other. A block's threads are fibers: each runs until it waits for others (__syncthreads, a
// shuffle), then the next one does. What hardware leaves undefined is an error here: a barrier that not all threads of
// the block reach, or reach at different places; a shuffle that a named lane does not take part in. Shared memory
// starts as NaN.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __shared__ thread_local  // one block at a time; all of it lies in one piece, the library's thread-local storage
#define __restrict__ __restrict
#define __align__(bytes) alignas(bytes)
#define __syncthreads() ::cuda_on_cpu::barrier(__FILE__, __LINE__)
#define __syncwarp(...) ::cuda_on_cpu::exchange(0xffffffffu, 0, 0, __FILE__, __LINE__)
#define __shfl_xor_sync(mask, value, lanes) ::cuda_on_cpu::shuffle(mask, value, ::cuda_on_cpu::lane() ^ (lanes), __FILE__, __LINE__)
#define __shfl_sync(mask, value, from) ::cuda_on_cpu::shuffle(mask, value, (from) % 32, __FILE__, __LINE__)
#define __shfl_down_sync(mask, value, by) ::cuda_on_cpu::shuffle_down(mask, value, by, __FILE__, __LINE__)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

extern dim3 threadIdx, blockIdx, blockDim, gridDim;

using std::max;
using std::min;

using cudaStream_t = void*;
struct cudaLaunchAttribute {};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};

enum cudaError_t : int { cudaSuccess = 0 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum cudaDeviceAttr { cudaDevAttrMaxSharedMemoryPerBlockOptin, cudaDevAttrMultiProcessorCount };

namespace cuda_on_cpu {

constexpr unsigned kMostShared = 227 * 1024;  // of sm_90

using Thread = void (*)(const void* kernel);
// Runs the kernel for every thread of the grid; throws what a GPU would refuse or hang on.
void run(const cudaLaunchConfig_t& how, Thread thread, const void* kernel);

void barrier(const char* file, int line);
unsigned lane();
// What lane `from` has handed in, once all lanes of the mask have.
uint64_t exchange(unsigned mask, uint64_t value, unsigned from, const char* file, int line);

template <typename T>
T shuffle(unsigned mask, T value, unsigned from, const char* file, int line) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = exchange(mask, bits, from, file, line);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

template <typename T>
T shuffle_down(unsigned mask, T value, unsigned by, const char* file, int line) {
  const unsigned from = lane() + by;
  return shuffle(mask, value, from < 32 ? from : lane(), file, line);
}

}  // namespace cuda_on_cpu

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* how, void (*kernel)(Parameters...), Arguments&&... arguments) {
  const auto call = [=](Parameters... coerced) { return [=] { kernel(coerced...); }; }(arguments...);
  using Call = decltype(call);
  cuda_on_cpu::run(*how, [](const void* c) { (*static_cast<const Call*>(c))(); }, &call);
  return cudaSuccess;
}

inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  std::memset(to, value, bytes);
  return cudaSuccess;
}

template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel*, cudaFuncAttribute, int value) {
  if (value > static_cast<int>(cuda_on_cpu::kMostShared)) {
    throw std::runtime_error("cudaFuncSetAttribute: more shared memory than a block can have");
  }
  return cudaSuccess;
}

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMaxSharedMemoryPerBlockOptin ? static_cast<int>(cuda_on_cpu::kMostShared) : 4;
  return cudaSuccess;
}

template <typename T>
T atomicMin(T* to, T value) {
  const T before = *to;
  *to = std::min(before, value);
  return before;
}

template <typename T>
T atomicAdd(T* to, T value) {
  const T before = *to;
  *to = before + value;
  return before;
}
