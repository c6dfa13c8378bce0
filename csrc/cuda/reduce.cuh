// Sums and maxima over a warp or a block, in an order that is fixed; every thread has the result.
#pragma once

#include "launch.cuh"

namespace tmb {

struct Sum {
  template <typename C>
  __device__ __forceinline__ C operator()(C a, C b) const { return a + b; }
};

// NaN loses.
struct Max {
  template <typename C>
  __device__ __forceinline__ C operator()(C a, C b) const { return a > b || b != b ? a : b; }
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

}  // namespace tmb
