// cross_entropy_: L, and o ← Ĝ. A warp or a block takes a row, and sweeps it twice: for the softmax's denominator, and
// for Ĝ, backwards, as what was read last is in the cache for sure. Rows are long: a row of 128 K logits in bfloat16 is
// 256 KiB, the whole L1 of an SM, so that a wide row has a large block, which leaves few rows under way.
#include <limits>

#include "../cross_entropy.h"
#include "labels.cuh"
#include "losses.cuh"
#include "octets.cuh"

namespace tmb {
namespace {

constexpr int64_t kWarpColumns = 1024;        // up to here a warp a row
constexpr size_t kBlockBytes = 16 << 10;      // of a row: up to here a block of kThreads, of which an SM holds eight
constexpr int kWideThreads = 1024;
constexpr int kVectorsAtOnce = 2;              // loaded by a thread before it computes

template <typename T>
struct Arguments {
  using C = Wide<T>;
  T* o;
  const T* bias;
  const int64_t* target;
  const C* class_weight;           // null: 1
  const C* row_weight;             // null: 1
  const double* class_weight_sum;  // null: q
  double* losses;                  // r_b l_b
  double* weights;                 // r_b w_y
  int64_t rows, q, ignore_index;
  double smoothing;

  __device__ __forceinline__ C weight(int64_t k) const { return class_weight != nullptr ? class_weight[k] : C(1); }
};

// eˣ for x ≤ 0. Where logits have 16 bits its error, relative, is below 2⁻²² + |x| 2⁻²³: with e^{−|x|} before it, 2⁻²¹
// of the mass, and in Ĝ less than its rounding.
template <typename T>
__device__ __forceinline__ Wide<T> power(Wide<T> x) {
  return static_cast<Wide<T>>(exp_nonpositive(Arithmetic<T>(x)));
}

// The vectors of logits at k, k + stride, …, as far as the row goes.
template <int V, typename T>
__device__ __forceinline__ void load_ahead(const T* o, int64_t k, int64_t stride, int64_t q,
                                           Vector<T, V> (&logits)[kVectorsAtOnce]) {
  TMB_UNROLL
  for (int u = 0; u < kVectorsAtOnce; ++u) {
    if (k + u * stride < q) {
      logits[u] = load_vector<V>(o + k + u * stride);
    }
  }
}

// A thread reads and writes the same columns, V neighbours at a time, so that o needs no other fence.
template <typename T, int V, int kGroup>
__global__ void __launch_bounds__(std::max(kThreads, kGroup)) cross_entropy_rows(Arguments<T> a) {
  using C = Wide<T>;
  constexpr int64_t stride = int64_t(kGroup) * V;
  const int64_t b = int64_t(blockIdx.x) * (std::max(kThreads, kGroup) / kGroup) + threadIdx.x / kGroup;
  if (b >= a.rows) {
    return;
  }
  const int64_t first = int64_t(threadIdx.x % kGroup) * V, y = a.target[b];
  T* const o = a.o + b * a.q;
  if (y == a.ignore_index) {
    const Wide<T> zero[V] = {};
    const Vector<T, V> zeros = narrow<T>(zero);
    for (int64_t k = first; k < a.q; k += stride) {
      store(o + k, zeros);
    }
    if (first == 0) {
      a.losses[b] = a.weights[b] = 0;
    }
    return;
  }
  CUDA_KERNEL_ASSERT(!is_bad(y, a.q, a.ignore_index) && "cross_entropy_: target must hold labels in [0, q)");

  // Online: mass = Σ e^{x − top} of what has been read. top starts finite, so that −∞ − top is no NaN.
  C top = std::numeric_limits<C>::lowest(), mass = 0;
  constexpr int64_t leap = kVectorsAtOnce * stride;
  for (int64_t k = first; k < a.q; k += leap) {
    Vector<T, V> logits[kVectorsAtOnce];
    load_ahead(o, k, stride, a.q, logits);
    TMB_UNROLL
    for (int u = 0; u < kVectorsAtOnce; ++u) {
      if (k + u * stride < a.q) {
        C x[V], higher = top, part = 0;
        widen(logits[u], x);
        add_bias(a.bias, k + u * stride, x);
        for (int v = 0; v < V; ++v) {
          higher = Max()(higher, x[v]);
        }
        for (int v = 0; v < V; ++v) {
          part += power<T>(x[v] - higher);
        }
        mass = mass * power<T>(top - higher) + part;
        top = higher;
      }
    }
  }
  const C own_top = top;
  top = reduce<kGroup>(top, Max());
  mass = reduce<kGroup>(mass * exp_nonpositive(own_top - top), Sum());

  const bool smooth = a.smoothing > 0;
  const double r = a.row_weight != nullptr ? a.row_weight[b] : C(1);
  const double w_y = a.class_weight != nullptr ? a.class_weight[y] : C(1);
  const double w_sum = a.class_weight_sum != nullptr ? *a.class_weight_sum : static_cast<double>(a.q);
  const TargetMass t(a.smoothing, a.q, w_y, w_sum);
  const RowGradient<C> G(t, r, mass);
  C x_y = 0;
  double weighted_below_top = 0;  // Σ_k w_k (top − x_k): every term ≥ 0, nothing cancels
  for (int64_t k = first + ((a.q - first + leap - 1) / leap - 1) * leap; k >= first; k -= leap) {
    Vector<T, V> logits[kVectorsAtOnce];
    load_ahead(o, k, stride, a.q, logits);
    TMB_UNROLL
    for (int u = 0; u < kVectorsAtOnce; ++u) {
      const int64_t k_u = k + u * stride;
      if (k_u < a.q) {
        C x[V], g[V];
        widen(logits[u], x);
        add_bias(a.bias, k_u, x);
        for (int v = 0; v < V; ++v) {
          g[v] = G.per_mass * power<T>(x[v] - top);
        }
        if (smooth) {
          C below = 0;
          for (int v = 0; v < V; ++v) {
            const C w_k = a.weight(k_u + v);
            below += w_k * (top - x[v]);
            g[v] -= G.soft * w_k;
          }
          weighted_below_top += below;
        }
        if (k_u <= y && y < k_u + V) {
          for (int v = 0; v < V; ++v) {
            if (k_u + v == y) {
              x_y = x[v];
              g[v] = G.at_label(power<T>(x_y - top), smooth ? a.weight(y) : C(0));
            }
          }
        }
        store(o + k_u, narrow<T>(g));
      }
    }
  }
  if (smooth) {
    weighted_below_top = reduce<kGroup>(weighted_below_top, Sum());
  }
  if (y / V % kGroup * V == first) {  // the thread that has x_y
    const double log_mass = ::log(static_cast<double>(mass));
    a.losses[b] = r * t.loss(log_mass, static_cast<double>(top) - x_y, weighted_below_top);
    a.weights[b] = r * w_y;
  }
}

template <typename C>
__global__ void __launch_bounds__(kFinishThreads) add_weights(const C* weights, int64_t count, double* sum) {
  double s = 0;
  for (int64_t i = threadIdx.x; i < count; i += kFinishThreads) {
    s += weights[i];
  }
  s = reduce<kFinishThreads>(s, Sum());
  if (threadIdx.x == 0) {
    *sum = s;
  }
}

template <typename T, int V>
void launch_rows(const Arguments<T>& a, cudaStream_t stream) {
  if (a.q <= kWarpColumns) {
    run(cross_entropy_rows<T, V, kWarp>, blocks(a.rows, kThreads / kWarp), kThreads, 0, stream, a);
  } else if (a.q * sizeof(T) <= kBlockBytes) {
    run(cross_entropy_rows<T, V, kThreads>, blocks(a.rows, 1), kThreads, 0, stream, a);
  } else {
    run(cross_entropy_rows<T, V, kWideThreads>, blocks(a.rows, 1), kWideThreads, 0, stream, a);
  }
}

template <typename T>
std::tuple<Tensor, Tensor> launch(const Tensor& o, const MaybeTensor& bias, const Tensor& target,
                                  const MaybeTensor& class_weight, const MaybeTensor& row_weight, double smoothing,
                                  int64_t ignore_index, bool mean) {
  using C = Wide<T>;
  constexpr int V = 16 / sizeof(T);
  const OnDeviceOf device(o);
  const int64_t B = o.size(0), q = o.size(1);
  const Tensor losses = new_tensor(o, {B}, ScalarType::Double), weights = new_tensor(o, {B}, ScalarType::Double);
  Arguments<T> a{data<T>(o), const_data<T>(bias), const_data<int64_t>(target), const_data<C>(class_weight),
                 const_data<C>(row_weight), nullptr, data<double>(losses), data<double>(weights), B, q, ignore_index,
                 smoothing};
  MaybeTensor class_weight_sum;
  if (class_weight.has_value() && smoothing > 0) {
    class_weight_sum = new_tensor(o, {}, ScalarType::Double);
    run(add_weights<C>, 1, kFinishThreads, 0, device.stream(), a.class_weight, q, data<double>(*class_weight_sum));
    a.class_weight_sum = const_data<double>(class_weight_sum);
  }
  if (B > 0) {
    if (holds_vectors<V>(a.o, q) && holds_vectors<V>(a.bias, q)) {
      launch_rows<T, V>(a, device.stream());
    } else {
      launch_rows<T, 1>(a, device.stream());
    }
  }
  return loss_and_scale<T>(o, losses, a.weights, 1, mean, 1, device.stream());
}

std::tuple<Tensor, Tensor> cross_entropy_(Tensor o, MaybeTensor bias, Tensor target, MaybeTensor class_weight,
                                          MaybeTensor row_weight, double label_smoothing, int64_t ignore_index,
                                          bool mean) {
  check_cross_entropy("cross_entropy_", o, bias, target, class_weight, row_weight, label_smoothing);
  return with_type(o.scalar_type(), [&](auto zero) {
    return launch<decltype(zero)>(o, bias, target, class_weight, row_weight, label_smoothing, ignore_index, mean);
  });
}

}  // namespace
}  // namespace tmb

STABLE_TORCH_LIBRARY_IMPL(torch_manual_bp, CUDA, m) { m.impl("cross_entropy_", TORCH_BOX(&tmb::cross_entropy_)); }
