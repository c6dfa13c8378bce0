// What the losses share on CUDA: the last sums, and the two results, without a word to the host.
#pragma once

#include "reduce.cuh"
#include "vectors.cuh"

namespace tmb {

constexpr int kFinishThreads = 1024;

// (L, scale) = (Σ losses, factor) / N, N = columns Σ weights, or columns · rows without weights, or 1 if not mean; NaN
// and 0 where N = 0. By one block.
template <typename C, typename W>
__global__ void __launch_bounds__(kFinishThreads)
    finish_loss(const double* losses, int64_t count, const W* weights, int64_t rows, int64_t columns, bool mean,
                double factor, C* loss, C* scale) {
  double l = 0, n = 0;
  for (int64_t i = threadIdx.x; i < count; i += kFinishThreads) {
    l += losses[i];
  }
  l = reduce<kFinishThreads>(l, Sum());
  if (mean && weights != nullptr) {
    for (int64_t i = threadIdx.x; i < rows; i += kFinishThreads) {
      n += weights[i];
    }
    n = reduce<kFinishThreads>(n, Sum());
  } else {
    n = static_cast<double>(rows);
  }
  if (threadIdx.x == 0) {
    n = mean ? n * static_cast<double>(columns) : 1.0;
    *loss = static_cast<C>(l / n);
    *scale = static_cast<C>(n == 0 ? 0 : factor / n);
  }
}

template <typename T, typename W>
std::tuple<Tensor, Tensor> loss_and_scale(const Tensor& o, const Tensor& losses, const W* weights, int64_t columns,
                                          bool mean, double factor, cudaStream_t stream) {
  using C = Wide<T>;
  const ScalarType type = wide_type(o.scalar_type());
  Tensor loss = new_tensor(o, {}, type), scale = new_tensor(o, {}, type);
  run(finish_loss<C, W>, 1, kFinishThreads, 0, stream, const_data<double>(losses), losses.numel(), weights, o.size(0),
      columns, mean, factor, data<C>(loss), data<C>(scale));
  return {loss, scale};
}

}  // namespace tmb
