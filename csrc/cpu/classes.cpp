// The cross-entropy over tiles of classes: class_statistics_ and cross_entropy_classes_, the two walks over the logits,
// and class_loss between them. Rows are independent, so that nothing depends on the number of threads.
#include <torch/csrc/stable/library.h>

#include "../cross_entropy.h"
#include "losses.h"

namespace tmb {
namespace {

// The logits of n classes from first on, of all rows.
template <typename T>
struct ClassTile {
  using C = Wide<T>;
  T* o;
  const C* bias;
  const int64_t* target;
  const C* class_weight;
  const C* row_weight;  // null: 1
  int64_t first, n;

  // Where in the tile the label is, or −1.
  TMB_INLINE int64_t label(int64_t b) const {
    const int64_t y = target[b] - first;
    return y >= 0 && y < n ? y : -1;
  }
};

// Σ_k w_k of each kShortSum classes of a tile.
template <typename T>
std::vector<double> weights_of_short_sums(const ClassTile<T>& tile) {
  std::vector<double> sums(static_cast<size_t>((tile.n + kShortSum - 1) / kShortSum), 0.0);
  for (int64_t k = 0; k < tile.n; ++k) {
    sums[k / kShortSum] += tile.class_weight[k];
  }
  return sums;
}

template <typename T>
TMB_CLONES void statistics_of_rows(const ClassTile<T>& tile, const double* weights, RowStatistics* statistics,
                                   int64_t begin, int64_t end) {
  using C = Wide<T>;
  C x[kShortSum];
  for (int64_t b = begin; b < end; ++b) {
    if (tile.target[b] < 0) {  // no class, hence the label of rows that are left out
      continue;
    }
    RowStatistics s = statistics[b];
    for (int64_t from = 0; from < tile.n; from += kShortSum) {
      const int64_t length = std::min(kShortSum, tile.n - from);
      const T* const o = tile.o + b * tile.n + from;
      const C *const bias = tile.bias + from, *const w = tile.class_weight + from;
      C highest = std::numeric_limits<C>::lowest();  // finite, so that −∞ − top is no NaN
      _Pragma("omp simd reduction(max : highest)") for (int64_t k = 0; k < length; ++k) {
        x[k] = widen(o[k]) + bias[k];
        highest = x[k] > highest ? x[k] : highest;
      }
      s.raise(highest);
      const C top = static_cast<C>(s.top);
      C mass = 0, below_top = 0;
      _Pragma("omp simd reduction(+ : mass, below_top)") for (int64_t k = 0; k < length; ++k) {
        mass += exp_nonpositive(x[k] - top);
        below_top += w[k] * (top - x[k]);
      }
      s.mass += mass;
      s.below_top += below_top;
      s.weight += weights[from / kShortSum];
    }
    const int64_t y = tile.label(b);
    if (y >= 0) {
      s.label_logit = widen(tile.o[b * tile.n + y]) + tile.bias[y];
      s.label_weight = tile.class_weight[y];
    }
    statistics[b] = s;
  }
}

template <typename T>
TMB_CLONES void gradient_of_rows(const ClassTile<T>& tile, const ClassOptions& options, const RowStatistics* statistics,
                                 int64_t begin, int64_t end) {
  using C = Wide<T>;
  const C *const bias = tile.bias, *const w = tile.class_weight;
  for (int64_t b = begin; b < end; ++b) {
    T* const o = tile.o + b * tile.n;
    if (tile.target[b] == options.ignore_index) {
      std::fill_n(o, tile.n, narrow<T>(C(0)));
      continue;
    }
    const RowStatistics& s = statistics[b];
    const RowGradient<C> G(options.target_mass(s), tile.row_weight == nullptr ? 1 : tile.row_weight[b], s.mass);
    const C top = static_cast<C>(s.top);
    TMB_SIMD for (int64_t k = 0; k < tile.n; ++k) {
      o[k] = narrow<T>(G.at(exp_nonpositive(widen(o[k]) + bias[k] - top), w[k]));
    }
    const int64_t y = tile.label(b);
    if (y >= 0) {
      o[y] = narrow<T>(G.at_label(exp_nonpositive(static_cast<C>(s.label_logit) - top), w[y]));
    }
  }
}

#define TMB_INSTANTIATE(T)                                                                                         \
  template void statistics_of_rows<T>(const ClassTile<T>&, const double*, RowStatistics*, int64_t, int64_t);       \
  template void gradient_of_rows<T>(const ClassTile<T>&, const ClassOptions&, const RowStatistics*, int64_t, int64_t);
TMB_INSTANTIATE(float)
TMB_INSTANTIATE(double)
TMB_INSTANTIATE(BFloat16)
TMB_INSTANTIATE(Half)
#undef TMB_INSTANTIATE

// f(tile) of the op's arguments; nothing where there are no logits.
template <typename F>
void with_tile(const Tensor& o, const MaybeTensor& bias, const Tensor& target, const MaybeTensor& class_weight,
               const MaybeTensor& row_weight, int64_t first_class, const F& f) {
  if (o.numel() == 0) {
    return;
  }
  with_type(o.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using C = Wide<T>;
    const auto b = repeated_bias(const_data<T>(bias), o.size(1), 1);
    // ones where there are no weights: a loop that asks for them does not vectorise
    const std::vector<C> ones(class_weight.has_value() ? 0 : b.size(), C(1));
    const C* const w = class_weight.has_value() ? const_data<C>(class_weight) : ones.data();
    f(ClassTile<T>{data<T>(o), b.data(), const_data<int64_t>(target), w, const_data<C>(row_weight), first_class,
                   o.size(1)});
  });
}

void class_statistics_(Tensor o, MaybeTensor bias, Tensor target, MaybeTensor class_weight, int64_t first_class,
                       Tensor statistics) {
  check_class_tile("class_statistics_", o, bias, target, class_weight, first_class, statistics, kStatistics);
  auto* const rows = reinterpret_cast<RowStatistics*>(data<double>(statistics));
  with_tile(o, bias, target, class_weight, {}, first_class, [&](const auto& tile) {
    const std::vector<double> weights = weights_of_short_sums(tile);
    parallel_for(o.size(0), tile.n, [&](int64_t begin, int64_t end) {
      statistics_of_rows(tile, weights.data(), rows, begin, end);
    });
  });
}

void cross_entropy_classes_(Tensor o, MaybeTensor bias, Tensor target, MaybeTensor class_weight,
                            MaybeTensor row_weight, int64_t first_class, int64_t classes, double label_smoothing,
                            int64_t ignore_index, Tensor statistics) {
  constexpr const char* op = "cross_entropy_classes_";
  check_class_tile(op, o, bias, target, class_weight, first_class, statistics, kStatistics);
  check_class_gradient(op, o, row_weight, first_class, classes, label_smoothing);
  const auto* const rows = reinterpret_cast<const RowStatistics*>(const_data<double>(statistics));
  const ClassOptions options{classes, ignore_index, label_smoothing};
  with_tile(o, bias, target, class_weight, row_weight, first_class, [&](const auto& tile) {
    parallel_for(o.size(0), tile.n, [&](int64_t begin, int64_t end) {
      gradient_of_rows(tile, options, rows, begin, end);
    });
  });
}

template <typename C>
LossSum loss_of_rows(const RowStatistics* statistics, const int64_t* target, const C* row_weight, int64_t rows,
                     const ClassOptions& options) {
  LossSum sum;
  for (int64_t b = 0; b < rows; ++b) {
    if (target[b] == options.ignore_index) {
      continue;
    }
    const RowStatistics& s = statistics[b];
    const double r = row_weight == nullptr ? 1 : row_weight[b];
    sum.loss += r * s.loss(options.target_mass(s));
    sum.weight += r * s.label_weight;
  }
  return sum;
}

std::tuple<Tensor, Tensor> class_loss(Tensor statistics, Tensor target, MaybeTensor row_weight, int64_t classes,
                                      double label_smoothing, int64_t ignore_index) {
  check_class_loss("class_loss", statistics, kStatistics, target, row_weight, label_smoothing);
  const auto* const rows = reinterpret_cast<const RowStatistics*>(const_data<double>(statistics));
  const auto* const labels = const_data<int64_t>(target);
  const ClassOptions options{classes, ignore_index, label_smoothing};
  const bool in_float = row_weight.has_value() && row_weight->scalar_type() == ScalarType::Float;
  const LossSum sum = in_float
                          ? loss_of_rows(rows, labels, const_data<float>(row_weight), target.size(0), options)
                          : loss_of_rows(rows, labels, const_data<double>(row_weight), target.size(0), options);
  Tensor loss = new_tensor(statistics, {}, ScalarType::Double), weight = new_tensor(statistics, {}, ScalarType::Double);
  *data<double>(loss) = sum.loss;
  *data<double>(weight) = sum.weight;
  return {loss, weight};
}

}  // namespace
}  // namespace tmb

STABLE_TORCH_LIBRARY_IMPL(torch_manual_bp, CPU, m) {
  m.impl("class_statistics_", TORCH_BOX(&tmb::class_statistics_));
  m.impl("class_loss", TORCH_BOX(&tmb::class_loss));
  m.impl("cross_entropy_classes_", TORCH_BOX(&tmb::cross_entropy_classes_));
}
