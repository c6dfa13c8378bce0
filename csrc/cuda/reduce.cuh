// Sums and maxima over a warp or a block, in an order that is fixed; every thread has the result.
#pragma once

#include <cmath>

#include "launch.cuh"

namespace tmb {

struct Sum {
  template <typename C>
  __device__ __forceinline__ C operator()(C a, C b) const { return a + b; }
};

// NaN loses.
struct Max {
  template <typename C>
  __device__ __forceinline__ C operator()(C a, C b) const { return std::fmax(a, b); }
};

// Over kGroup neighbouring threads: a warp, or the whole block, all threads of which must call.
template <int kGroup, typename Op, typename C>
__device__ C reduce(C x, Op op) {
  for (int d = kWarp / 2; d > 0; d /= 2) {
    x = op(x, __shfl_xor_sync(0xffffffffu, x, d));
  }
  if constexpr (kGroup > kWarp) {
    __shared__ C part[kGroup / kWarp];
    if (threadIdx.x % kWarp == 0) {
      part[threadIdx.x / kWarp] = x;
    }
    __syncthreads();
    x = part[0];
    for (int i = 1; i < kGroup / kWarp; ++i) {
      x = op(x, part[i]);
    }
    __syncthreads();  // the next call may write part again
  }
  return x;
}

// The same over a block of up to kThreads threads of any shape, warps not full included; only its first thread has the
// result. Once a kernel: no barrier follows.
template <typename Op, typename C>
__device__ C reduce_block(C x, Op op) {
  __shared__ C part[kThreads];
  const int thread = static_cast<int>(threadIdx.y * blockDim.x + threadIdx.x);
  const int threads = static_cast<int>(blockDim.x * blockDim.y);
  part[thread] = x;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (thread < half && thread + half < threads) {
      part[thread] = op(part[thread], part[thread + half]);
    }
  }
  return part[thread];
}

}  // namespace tmb
