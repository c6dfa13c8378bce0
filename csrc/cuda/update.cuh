// The updates of SGD, Adam and AdamW, and the writing of a gradient, over some parameters in one launch.
//
// ∂J/∂p = scale · Σ_c sums[c] + penalty · p, c over chunks of rows: what gradients there are is added up on the way.
#pragma once

#include <array>
#include <limits>

#include "../hyper.h"
#include "reduce.cuh"
#include "vectors.cuh"

namespace tmb::cuda {

constexpr int kMostParameters = 4;  // of one launch
constexpr int kMostBlocks = 1024;   // which depend on the parameters alone, so that all sums have a fixed order

// A parameter and what belongs to it, an octet at a time.
template <typename T>
struct Slot {
  T* p;
  const T* sums;       // of the first chunk
  T *first, *second;   // momentum buffer or exp_avg, exp_avg_sq; of a gradient that is written: itself
  const float* steps;  // of Adam, this one included; null: it has gone into the numbers
  int64_t n;
  bool whole;
};

// What the sums amount to: of a batch whose loss is known by chunks, or nothing but 1.
struct Amount {
  double scale = 1, share = 1;  // of the sums, and of the penalty
};

// Σ r l, N and ‖W1‖² + ‖W2‖² by chunks; and what they mean.
struct RowSums {
  const double* losses = nullptr;  // null: the sums are gradients already
  const double *weights, *norms;
  int chunks;
  bool mean;
  double normalizer, columns, factor;  // in N's place, or 0; terms of a row; ∂l/∂o = factor Ĝ
  double weight_decay;
};

// Σ values, in every thread of a block.
__device__ inline double sum_of(const double* values, int count) {
  double sum = 0;
  for (int i = threadIdx.x; i < count; i += kThreads) {
    sum += values[i];
  }
  return reduce<kThreads>(sum, Sum());
}

struct Objective {
  Amount amount;
  double J;
};

__device__ inline Objective objective_of(const RowSums& rows) {
  const double N = sum_of(rows.weights, rows.chunks), loss = sum_of(rows.losses, rows.chunks);
  const double norms = rows.weight_decay != 0 ? sum_of(rows.norms, rows.chunks) : 0;
  const double divisor = rows.mean ? (rows.normalizer > 0 ? rows.normalizer : N) * rows.columns : 1;
  const double share = rows.normalizer > 0 ? N / rows.normalizer : 1;
  return {{divisor == 0 ? 0 : rows.factor / divisor, share}, loss / divisor + share * rows.weight_decay / 2 * norms};
}

// The gradient of an octet is a Σ_c sums[c] + b p.
template <typename T>
struct Coefficients {
  T a, b;
};

template <typename T>
struct Sgd {
  struct Numbers {
    T penalty, lr, weight_decay, momentum;
  };
  bool nesterov;

  __device__ Coefficients<T> coefficients(const Numbers& now, double scale, double share, double clip) const {
    return {static_cast<T>(clip * scale), static_cast<T>(clip * share * now.penalty + now.weight_decay)};
  }
  struct Factors {};
  __device__ Factors factors(const Numbers&, const float*) const { return {}; }

  // buf ← μ buf + g;  p ← p − η (g, buf, or g + μ buf)
  __device__ void apply(const Octets& octets, const Slot<T>& slot, int64_t at, const Numbers& now, Factors,
                        const T (&g)[8], T (&p)[8]) const {
    T buffer[8];
    if (slot.first != nullptr) {
      octets.get(slot.first + at, at, buffer);
    }
    for (int j = 0; j < 8; ++j) {
      T step = g[j];
      if (slot.first != nullptr) {
        buffer[j] = now.momentum * buffer[j] + step;
        step = nesterov ? step + now.momentum * buffer[j] : buffer[j];
      }
      p[j] -= now.lr * step;
    }
    if (slot.first != nullptr) {
      octets.put(slot.first + at, at, buffer);
    }
    octets.put(slot.p + at, at, p);
  }
};

template <typename T>
struct Adam {
  struct Numbers {
    T penalty, weight_decay, m_share, v_keep, v_share, keep, eps;
    double lr, beta1, beta2;
    T size, inverse_correction;  // where the steps are known beforehand
  };

  __device__ Coefficients<T> coefficients(const Numbers& now, double scale, double share, double clip) const {
    return {static_cast<T>(clip * scale), static_cast<T>(clip * share * now.penalty + now.weight_decay)};
  }

  struct Factors {
    T size, inverse_correction;
  };
  __device__ Factors factors(const Numbers& now, const float* steps) const {
    if (steps == nullptr) {
      return {now.size, now.inverse_correction};
    }
    return {static_cast<T>(now.lr / (1 - ::pow(now.beta1, static_cast<double>(*steps)))),
            static_cast<T>(1 / ::sqrt(1 - ::pow(now.beta2, static_cast<double>(*steps))))};
  }

  // m ← m + (1−β₁)(g − m);  v ← β₂ v + (1−β₂) g²;  p ← keep p − size m / (√v / correction + ε)
  __device__ void apply(const Octets& octets, const Slot<T>& slot, int64_t at, const Numbers& now, Factors by,
                        const T (&g)[8], T (&p)[8]) const {
    T m[8], v[8];
    octets.get(slot.first + at, at, m);
    octets.get(slot.second + at, at, v);
    for (int j = 0; j < 8; ++j) {
      m[j] += now.m_share * (g[j] - m[j]);
      v[j] = now.v_keep * v[j] + now.v_share * g[j] * g[j];
      p[j] = now.keep * p[j] - by.size * m[j] / (std::sqrt(v[j]) * by.inverse_correction + now.eps);
    }
    octets.put(slot.first + at, at, m);
    octets.put(slot.second + at, at, v);
    octets.put(slot.p + at, at, p);
  }
};

// dX ← (add ? dX : 0) + grad_scale · ∂J/∂X; p is only read.
template <typename T>
struct Write {
  struct Numbers {
    T penalty;
  };
  bool add;
  double grad_scale;

  __device__ Coefficients<T> coefficients(const Numbers& now, double scale, double share, double) const {
    return {static_cast<T>(grad_scale * scale), static_cast<T>(grad_scale * share * now.penalty)};
  }
  struct Factors {};
  __device__ Factors factors(const Numbers&, const float*) const { return {}; }

  __device__ void apply(const Octets& octets, const Slot<T>& slot, int64_t at, const Numbers&, Factors,
                        const T (&g)[8], T (&)[8]) const {
    T dX[8] = {};
    if (add) {
      octets.get(slot.first + at, at, dX);
    }
    for (int j = 0; j < 8; ++j) {
      dX[j] += g[j];
    }
    octets.put(slot.first + at, at, dX);
  }
};

template <typename T, typename Rule>
struct Update {
  Rule rule;
  Slot<T> slots[kMostParameters];
  typename Rule::Numbers numbers[kMostParameters];
  int count = 0;
  int chunks = 1;
  int64_t stride = 0;  // from the sums of a chunk to those of the next
  RowSums rows;
  T* J = nullptr;
  double clip_norm = std::numeric_limits<double>::infinity();
  double* squares = nullptr;  // of the norm, by blocks: of this launch, and of others for parameters that do not fit in
  int squares_here = 0, squares_count = 0;
};

// f(octets, slot, numbers, index, at, p, Σ_c sums[c]) for each octet of this thread
template <typename T, typename Rule, typename F>
__device__ void for_octets(const Update<T, Rule>& u, const F& f) {
  for (int k = 0; k < u.count; ++k) {
    const Slot<T>& slot = u.slots[k];
    const Octets octets(1, slot.n, slot.whole);
    for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < octets.per_row; i += int64_t(gridDim.x) * kThreads) {
      const int64_t at = 8 * i;
      T p[8], sum[8];
      octets.get(slot.p + at, at, p);
      octets.get(slot.sums + at, at, sum);
      for (int c = 1; c < u.chunks; ++c) {
        T more[8];
        octets.get(slot.sums + c * u.stride + at, at, more);
        for (int j = 0; j < 8; ++j) {
          sum[j] += more[j];
        }
      }
      f(octets, k, at, p, sum);
    }
  }
}

// squares[block] ← Σ (scale Σ_c sums[c] + penalty p)²
template <typename T, typename Rule>
__global__ void __launch_bounds__(kThreads) add_squares(Update<T, Rule> u) {
  const Amount amount = u.rows.losses != nullptr ? objective_of(u.rows).amount : Amount{};
  double total = 0;
  for_octets(u, [&](const Octets&, int k, int64_t at, const T(&p)[8], const T(&sum)[8]) {
    const T a = static_cast<T>(amount.scale), b = static_cast<T>(amount.share) * u.numbers[k].penalty;
    T squares = 0;
    for (int j = 0; j < 8; ++j) {
      const T g = at + j < u.slots[k].n ? a * sum[j] + b * p[j] : T(0);
      squares += g * g;
    }
    total += squares;
  });
  total = reduce<kThreads>(total, Sum());
  if (threadIdx.x == 0) {
    u.squares[u.squares_here + blockIdx.x] = total;
  }
}

template <typename T, typename Rule>
__global__ void __launch_bounds__(kThreads) update_parameters(Update<T, Rule> u) {
  Amount amount;
  if (u.rows.losses != nullptr) {
    const Objective objective = objective_of(u.rows);
    amount = objective.amount;
    if (u.J != nullptr && blockIdx.x == 0 && threadIdx.x == 0) {
      *u.J = static_cast<T>(objective.J);
    }
  }
  double clip = 1;
  if (u.squares != nullptr) {  // torch.nn.utils.clip_grad_norm_'s; a NaN stays one
    const double c = u.clip_norm / (::sqrt(sum_of(u.squares, u.squares_count)) + 1e-6);
    clip = c > 1 ? 1 : c;
  }
  __shared__ typename Rule::Factors factors[kMostParameters];  // two powers, once a block
  if (threadIdx.x < u.count) {
    factors[threadIdx.x] = u.rule.factors(u.numbers[threadIdx.x], u.slots[threadIdx.x].steps);
  }
  __syncthreads();
  for_octets(u, [&](const Octets& octets, int k, int64_t at, T(&p)[8], const T(&sum)[8]) {
    const Coefficients<T> by = u.rule.coefficients(u.numbers[k], amount.scale, amount.share, clip);
    T g[8];
    for (int j = 0; j < 8; ++j) {
      g[j] = by.a * sum[j] + by.b * p[j];
    }
    u.rule.apply(octets, u.slots[k], at, u.numbers[k], factors[k], g, p);
  });
}

template <typename T, typename Rule>
unsigned blocks_of(const Update<T, Rule>& u) {
  int64_t most = 1;
  for (int k = 0; k < u.count; ++k) {
    most = std::max(most, ceil_div(u.slots[k].n, 8 * kThreads));
  }
  return static_cast<unsigned>(std::min<int64_t>(most, kMostBlocks));
}

// One update over all groups: the norm of all of them first, where it is to be clipped.
template <typename T, typename Rule>
void run_updates(std::vector<Update<T, Rule>>& groups, double clip_norm, const Tensor& like, cudaStream_t stream) {
  MaybeTensor squares;
  if (clip_norm != std::numeric_limits<double>::infinity()) {
    int count = 0;
    for (Update<T, Rule>& u : groups) {
      u.squares_here = count;
      count += static_cast<int>(blocks_of(u));
    }
    squares = new_tensor(like, {count}, ScalarType::Double);
    for (Update<T, Rule>& u : groups) {
      u.squares = data<double>(*squares);
      u.squares_count = count;
      u.clip_norm = clip_norm;
      run(add_squares<T, Rule>, blocks_of(u), kThreads, 0, stream, u);
    }
  }
  for (const Update<T, Rule>& u : groups) {
    run(update_parameters<T, Rule>, blocks_of(u), kThreads, 0, stream, u);
  }
}

// The i-th parameter, whose sums (of the first chunk) are given, with its states.
template <typename T>
Slot<T> slot_of(const Tensor& p, const T* sums, int64_t stride, const Tensor* first, const Tensor* second) {
  Slot<T> slot{data<T>(p), sums, first != nullptr ? data<T>(*first) : nullptr,
               second != nullptr ? data<T>(*second) : nullptr, nullptr, p.numel(), false};
  slot.whole = stride % 8 == 0;
  for (const T* t : {static_cast<const T*>(slot.p), slot.sums, static_cast<const T*>(slot.first),
                     static_cast<const T*>(slot.second)}) {
    slot.whole = slot.whole && holds_vectors<8>(t, slot.n);
  }
  return slot;
}

// Steps of Adam: all on the host, which counts them, or all on the device, where a captured graph goes on counting.
class StepCounters {
 public:
  StepCounters(const char* op, const Tensors& step, cudaStream_t stream);

  template <typename T>
  void put(size_t i, const AdamHyper& now, Slot<T>& slot, typename Adam<T>::Numbers& numbers) const {
    if (on_device_) {
      slot.steps = const_data<float>(step_[i]);
      return;
    }
    const double steps = static_cast<double>(*const_data<float>(step_[i])) + 1;
    numbers.size = static_cast<T>(now.lr / (1 - std::pow(now.beta1, steps)));
    numbers.inverse_correction = static_cast<T>(1 / std::sqrt(1 - std::pow(now.beta2, steps)));
  }

  // Before the update reads those on the device;
  void advance_on_device() const;
  // after it has been launched, those on the host.
  void advance_on_host() const;

 private:
  const Tensors& step_;
  cudaStream_t stream_;
  bool on_device_;
};

template <typename T>
typename Sgd<T>::Numbers sgd_numbers(const SgdHyper& now) {
  return {static_cast<T>(now.penalty), static_cast<T>(now.lr), static_cast<T>(now.weight_decay),
          static_cast<T>(now.momentum)};
}

template <typename T>
typename Adam<T>::Numbers adam_numbers(const AdamHyper& now, bool decoupled) {
  return {static_cast<T>(now.penalty), static_cast<T>(decoupled ? 0 : now.weight_decay),
          static_cast<T>(1 - now.beta1), static_cast<T>(now.beta2), static_cast<T>(1 - now.beta2),
          static_cast<T>(decoupled ? 1 - now.lr * now.weight_decay : 1), static_cast<T>(now.eps),
          now.lr, now.beta1, now.beta2, 0, 0};
}

}  // namespace tmb::cuda
