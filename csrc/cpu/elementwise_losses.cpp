// mse_ and bce_with_logits_: L, and o ← Ĝ, in one pass over o and y.
#include <torch/csrc/stable/library.h>

#include "../elementwise_losses.h"
#include "losses.h"

namespace tmb {
namespace {

// Over n elements, with bias and row weights repeated to match: o ← r Ĝ; returns Σ r l.
template <typename T, typename Y, typename Loss>
TMB_CLONES double loss_tile(T* o, const Wide<T>* bias, const Y* y, const Wide<T>* weight, int64_t n) {
  using C = Wide<T>;
  constexpr int64_t short_sum = 256;
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += short_sum) {
    const int64_t end = std::min(n, begin + short_sum);
    C sum = 0;
    _Pragma("omp simd reduction(+ : sum)") for (int64_t i = begin; i < end; ++i) {
      const LossTerm<C> term = Loss::at(C(widen(o[i]) + bias[i]), C(widen(y[i])));
      o[i] = narrow<T>(weight[i] * term.gradient);
      sum += weight[i] * term.loss;
    }
    total += sum;
  }
  return total;
}

#define TMB_INSTANTIATE(T, Y)                                                                              \
  template double loss_tile<T, Y, SquaredError>(T*, const Wide<T>*, const Y*, const Wide<T>*, int64_t);    \
  template double loss_tile<T, Y, BinaryCrossEntropy>(T*, const Wide<T>*, const Y*, const Wide<T>*, int64_t);
TMB_INSTANTIATE(float, float)
TMB_INSTANTIATE(double, double)
TMB_INSTANTIATE(BFloat16, BFloat16)
TMB_INSTANTIATE(BFloat16, float)
TMB_INSTANTIATE(Half, Half)
TMB_INSTANTIATE(Half, float)
#undef TMB_INSTANTIATE

template <typename T, typename Y, typename Loss>
double run(const Tensor& o, const MaybeTensor& bias, const Tensor& target, const MaybeTensor& row_weight) {
  using C = Wide<T>;
  if (o.numel() == 0) {
    return 0;
  }
  constexpr int64_t chunk = kGrain / Tiles::kElements;  // tiles whose sum is one partial sum
  const Tiles tiles(o.size(0), o.size(1));
  const int64_t bias_rows = o.size(1) <= Tiles::kElements ? tiles.tile_rows : 1;
  const int64_t chunks = (tiles.count + chunk - 1) / chunk;
  const auto b = repeated_bias(const_data<T>(bias), o.size(1), bias_rows);
  const C* const r = const_data<C>(row_weight);
  T* const o_data = data<T>(o);
  const Y* const y = const_data<Y>(target);
  std::vector<double> partial(static_cast<size_t>(chunks), 0.0);

  parallel_for(chunks, kGrain, [&](int64_t begin, int64_t end) {
    C weight[Tiles::kElements];
    std::fill_n(weight, Tiles::kElements, C(1));
    for (int64_t i = begin * chunk; i < std::min(end * chunk, tiles.count); ++i) {
      tiles.visit(i, [&](int64_t row, int64_t column, int64_t rows, int64_t columns) {
        for (int64_t k = 0; r != nullptr && k < rows; ++k) {
          std::fill_n(weight + k * columns, columns, r[row + k]);
        }
        const int64_t offset = row * tiles.columns + column;
        partial[i / chunk] +=
            loss_tile<T, Y, Loss>(o_data + offset, b.data() + column, y + offset, weight, rows * columns);
      });
    }
  });
  double total = 0;
  for (const double part : partial) {
    total += part;
  }
  return total;
}

double rows_weight(const Tensor& o, const MaybeTensor& row_weight) {
  if (!row_weight.has_value()) {
    return static_cast<double>(o.size(0));
  }
  double sum = 0;
  for (int64_t b = 0; b < o.size(0); ++b) {
    sum += o.scalar_type() == ScalarType::Double ? const_data<double>(row_weight)[b] : const_data<float>(row_weight)[b];
  }
  return sum;
}

template <typename Loss>
LossSum sums(const Tensor& o, const MaybeTensor& bias, const Tensor& target, const MaybeTensor& row_weight) {
  const double loss = with_type(o.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    return target.scalar_type() == o.scalar_type() ? run<T, T, Loss>(o, bias, target, row_weight)
                                                   : run<T, Wide<T>, Loss>(o, bias, target, row_weight);
  });
  return {loss, rows_weight(o, row_weight)};
}

template <typename Loss>
std::tuple<Tensor, Tensor> loss(const char* op, const Tensor& o, const MaybeTensor& bias, const Tensor& target,
                                const MaybeTensor& row_weight, bool mean) {
  check_targets(op, o, bias, target, row_weight);
  const LossSum sum = sums<Loss>(o, bias, target, row_weight);
  const double normaliser = mean ? sum.weight * static_cast<double>(o.size(1)) : 1;
  return loss_and_scale(o, sum.loss, normaliser, Loss::kFactor);
}

std::tuple<Tensor, Tensor> mse_(Tensor o, MaybeTensor bias, Tensor target, MaybeTensor row_weight, bool mean) {
  return loss<SquaredError>("mse_", o, bias, target, row_weight, mean);
}

std::tuple<Tensor, Tensor> bce_with_logits_(Tensor o, MaybeTensor bias, Tensor target, MaybeTensor row_weight,
                                            bool mean) {
  return loss<BinaryCrossEntropy>("bce_with_logits_", o, bias, target, row_weight, mean);
}

}  // namespace

LossSum mse_sums(const Tensor& o, const MaybeTensor& bias, const Tensor& target, const MaybeTensor& row_weight) {
  return sums<SquaredError>(o, bias, target, row_weight);
}

LossSum bce_with_logits_sums(const Tensor& o, const MaybeTensor& bias, const Tensor& target,
                             const MaybeTensor& row_weight) {
  return sums<BinaryCrossEntropy>(o, bias, target, row_weight);
}

template <typename T>
double mse_rows(const LossRows<T>& rows, const T* target) {
  return loss_tile<T, T, SquaredError>(rows.o, rows.bias, target, rows.row_weight, rows.rows * rows.q);
}

template <typename T>
double bce_with_logits_rows(const LossRows<T>& rows, const T* target) {
  return loss_tile<T, T, BinaryCrossEntropy>(rows.o, rows.bias, target, rows.row_weight, rows.rows * rows.q);
}

template double mse_rows<float>(const LossRows<float>&, const float*);
template double mse_rows<double>(const LossRows<double>&, const double*);
template double bce_with_logits_rows<float>(const LossRows<float>&, const float*);
template double bce_with_logits_rows<double>(const LossRows<double>&, const double*);

}  // namespace tmb

STABLE_TORCH_LIBRARY_IMPL(torch_manual_bp, CPU, m) {
  m.impl("mse_", TORCH_BOX(&tmb::mse_));
  m.impl("bce_with_logits_", TORCH_BOX(&tmb::bce_with_logits_));
}
