// Small kernels with the mistakes that the emulator must find, and their right twins.
#include "../../../csrc/cuda/reduce.cuh"
#include "../../../csrc/cuda/vectors.cuh"

namespace tmb {
namespace {

constexpr int kBlock = 128;

// out[block] ← Σ in, by way of shared memory. A mistake leaves one thing out.
enum class SumMistake : int64_t { none, no_barrier, some_threads_at_barrier, early_return, two_barriers, unwritten };

template <SumMistake M>
__global__ void __launch_bounds__(kBlock) sum_blocks(const float* in, float* out, int64_t n) {
  __shared__ float shared[kBlock];
  const int64_t i = int64_t(blockIdx.x) * kBlock + threadIdx.x;
  if (M == SumMistake::early_return && i >= n) {
    return;
  }
  if (M != SumMistake::unwritten || i < n) {
    shared[threadIdx.x] = i < n ? in[i] : 0.0f;
  }
  if (M == SumMistake::two_barriers) {
    if (threadIdx.x < kBlock / 2) {
      __syncthreads();
    } else {
      __syncthreads();
    }
  } else if (M == SumMistake::some_threads_at_barrier) {
    if (threadIdx.x < kBlock / 2) {
      __syncthreads();
    }
  } else if (M != SumMistake::no_barrier) {
    __syncthreads();
  }
  if (threadIdx.x == 0) {
    float sum = 0;
    for (int j = 0; j < kBlock; ++j) {
      sum += shared[j];
    }
    out[blockIdx.x] = sum;
  }
}

Tensor sum(Tensor in, int64_t mistake) {
  const OnDeviceOf device(in);
  const int64_t n = in.size(0);
  const unsigned grid = blocks(n, kBlock);
  Tensor out = new_tensor(in, {int64_t(grid)}, ScalarType::Float);
  const auto go = [&](auto kernel) { run(kernel, grid, kBlock, 0, device.stream(), const_data<float>(in), data<float>(out), n); };
  switch (static_cast<SumMistake>(mistake)) {
#define TMB_CASE(M) \
  case SumMistake::M: \
    go(sum_blocks<SumMistake::M>); \
    break;
    TMB_CASE(none)
    TMB_CASE(no_barrier)
    TMB_CASE(some_threads_at_barrier)
    TMB_CASE(early_return)
    TMB_CASE(two_barriers)
    TMB_CASE(unwritten)
#undef TMB_CASE
  }
  return out;
}

}  // namespace
}  // namespace tmb

STABLE_TORCH_LIBRARY(torch_manual_bp_mistakes, m) { m.def("sum(Tensor x, int mistake) -> Tensor"); }

STABLE_TORCH_LIBRARY_IMPL(torch_manual_bp_mistakes, CUDA, m) { m.impl("sum", TORCH_BOX(&tmb::sum)); }
