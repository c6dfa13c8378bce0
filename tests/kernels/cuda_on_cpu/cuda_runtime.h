// The part of CUDA that the kernels use, for a C++ compiler: found in place of the toolkit's header of this name.
//
// The sources are compiled as they stand, as host code. emulator.cpp runs their threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <utility>

#define __host__
#define __device__
#define __global__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
// Blocks run one after the other, so that there is one shared memory: the library's thread-local segment, which can be
// found, and poisoned, as a whole. In a function thread_local is static, and it may follow extern.
#define __shared__ thread_local

// (of GCC: where a call stands)
#define EMULATOR_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

struct uint3 {
  unsigned x, y, z;
};

struct dim3 : uint3 {
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : uint3{x, y, z} {}
  constexpr uint64_t count() const { return uint64_t(x) * y * z; }
};

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

// ---- The host's side ------------------------------------------------------------------------------------------------

enum cudaError_t : int {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorAssert = 710,
  cudaErrorLaunchFailure = 719,
  cudaErrorNotSupported = 801,
};
using cudaStream_t = struct CUstream_st*;

struct cudaLaunchAttribute {
  int id;
  int64_t value[8];
};

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};

enum cudaFuncAttribute : int { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaDeviceAttr : int {
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrMaxSharedMemoryPerBlock = 8,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
};

namespace emulator {

using Thread = void (*)(void* arguments);

cudaError_t launch(const cudaLaunchConfig_t& how, const void* kernel, Thread thread, void* arguments,
                   size_t bytes);
cudaError_t allow_shared(const void* kernel, int bytes);
cudaError_t copy(void* to, const void* from, size_t bytes, cudaStream_t stream);
cudaError_t set(void* to, int value, size_t bytes, cudaStream_t stream);

// Waits for all threads of the block; how many of them came with a predicate.
int barrier(bool predicate, const char* op, const char* file, int line);

// What a lane brings to an op of its warp, and what it takes from it.
struct Exchange {
  unsigned mask = 0;
  int source = -1;  // the lane whose value is wanted; −1: none
  bool predicate = false;
  uint64_t value = 0;  // afterwards the source's
  unsigned votes = 0;  // afterwards the lanes with a predicate
};
void exchange(Exchange& e, const char* op, const char* file, int line);
int lane();

template <typename T>
T shuffle(unsigned mask, T x, int source, const char* op, const char* file, int line) {
  static_assert(sizeof(T) <= 8, "a shuffle takes numbers of at most 8 bytes");
  Exchange e{mask, source};
  std::memcpy(&e.value, &x, sizeof(T));
  exchange(e, op, file, line);
  std::memcpy(&x, &e.value, sizeof(T));
  return x;
}

// The lane at an offset within the segment of this width, or this one where there is none.
inline int neighbour(int offset, int width) {
  const int own = lane(), there = own + offset;
  return there >= 0 && there / width == own / width ? there : own;
}

inline unsigned votes(unsigned mask, bool predicate, const char* op, const char* file, int line) {
  Exchange e{mask, -1, predicate};
  exchange(e, op, file, line);
  return e.votes;
}

// *at before it became what update makes of it. Threads take turns, so that nothing comes between.
void check_atomic(const void* at, size_t bytes);

template <typename T, typename Update>
__attribute__((no_sanitize_address)) T atomic(T* at, Update update) {
  check_atomic(at, sizeof(T));
  const T before = *at;
  *at = update(before);
  return before;
}

}  // namespace emulator

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* how, void (*kernel)(Parameters...), Arguments&&... arguments) {
  using Call = std::pair<void (*)(Parameters...), std::tuple<Parameters...>>;
  Call call{kernel, std::tuple<Parameters...>(std::forward<Arguments>(arguments)...)};
  const auto thread = [](void* call) { std::apply(static_cast<Call*>(call)->first, static_cast<Call*>(call)->second); };
  return emulator::launch(*how, reinterpret_cast<const void*>(kernel), thread, &call, sizeof call);
}

template <typename... Parameters>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Parameters...), cudaFuncAttribute, int bytes) {
  return emulator::allow_shared(reinterpret_cast<const void*>(kernel), bytes);
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
enum cudaStreamCaptureStatus : int { cudaStreamCaptureStatusNone = 0, cudaStreamCaptureStatusActive = 1 };
inline cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  return *status = cudaStreamCaptureStatusNone, cudaSuccess;
}

inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }

inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  return emulator::set(to, value, bytes, stream);
}

enum cudaMemcpyKind : int { cudaMemcpyDeviceToDevice = 3 };
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  return emulator::copy(to, from, bytes, stream);
}

// ---- The threads' side ----------------------------------------------------------------------------------------------

inline void __syncthreads(EMULATOR_SITE) { emulator::barrier(false, "__syncthreads", file, line); }

inline int __syncthreads_count(int predicate, EMULATOR_SITE) {
  return emulator::barrier(predicate != 0, "__syncthreads_count", file, line);
}

inline int __syncthreads_or(int predicate, EMULATOR_SITE) {
  return emulator::barrier(predicate != 0, "__syncthreads_or", file, line) > 0;
}

inline int __syncthreads_and(int predicate, EMULATOR_SITE) {
  return emulator::barrier(predicate == 0, "__syncthreads_and", file, line) == 0;
}

inline void __syncwarp(unsigned mask = 0xffffffffu, EMULATOR_SITE) {
  emulator::votes(mask, false, "__syncwarp", file, line);
}

template <typename T>
T __shfl_sync(unsigned mask, T x, int source, int width = warpSize, EMULATOR_SITE) {
  const int first = emulator::lane() / width * width;
  return emulator::shuffle(mask, x, first + (source & (width - 1)), "__shfl_sync", file, line);
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T x, int bits, int width = warpSize, EMULATOR_SITE) {
  const int offset = (emulator::lane() ^ bits) - emulator::lane();
  return emulator::shuffle(mask, x, emulator::neighbour(offset, width), "__shfl_xor_sync", file, line);
}

template <typename T>
T __shfl_down_sync(unsigned mask, T x, unsigned by, int width = warpSize, EMULATOR_SITE) {
  return emulator::shuffle(mask, x, emulator::neighbour(int(by), width), "__shfl_down_sync", file, line);
}

template <typename T>
T __shfl_up_sync(unsigned mask, T x, unsigned by, int width = warpSize, EMULATOR_SITE) {
  return emulator::shuffle(mask, x, emulator::neighbour(-int(by), width), "__shfl_up_sync", file, line);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, EMULATOR_SITE) {
  return emulator::votes(mask, predicate != 0, "__ballot_sync", file, line);
}

inline int __any_sync(unsigned mask, int predicate, EMULATOR_SITE) {
  return emulator::votes(mask, predicate != 0, "__any_sync", file, line) != 0;
}

inline int __all_sync(unsigned mask, int predicate, EMULATOR_SITE) {
  return emulator::votes(mask, predicate == 0, "__all_sync", file, line) == 0;
}

template <typename T>
T atomicAdd(T* at, T x) {
  return emulator::atomic(at, [x](T old) { return T(old + x); });
}

template <typename T>
T atomicMin(T* at, T x) {
  return emulator::atomic(at, [x](T old) { return x < old ? x : old; });
}

template <typename T>
T atomicMax(T* at, T x) {
  return emulator::atomic(at, [x](T old) { return old < x ? x : old; });
}

template <typename T>
T atomicExch(T* at, T x) {
  return emulator::atomic(at, [x](T) { return x; });
}

inline void __threadfence() {}
inline void __threadfence_block() {}

template <typename T>
constexpr T min(T a, T b) {
  return b < a ? b : a;
}

template <typename T>
constexpr T max(T a, T b) {
  return a < b ? b : a;
}

// Loads and stores with a hint for the caches.
template <typename T>
T __ldg(const T* at) {
  return *at;
}

template <typename T>
T __ldcs(const T* at) {
  return *at;
}

template <typename T>
T __ldcg(const T* at) {
  return *at;
}

template <typename T>
void __stcs(T* at, T x) {
  *at = x;
}

template <typename T>
void __stcg(T* at, T x) {
  *at = x;
}

struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};

#undef EMULATOR_SITE
