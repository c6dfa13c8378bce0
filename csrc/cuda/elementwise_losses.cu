// mse_ and bce_with_logits_: L, and o ← Ĝ, in one pass over o and y, an octet a thread.
#include "../elementwise_losses.h"
#include "losses.cuh"

namespace tmb {
namespace {

// o ← r Ĝ; sums[block] ← its Σ r l
template <typename T, typename Y, typename Loss>
__global__ void __launch_bounds__(kThreads) loss_octets(T* o, const T* bias, const Y* target,
                                                        const Wide<T>* row_weight, double* sums, Octets octets) {
  using C = Wide<T>;
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  C sum = 0;
  if (i < octets.count()) {
    const int64_t row = i / octets.per_row, column = i % octets.per_row * 8, offset = row * octets.columns + column;
    const C r = row_weight != nullptr ? row_weight[row] : C(1);
    C x[8], y[8], b[8] = {};
    octets.get(o + offset, column, x);
    octets.get(target + offset, column, y);
    if (bias != nullptr) {
      octets.get(bias + column, column, b);
    }
    const int n = octets.length(column);
    for (int j = 0; j < 8; ++j) {
      const LossTerm<C> term = Loss::at(x[j] + b[j], y[j]);
      x[j] = r * term.gradient;
      sum += j < n ? r * term.loss : C(0);
    }
    octets.put(o + offset, column, x);
  }
  const double total = reduce<kThreads>(static_cast<double>(sum), Sum());
  if (threadIdx.x == 0) {
    sums[blockIdx.x] = total;
  }
}

template <typename T, typename Y, typename Loss>
std::tuple<Tensor, Tensor> launch(const Tensor& o, const MaybeTensor& bias, const Tensor& target,
                                  const MaybeTensor& row_weight, bool mean) {
  const OnDeviceOf device(o);
  const int64_t columns = o.size(1);
  T* const o_data = data<T>(o);
  const T* const b = const_data<T>(bias);
  const Y* const y = const_data<Y>(target);
  const auto* const r = const_data<Wide<T>>(row_weight);
  const bool whole = holds_vectors<8>(o_data, columns) && holds_vectors<8>(b, columns) && holds_vectors<8>(y, columns);
  const Octets octets(o.size(0), columns, whole);
  const unsigned grid = blocks(octets.count(), kThreads);
  const Tensor sums = new_tensor(o, {int64_t(grid)}, ScalarType::Double);
  if (grid > 0) {
    run(loss_octets<T, Y, Loss>, grid, kThreads, 0, device.stream(), o_data, b, y, r, data<double>(sums), octets);
  }
  return loss_and_scale<T>(o, sums, r, columns, mean, Loss::kFactor, device.stream());
}

template <typename Loss>
std::tuple<Tensor, Tensor> loss(const char* op, const Tensor& o, const MaybeTensor& bias, const Tensor& target,
                                const MaybeTensor& row_weight, bool mean) {
  check_targets(op, o, bias, target, row_weight);
  return with_type(o.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    return target.scalar_type() == o.scalar_type() ? launch<T, T, Loss>(o, bias, target, row_weight, mean)
                                                   : launch<T, Wide<T>, Loss>(o, bias, target, row_weight, mean);
  });
}

std::tuple<Tensor, Tensor> mse_(Tensor o, MaybeTensor bias, Tensor target, MaybeTensor row_weight, bool mean) {
  return loss<SquaredError>("mse_", o, bias, target, row_weight, mean);
}

std::tuple<Tensor, Tensor> bce_with_logits_(Tensor o, MaybeTensor bias, Tensor target, MaybeTensor row_weight,
                                            bool mean) {
  return loss<BinaryCrossEntropy>("bce_with_logits_", o, bias, target, row_weight, mean);
}

}  // namespace
}  // namespace tmb

STABLE_TORCH_LIBRARY_IMPL(torch_manual_bp, CUDA, m) {
  m.impl("mse_", TORCH_BOX(&tmb::mse_));
  m.impl("bce_with_logits_", TORCH_BOX(&tmb::bce_with_logits_));
}
