// Kernels that a GPU would hang on, or compute nonsense with, for test_cuda_on_cpu.py; and some that are right.
#include <cuda_runtime.h>

#include <cmath>
#include <string>

namespace {

__global__ void sum_of_a_warp(float* out) {
  float x = threadIdx.x;
  for (int d = 16; d > 0; d /= 2) {
    x += __shfl_xor_sync(0xffffffffu, x, d);
  }
  out[threadIdx.x] = x;
}

__global__ void reversed_through_shared_memory(float* out) {
  __shared__ float x[128];
  x[threadIdx.x] = blockIdx.x * 128.0f + threadIdx.x;
  __syncthreads();
  out[blockIdx.x * 128 + threadIdx.x] = x[127 - threadIdx.x];
}

__global__ void not_waited_for(float* out) {
  __shared__ float x[128];
  x[threadIdx.x] = threadIdx.x;
  out[threadIdx.x] = x[127 - threadIdx.x];  // of threads that come later: NaN
}

__global__ void barrier_of_some_threads(float*) {
  if (threadIdx.x < 40) {
    __syncthreads();
  }
}

__global__ void barriers_in_two_branches(float*) {
  if (threadIdx.x % 2 == 0) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

__global__ void shuffle_of_some_lanes(float* out) {
  if (threadIdx.x < 8) {
    out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1.0f, 1);
  }
}

__global__ void shared_memory_of_the_block_before(float* out) {
  __shared__ float x;
  if (blockIdx.x == 0) {
    x = 1;
  }
  out[blockIdx.x] = x;
}

}  // namespace

// What went wrong, or nothing.
extern "C" const char* run_mistake(const char* name, unsigned blocks, unsigned threads, float* out) {
  static std::string told;
  const cudaLaunchConfig_t how{blocks, threads, 0, nullptr, nullptr, 0};
  try {
#define TMB_CASE(kernel)         \
  if (std::string(name) == #kernel) { \
    cudaLaunchKernelEx(&how, kernel, out); \
    return "";                   \
  }
    TMB_CASE(sum_of_a_warp)
    TMB_CASE(reversed_through_shared_memory)
    TMB_CASE(not_waited_for)
    TMB_CASE(barrier_of_some_threads)
    TMB_CASE(barriers_in_two_branches)
    TMB_CASE(shuffle_of_some_lanes)
    TMB_CASE(shared_memory_of_the_block_before)
#undef TMB_CASE
    return "no such kernel";
  } catch (const std::exception& error) {
    told = error.what();
    return told.c_str();
  }
}
