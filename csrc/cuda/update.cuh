// torch.optim's SGD, Adam and AdamW over some parameters in one pass over memory; and the gradient itself, written out.
// Sums over rows may come in chunks, of which each update adds up its own, in order.
#pragma once

#include <limits>
#include <type_traits>

#include "../hyper.h"
#include "../net_arguments.h"
#include "reduce.cuh"
#include "vectors.cuh"

namespace tmb {

constexpr int kMostUpdated = 8;   // parameters of a launch, which are handed over by value
constexpr int kNormBlocks = 128;  // of a parameter at most, in the pass for the norm
constexpr int kMostChunks = 128;

// ∂J/∂p = scale · Σ_chunks sum + penalty · p
template <typename T>
struct Updated {
  T* p;
  T* sum;
  T* first;   // momentum buffer (null: momentum is 0), exp_avg, or where the gradient is written
  T* second;  // exp_avg_sq
  int64_t n;

  bool is_aligned() const {
    const auto addresses = reinterpret_cast<uintptr_t>(p) | reinterpret_cast<uintptr_t>(sum) |
                           reinterpret_cast<uintptr_t>(first) | reinterpret_cast<uintptr_t>(second);
    return addresses % 16 == 0;
  }
};

// Of a chunk of rows: Σ r l, its part of N, and of ‖W1‖² + ‖W2‖².
struct RowSums {
  double loss, weight, squares;
};

// The chunks of a pass, or a gradient that stands as it is.
struct Chunks {
  int64_t count = 1, stride = 0;  // the sums of chunk c lie c · stride behind the first's
  const RowSums* rows = nullptr;  // null: scale is 1, there is no J
  int64_t rows_count = 0;         // ≤ kMostChunks
  Reduction reduction;

  // By all threads of a block.
  __device__ Amount amount() const {
    if (rows == nullptr) {
      return {1, 1, 0};
    }
    static_assert(kMostChunks <= kThreads);
    const RowSums own = threadIdx.x < rows_count ? rows[threadIdx.x] : RowSums{0, 0, 0};
    const double loss = reduce<kThreads>(own.loss, Sum()), N = reduce<kThreads>(own.weight, Sum());
    return reduction.amount(loss, N, reduce<kThreads>(own.squares, Sum()));
  }

  template <int V, typename T>
  __device__ __forceinline__ void add_up(const T* first, T (&x)[V]) const {
    load(first, x);
#pragma unroll 4
    for (int64_t c = 1; c < count; ++c) {
      T more[V];
      load(first + c * stride, more);
      for (int v = 0; v < V; ++v) {
        x[v] += more[v];
      }
    }
  }
};

// torch.nn.utils.clip_grad_norm_'s min(1, most / (‖g‖ + 1e-6)); a NaN stays one.
struct Clip {
  const double* squares = nullptr;  // whose sum is ‖g‖²; null: 1
  int64_t count = 0;
  double most = 0;

  // By all threads of a block.
  __device__ double coefficient() const {
    if (squares == nullptr) {
      return 1;
    }
    double sum = 0;
    for (int64_t i = threadIdx.x; i < count; i += kThreads) {
      sum += squares[i];
    }
    const double c = most / (::sqrt(reduce<kThreads>(sum, Sum())) + 1e-6);
    return c > 1 ? 1 : c;
  }
};

// What is updated in a launch, and which blocks do which of it.
template <typename T, typename Hyper>
struct Pack {
  Updated<T> updated[kMostUpdated];
  Hyper hyper[kMostUpdated];
  bool aligned[kMostUpdated];
  unsigned first_block[kMostUpdated + 1] = {};
  int count = 0;

  void add(const Updated<T>& u, const Hyper& numbers, int64_t blocks) {
    updated[count] = u;
    hyper[count] = numbers;
    aligned[count] = u.is_aligned();
    first_block[count + 1] = first_block[count] + static_cast<unsigned>(blocks);
    ++count;
  }
  unsigned blocks() const { return first_block[count]; }

  __device__ int of_block(unsigned block) const {
    int i = 0;
    while (first_block[i + 1] <= block) {
      ++i;
    }
    return i;
  }
};

// dX ← [add] dX + grad_scale (scale · sum + share · penalty · p)
struct GradientHyper {
  double penalty;
};
struct WriteGradient {
  using Hyper = GradientHyper;
  template <typename T>
  struct Numbers {
    T a, b;
  };
  double grad_scale;
  bool add;

  template <typename T>
  __device__ Numbers<T> numbers(const Hyper& h, const Amount& amount, double) const {
    return {static_cast<T>(grad_scale * amount.scale), static_cast<T>(grad_scale * amount.share * h.penalty)};
  }

  template <int V, typename T>
  __device__ __forceinline__ void apply(const Updated<T>& u, int64_t i, Numbers<T> by, const T (&sum)[V]) const {
    T g[V];
    for (int v = 0; v < V; ++v) {
      g[v] = by.b == 0 ? by.a * sum[v] : by.a * sum[v] + by.b * u.p[i + v];
    }
    if (add) {
      T before[V];
      load(u.first + i, before);
      for (int v = 0; v < V; ++v) {
        g[v] += before[v];
      }
    }
    store(u.first + i, narrow<T>(g));
  }
};

// buf ← μ buf + g;  p ← p − η (g, buf, or g + μ buf)
struct Sgd {
  using Hyper = SgdHyper;
  template <typename T>
  struct Numbers {
    T a, b, lr, momentum;  // g = a sum + b p, for which penalty, clipping and weight decay have been multiplied out
  };
  bool nesterov;

  template <typename T>
  __device__ Numbers<T> numbers(const Hyper& h, const Amount& amount, double clip) const {
    return {static_cast<T>(clip * amount.scale), static_cast<T>(clip * h.penalty + h.weight_decay),
            static_cast<T>(h.lr), static_cast<T>(h.momentum)};
  }

  template <int V, typename T>
  __device__ __forceinline__ void apply(const Updated<T>& u, int64_t i, Numbers<T> by, const T (&sum)[V]) const {
    T p[V], buffer[V];
    load(u.p + i, p);
    if (u.first != nullptr) {
      load(u.first + i, buffer);
    }
    for (int v = 0; v < V; ++v) {
      T step = by.a * sum[v] + by.b * p[v];
      if (u.first != nullptr) {
        buffer[v] = by.momentum * buffer[v] + step;
        step = nesterov ? step + by.momentum * buffer[v] : buffer[v];
      }
      p[v] -= by.lr * step;
    }
    if (u.first != nullptr) {
      store(u.first + i, narrow<T>(buffer));
    }
    store(u.p + i, narrow<T>(p));
  }
};

// 1 − β₁ᵗ and √(1 − β₂ᵗ)
struct AdamCorrections {
  double first, second;
};
TMB_INLINE AdamCorrections adam_corrections(const AdamHyper& h, double steps) {
  return {1 - ::pow(h.beta1, steps), ::sqrt(1 - ::pow(h.beta2, steps))};
}

struct AdamState : AdamHyper {
  AdamCorrections corrections;
  const float* step;  // null: the corrections are known; else it has counted this step already
};

// m ← m + (1−β₁)(g − m);  v ← β₂ v + (1−β₂) g²;  p ← keep p − size m / (√v / correction + ε)
struct Adam {
  using Hyper = AdamState;
  template <typename T>
  struct Numbers {
    T a, b, m_share, v_keep, v_share, keep, size, inverse_correction, eps;
  };
  bool decoupled;

  template <typename T>
  __device__ Numbers<T> numbers(const Hyper& h, const Amount& amount, double clip) const {
    const AdamCorrections c = h.step != nullptr ? adam_corrections(h, *h.step) : h.corrections;
    return {static_cast<T>(clip * amount.scale),
            static_cast<T>(clip * h.penalty + (decoupled ? 0 : h.weight_decay)),
            static_cast<T>(1 - h.beta1),
            static_cast<T>(h.beta2),
            static_cast<T>(1 - h.beta2),
            static_cast<T>(decoupled ? 1 - h.lr * h.weight_decay : 1),
            static_cast<T>(h.lr / c.first),
            static_cast<T>(1 / c.second),
            static_cast<T>(h.eps)};
  }

  template <int V, typename T>
  __device__ __forceinline__ void apply(const Updated<T>& u, int64_t i, Numbers<T> by, const T (&sum)[V]) const {
    T p[V], m[V], second[V];
    load(u.p + i, p);
    load(u.first + i, m);
    load(u.second + i, second);
    for (int v = 0; v < V; ++v) {
      const T g = by.a * sum[v] + by.b * p[v];
      m[v] += by.m_share * (g - m[v]);
      second[v] = by.v_keep * second[v] + by.v_share * g * g;
      p[v] = by.keep * p[v] - by.size * m[v] / (std::sqrt(second[v]) * by.inverse_correction + by.eps);
    }
    store(u.first + i, narrow<T>(m));
    store(u.second + i, narrow<T>(second));
    store(u.p + i, narrow<T>(p));
  }
};

// f(i, integral V) over the elements of a parameter, V neighbours at a time, by vectors [begin, end) in steps of a block.
template <int V, typename F>
__device__ __forceinline__ void for_vectors(int64_t begin, int64_t end, int64_t stride, int64_t n, bool aligned, F f) {
  for (int64_t vector = begin; vector < end; vector += stride) {
    const int64_t i = vector * V;
    if (V > 1 && aligned && i + V <= n) {
      f(i, std::integral_constant<int, V>());
    } else {
      for (int64_t j = i; j < min(i + V, n); ++j) {
        f(j, std::integral_constant<int, 1>());
      }
    }
  }
}

// squares[block] ← its Σ g². Where sums come in chunks they are one afterwards: what follows need not add them again.
template <int V, typename T, typename Hyper>
__global__ void __launch_bounds__(kThreads)
    gradient_squares(const Pack<T, Hyper> pack, const Chunks chunks, double* squares) {
  const Amount amount = chunks.amount();
  const int k = pack.of_block(blockIdx.x);
  const Updated<T>& u = pack.updated[k];
  const T a = static_cast<T>(amount.scale), b = static_cast<T>(pack.hyper[k].penalty);
  const int64_t own = blockIdx.x - pack.first_block[k], blocks = pack.first_block[k + 1] - pack.first_block[k];
  double total = 0;
  for_vectors<V>(own * kThreads + threadIdx.x, (u.n + V - 1) / V, blocks * kThreads, u.n, pack.aligned[k],
                 [&](int64_t i, auto width) {
                   constexpr int W = decltype(width)::value;
                   T sum[W], p[W], part = 0;
                   chunks.add_up(u.sum + i, sum);
                   load(u.p + i, p);
                   for (int v = 0; v < W; ++v) {
                     const T g = a * sum[v] + b * p[v];
                     part += g * g;
                   }
                   total += part;
                   if (chunks.count > 1) {
                     store(u.sum + i, narrow<T>(sum));
                   }
                 });
  total = reduce<kThreads>(total, Sum());
  if (threadIdx.x == 0) {
    squares[blockIdx.x] = total;
  }
}

// Vectors of a thread: a chunked sum is many loads, a whole one should pay for what its block finds out first.
template <int V>
constexpr int kVectorsOfThread = V == 1 ? 1 : 4;

template <int V, typename T, typename Rule>
__global__ void __launch_bounds__(kThreads)
    update_elements(const Pack<T, typename Rule::Hyper> pack, const Chunks chunks, const Clip clip, const Rule rule, T* J) {
  const Amount amount = chunks.amount();
  const double coefficient = clip.coefficient();
  const int k = pack.of_block(blockIdx.x);
  const Updated<T>& u = pack.updated[k];
  __shared__ typename Rule::template Numbers<T> numbers;
  if (threadIdx.x == 0) {
    numbers = rule.template numbers<T>(pack.hyper[k], amount, coefficient);
    if (blockIdx.x == 0 && J != nullptr) {
      *J = static_cast<T>(amount.J);
    }
  }
  __syncthreads();
  const auto by = numbers;
  constexpr int64_t of_block = int64_t(kThreads) * kVectorsOfThread<V>;
  const int64_t begin = (blockIdx.x - pack.first_block[k]) * of_block, vectors = (u.n + V - 1) / V;
  for_vectors<V>(begin + threadIdx.x, min(begin + of_block, vectors), kThreads, u.n, pack.aligned[k],
                 [&](int64_t i, auto width) {
                   T sum[decltype(width)::value];
                   chunks.add_up(u.sum + i, sum);
                   rule.apply(u, i, by, sum);
                 });
}

// f(Pack, its parameters' blocks) over all parameters that are not empty, as many at a time as a launch takes.
template <typename T, typename Hyper, typename Blocks, typename F>
void in_packs(const std::vector<Updated<T>>& all, const std::vector<Hyper>& hyper, Blocks blocks_of, F f) {
  Pack<T, Hyper> pack;
  for (size_t i = 0; i < all.size(); ++i) {
    if (all[i].n > 0) {
      pack.add(all[i], hyper[i], blocks_of(all[i].n));
    }
    if (pack.count == kMostUpdated || (i + 1 == all.size() && pack.count > 0)) {
      f(pack);
      pack = {};
    }
  }
}

// Updates all; V neighbours at a time. clip_norm = ∞: no clipping, and no pass for the norm. before_write: the last
// that is launched before the parameters are written. J, if not null, is written beside them.
template <int V, typename T, typename Rule, typename BeforeWrite>
void update(const std::vector<Updated<T>>& all, const std::vector<typename Rule::Hyper>& hyper, Rule rule,
            Chunks chunks, double clip_norm, T* J, const Tensor& like, cudaStream_t stream, BeforeWrite before_write) {
  Clip clip;
  Tensor squares;
  if (clip_norm != std::numeric_limits<double>::infinity()) {
    const auto norm_blocks = [](int64_t n) { return std::min<int64_t>(kNormBlocks, ceil_div(n, int64_t(kThreads) * V)); };
    for (const Updated<T>& u : all) {
      clip.count += norm_blocks(u.n);
    }
    squares = new_tensor(like, {clip.count}, ScalarType::Double);
    clip.squares = const_data<double>(squares);
    clip.most = clip_norm;
    double* to = data<double>(squares);
    in_packs(all, hyper, norm_blocks, [&](const auto& pack) {
      run(gradient_squares<V, T, typename Rule::Hyper>, pack.blocks(), kThreads, 0, stream, pack, chunks, to);
      to += pack.blocks();
    });
    chunks.count = 1;
  }
  before_write();
  in_packs(all, hyper,
           [](int64_t n) { return ceil_div(n, int64_t(kThreads) * V * kVectorsOfThread<V>); },
           [&](const auto& pack) {
             run(update_elements<V, T, Rule>, pack.blocks(), kThreads, 0, stream, pack, chunks, clip, rule, J);
           });
}

// Adam's numbers, with what t, counted from this step on, makes of them; and the counters, after it.
class AdamSteps {
 public:
  AdamSteps(const Tensors& step, const Tensor& hyper, const Tensor& p);
  const std::vector<AdamState>& states() const { return states_; }
  void count_on_device(cudaStream_t stream) const;  // before the update, which reads them
  void count_on_host() const;                       // after it

 private:
  std::vector<AdamState> states_;
  std::vector<float*> on_device_, on_host_;
};

}  // namespace tmb
