// cross_entropy_: L, and o ← Ĝ. Each row of o is read once and written once; what lies between stays in a row's cache.
#include <torch/csrc/stable/library.h>

#include "../cross_entropy.h"
#include "labels.h"
#include "losses.h"

namespace tmb {
namespace {

constexpr int64_t kLanes = 16;  // rows are padded to whole vectors, so that narrow ones need no scalar loop

struct Options {
  double smoothing, class_weight_sum;
  int64_t ignore_index;
};

template <typename T>
struct Arguments {
  using C = Wide<T>;
  T* o;
  const C* bias;
  const int64_t* target;
  const C* class_weight;  // null: 1
  const C* row_weight;    // null: 1
  int64_t q;
  Options options;
};

// Rows [begin, end): o ← Ĝ; returns their Σ r l and Σ r w_y. x has room for q padded to kLanes.
template <typename T>
TMB_CLONES LossSum cross_entropy_rows(const Arguments<T>& a, int64_t begin, int64_t end, Wide<T>* x) {
  using C = Wide<T>;
  constexpr C lowest = -std::numeric_limits<C>::infinity();
  const int64_t q = a.q, padded = (q + kLanes - 1) / kLanes * kLanes;
  LossSum sum;
  for (int64_t b = begin; b < end; ++b) {
    T* const o = a.o + b * q;
    const int64_t y = a.target[b];
    if (y == a.options.ignore_index) {
      std::fill_n(o, q, narrow<T>(C(0)));
      continue;
    }
    TMB_SIMD for (int64_t k = 0; k < q; ++k) { x[k] = widen(o[k]) + a.bias[k]; }
    for (int64_t k = q; k < padded; ++k) {
      x[k] = lowest;
    }
    C top = lowest;
    _Pragma("omp simd reduction(max : top)") for (int64_t k = 0; k < padded; ++k) { top = x[k] > top ? x[k] : top; }

    const double r = a.row_weight == nullptr ? 1 : a.row_weight[b];
    const double w_y = a.class_weight == nullptr ? 1 : a.class_weight[y];
    const TargetMass t(a.options.smoothing, q, w_y, a.options.class_weight_sum);
    const double label_below_top = static_cast<double>(top) - x[y];
    double weighted_below_top = 0;  // Σ_k w_k (top − x_k): every term ≥ 0, nothing cancels
    if (t.soft > 0) {
      for (int64_t from = 0; from < q; from += kShortSum) {
        const int64_t to = std::min(q, from + kShortSum);
        C part = 0;
        if (a.class_weight == nullptr) {  // (asked in the loop, it would keep the loop from vectorising)
          _Pragma("omp simd reduction(+ : part)") for (int64_t k = from; k < to; ++k) { part += top - x[k]; }
        } else {
          const C* const w = a.class_weight;
          _Pragma("omp simd reduction(+ : part)") for (int64_t k = from; k < to; ++k) { part += w[k] * (top - x[k]); }
        }
        weighted_below_top += part;
      }
    }

    double mass = 0;  // Σ_k e^{x_k − top}
    for (int64_t from = 0; from < padded; from += kShortSum) {
      const int64_t to = std::min(padded, from + kShortSum);
      C part = 0;
      _Pragma("omp simd reduction(+ : part)") for (int64_t k = from; k < to; ++k) {
        x[k] = exp_nonpositive(x[k] - top);
        part += x[k];
      }
      mass += part;
    }

    sum.weight += r * w_y;
    sum.loss += r * t.loss(std::log(mass), label_below_top, weighted_below_top);  // L = Σ r l, over N
    const RowGradient<C> G(t, r, mass);
    const C at_label = G.at_label(x[y], static_cast<C>(w_y));
    if (a.class_weight == nullptr) {
      TMB_SIMD for (int64_t k = 0; k < q; ++k) { o[k] = narrow<T>(G.at(x[k], C(1))); }  // dO = scale · Ĝ
    } else {
      TMB_SIMD for (int64_t k = 0; k < q; ++k) { o[k] = narrow<T>(G.at(x[k], a.class_weight[k])); }
    }
    o[y] = narrow<T>(at_label);
  }
  return sum;
}
template LossSum cross_entropy_rows<float>(const Arguments<float>&, int64_t, int64_t, float*);
template LossSum cross_entropy_rows<double>(const Arguments<double>&, int64_t, int64_t, double*);
template LossSum cross_entropy_rows<BFloat16>(const Arguments<BFloat16>&, int64_t, int64_t, float*);
template LossSum cross_entropy_rows<Half>(const Arguments<Half>&, int64_t, int64_t, float*);

template <typename T>
LossSum run(const Tensor& o, const MaybeTensor& bias, const Tensor& target, const MaybeTensor& class_weight,
            const MaybeTensor& row_weight, double smoothing, int64_t ignore_index) {
  using C = Wide<T>;
  const int64_t B = o.size(0), q = o.size(1);
  if (o.numel() == 0) {
    return {};
  }
  const auto b = repeated_bias(const_data<T>(bias), q, 1);
  const C* const w = const_data<C>(class_weight);
  double w_sum = static_cast<double>(q);
  if (w != nullptr) {
    w_sum = 0;
    for (int64_t k = 0; k < q; ++k) {
      w_sum += w[k];
    }
  }
  const Arguments<T> arguments{data<T>(o), b.data(), const_data<int64_t>(target), w, const_data<C>(row_weight), q,
                               {smoothing, w_sum, ignore_index}};
  const int64_t chunk_rows = std::max<int64_t>(1, kGrain / q), chunks = (B + chunk_rows - 1) / chunk_rows;
  std::vector<LossSum> partial(static_cast<size_t>(chunks));
  parallel_for(chunks, chunk_rows * q, [&](int64_t begin, int64_t end) {
    std::vector<C> row(static_cast<size_t>(q + kLanes));
    for (int64_t i = begin; i < end; ++i) {
      partial[i] = cross_entropy_rows(arguments, i * chunk_rows, std::min((i + 1) * chunk_rows, B), row.data());
    }
  });
  LossSum sum;
  for (const LossSum& part : partial) {
    sum.loss += part.loss;
    sum.weight += part.weight;
  }
  return sum;
}

std::tuple<Tensor, Tensor> cross_entropy_(Tensor o, MaybeTensor bias, Tensor target, MaybeTensor class_weight,
                                          MaybeTensor row_weight, double label_smoothing, int64_t ignore_index,
                                          bool mean) {
  check_cross_entropy("cross_entropy_", o, bias, target, class_weight, row_weight, label_smoothing);
  const int64_t* const labels = const_data<int64_t>(target);
  const int64_t bad = first_bad_label(labels, o.size(0), o.size(1), ignore_index);
  STD_TORCH_CHECK(bad < 0, "cross_entropy_: target must hold labels in [0, ", o.size(1), ") or ", ignore_index,
                  "; got ", labels[bad], " at row ", bad);
  const LossSum sum = cross_entropy_sums(o, bias, target, class_weight, row_weight, label_smoothing, ignore_index);
  return loss_and_scale(o, sum.loss, mean ? sum.weight : 1, 1);
}

}  // namespace

LossSum cross_entropy_sums(const Tensor& o, const MaybeTensor& bias, const Tensor& target,
                           const MaybeTensor& class_weight, const MaybeTensor& row_weight, double smoothing,
                           int64_t ignore_index) {
  return with_type(o.scalar_type(), [&](auto zero) {
    return run<decltype(zero)>(o, bias, target, class_weight, row_weight, smoothing, ignore_index);
  });
}

template <typename T>
LossSum cross_entropy_rows(const LossRows<T>& rows, const int64_t* target, const T* class_weight,
                           double class_weight_sum, double smoothing, int64_t ignore_index, T* workspace) {
  return cross_entropy_rows(Arguments<T>{rows.o, rows.bias, target, class_weight, rows.row_weight, rows.q,
                                         {smoothing, class_weight_sum, ignore_index}},
                            0, rows.rows, workspace);
}
template LossSum cross_entropy_rows<float>(const LossRows<float>&, const int64_t*, const float*, double, double,
                                           int64_t, float*);
template LossSum cross_entropy_rows<double>(const LossRows<double>&, const int64_t*, const double*, double, double,
                                            int64_t, double*);

}  // namespace tmb

STABLE_TORCH_LIBRARY_IMPL(torch_manual_bp, CPU, m) { m.impl("cross_entropy_", TORCH_BOX(&tmb::cross_entropy_)); }
