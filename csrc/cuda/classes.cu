// The cross-entropy over tiles of classes: class_statistics_ and cross_entropy_classes_, the two walks over the logits,
// and class_loss between them. A warp or a block takes a row of the tile.
#include "../cross_entropy.h"
#include "losses.cuh"

namespace tmb {
namespace {

constexpr int64_t kWarpColumns = 1024;  // up to here a warp a row

// The logits of n classes from first on, of all rows.
template <typename T>
struct ClassTile {
  using C = Wide<T>;
  T* o;
  const T* bias;
  const int64_t* target;
  const C* class_weight;  // null: 1
  const C* row_weight;    // null: 1
  int64_t rows, first, n;

  __device__ __forceinline__ C weight(int64_t k) const { return class_weight != nullptr ? class_weight[k] : C(1); }
};

// Each thread gathers the statistics of its columns; then all are counted from the highest top and added to the row's.
struct GatherStatistics {
  RowStatistics* statistics;

  template <int V, int kGroup, typename T>
  __device__ __forceinline__ void row(const ClassTile<T>& tile, int64_t b, int64_t begin) const {
    using C = Wide<T>;
    if (tile.target[b] < 0) {  // no class, hence the label of rows that are left out
      return;
    }
    RowStatistics& all = statistics[b];
    const double before = all.top;
    RowStatistics s{-std::numeric_limits<double>::infinity(), 0, 0, 0, 0, 0};
    for (int64_t k = begin; k < tile.n; k += int64_t(kGroup) * V) {
      C x[V];
      load_biased(tile.o + b * tile.n, tile.bias, k, x);
      C highest = std::numeric_limits<C>::lowest();  // finite, so that −∞ − top is no NaN
      for (int v = 0; v < V; ++v) {
        highest = Max()(highest, x[v]);
      }
      s.raise(highest);
      const C top = static_cast<C>(s.top);
      C mass = 0, below_top = 0, weight = 0;
      for (int v = 0; v < V; ++v) {
        const C w = tile.weight(k + v);
        mass += exp_nonpositive(x[v] - top);
        below_top += w * (top - x[v]);
        weight += w;
        if (tile.first + k + v == tile.target[b]) {
          all.label_logit = x[v];
          all.label_weight = w;
        }
      }
      s.mass += mass;
      s.below_top += below_top;
      s.weight += weight;
    }
    const double top = reduce<kGroup>(Max()(before, s.top), Max());
    s.raise(top);
    const double mass = reduce<kGroup>(s.mass, Sum()), below_top = reduce<kGroup>(s.below_top, Sum());
    const double weight = reduce<kGroup>(s.weight, Sum());
    if (begin == 0) {
      all.raise(top);
      all.mass += mass;
      all.below_top += below_top;
      all.weight += weight;
    }
  }
};

// o ← Ĝ
struct WriteGradient {
  const RowStatistics* statistics;
  ClassOptions options;

  template <int V, int kGroup, typename T>
  __device__ __forceinline__ void row(const ClassTile<T>& tile, int64_t b, int64_t begin) const {
    using C = Wide<T>;
    T* const o = tile.o + b * tile.n;
    const RowStatistics& s = statistics[b];
    const bool ignored = tile.target[b] == options.ignore_index;
    const RowGradient<C> G(options.target_mass(s), tile.row_weight != nullptr ? tile.row_weight[b] : C(1), s.mass);
    const C top = static_cast<C>(s.top);
    for (int64_t k = begin; k < tile.n; k += int64_t(kGroup) * V) {
      C x[V];
      load_biased(o, tile.bias, k, x);
      for (int v = 0; v < V; ++v) {
        const C e = exp_nonpositive(x[v] - top), w = tile.weight(k + v);
        const C g = tile.first + k + v == tile.target[b] ? G.at_label(e, w) : G.at(e, w);
        x[v] = ignored ? C(0) : g;
      }
      store(o + k, narrow<T>(x));
    }
  }
};

template <int V, int kGroup, typename T, typename Walk>
__global__ void __launch_bounds__(kThreads) walk_rows(ClassTile<T> tile, Walk walk) {
  const int64_t b = int64_t(blockIdx.x) * (kThreads / kGroup) + threadIdx.x / kGroup;
  if (b < tile.rows) {
    walk.template row<V, kGroup>(tile, b, int64_t(threadIdx.x % kGroup) * V);
  }
}

template <int V, typename T, typename Walk>
void launch_rows(const ClassTile<T>& tile, const Walk& walk, cudaStream_t stream) {
  if (tile.n <= kWarpColumns) {
    run(walk_rows<V, kWarp, T, Walk>, blocks(tile.rows, kThreads / kWarp), kThreads, 0, stream, tile, walk);
  } else {
    run(walk_rows<V, kThreads, T, Walk>, blocks(tile.rows, 1), kThreads, 0, stream, tile, walk);
  }
}

template <typename T, typename Walk>
void launch(const Tensor& o, const MaybeTensor& bias, const Tensor& target, const MaybeTensor& class_weight,
            const MaybeTensor& row_weight, int64_t first_class, const Walk& walk) {
  using C = Wide<T>;
  constexpr int V = 16 / sizeof(T);
  if (o.numel() == 0) {
    return;
  }
  const OnDeviceOf device(o);
  const ClassTile<T> tile{data<T>(o), const_data<T>(bias), const_data<int64_t>(target), const_data<C>(class_weight),
                          const_data<C>(row_weight), o.size(0), first_class, o.size(1)};
  if (holds_vectors<V>(tile.o, tile.n) && holds_vectors<V>(tile.bias, tile.n)) {
    launch_rows<V>(tile, walk, device.stream());
  } else {
    launch_rows<1>(tile, walk, device.stream());
  }
}

void class_statistics_(Tensor o, MaybeTensor bias, Tensor target, MaybeTensor class_weight, int64_t first_class,
                       Tensor statistics) {
  check_class_tile("class_statistics_", o, bias, target, class_weight, first_class, statistics, kStatistics);
  const GatherStatistics gather{reinterpret_cast<RowStatistics*>(data<double>(statistics))};
  with_type(o.scalar_type(), [&](auto zero) {
    launch<decltype(zero)>(o, bias, target, class_weight, {}, first_class, gather);
  });
}

void cross_entropy_classes_(Tensor o, MaybeTensor bias, Tensor target, MaybeTensor class_weight,
                            MaybeTensor row_weight, int64_t first_class, int64_t classes, double label_smoothing,
                            int64_t ignore_index, Tensor statistics) {
  constexpr const char* op = "cross_entropy_classes_";
  check_class_tile(op, o, bias, target, class_weight, first_class, statistics, kStatistics);
  check_class_gradient(op, o, row_weight, first_class, classes, label_smoothing);
  const WriteGradient write{reinterpret_cast<const RowStatistics*>(const_data<double>(statistics)),
                            {classes, ignore_index, label_smoothing}};
  with_type(o.scalar_type(), [&](auto zero) {
    launch<decltype(zero)>(o, bias, target, class_weight, row_weight, first_class, write);
  });
}

// Σ r l and Σ r w_y, by one block.
template <typename C>
__global__ void __launch_bounds__(kFinishThreads)
    sum_losses(const RowStatistics* statistics, const int64_t* target, const C* row_weight, int64_t rows,
               ClassOptions options, double* loss, double* weight) {
  double l = 0, n = 0;
  for (int64_t b = threadIdx.x; b < rows; b += kFinishThreads) {
    if (target[b] != options.ignore_index) {
      const RowStatistics& s = statistics[b];
      const double r = row_weight != nullptr ? row_weight[b] : C(1);
      l += r * s.loss(options.target_mass(s));
      n += r * s.label_weight;
    }
  }
  l = reduce<kFinishThreads>(l, Sum());
  n = reduce<kFinishThreads>(n, Sum());
  if (threadIdx.x == 0) {
    *loss = l;
    *weight = n;
  }
}

template <typename C>
void launch_losses(const Tensor& statistics, const Tensor& target, const MaybeTensor& row_weight,
                   const ClassOptions& options, const Tensor& loss, const Tensor& weight) {
  const OnDeviceOf device(statistics);
  run(sum_losses<C>, 1, kFinishThreads, 0, device.stream(),
      reinterpret_cast<const RowStatistics*>(const_data<double>(statistics)), const_data<int64_t>(target),
      const_data<C>(row_weight), target.size(0), options, data<double>(loss), data<double>(weight));
}

std::tuple<Tensor, Tensor> class_loss(Tensor statistics, Tensor target, MaybeTensor row_weight, int64_t classes,
                                      double label_smoothing, int64_t ignore_index) {
  check_class_loss("class_loss", statistics, kStatistics, target, row_weight, label_smoothing);
  const ClassOptions options{classes, ignore_index, label_smoothing};
  Tensor loss = new_tensor(statistics, {}, ScalarType::Double), weight = new_tensor(statistics, {}, ScalarType::Double);
  if (row_weight.has_value() && row_weight->scalar_type() == ScalarType::Float) {
    launch_losses<float>(statistics, target, row_weight, options, loss, weight);
  } else {
    launch_losses<double>(statistics, target, row_weight, options, loss, weight);
  }
  return {loss, weight};
}

}  // namespace
}  // namespace tmb

STABLE_TORCH_LIBRARY_IMPL(torch_manual_bp, CUDA, m) {
  m.impl("class_statistics_", TORCH_BOX(&tmb::class_statistics_));
  m.impl("class_loss", TORCH_BOX(&tmb::class_loss));
  m.impl("cross_entropy_classes_", TORCH_BOX(&tmb::cross_entropy_classes_));
}
