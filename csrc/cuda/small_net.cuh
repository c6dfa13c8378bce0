// The arithmetic of a net so small that its weights fit in a block's shared memory: forward and backward pass in one
// kernel. A block takes a chunk of the rows, 16 at a time; each product is made by all of its threads, as 16 × 16.
#pragma once

#include "../cross_entropy.h"
#include "../elementwise_losses.h"
#include "labels.cuh"
#include "update.cuh"

namespace tmb {

constexpr int kSide = 16;  // threads of a block's side; rows of a tile
static_assert(kSide * kSide == kThreads);

alignas(16) extern __shared__ unsigned char dynamic_shared[];

// Contiguous; a null bias is none, null weights are 1.
template <typename T>
struct RowPass {
  const T *x, *w1, *b1, *w2, *b2;
  const void* y;
  const T *row_weight, *class_weight;
  int64_t B;
  int d, h, q;
  Activation activation;
  LossKind loss;
  double smoothing;
  int64_t ignore_index;
  Wanted wanted;
  bool penalised;  // whether ‖W1‖² + ‖W2‖² is asked for

  // what is written, one chunk after the other
  RowSums* row_sums;
  T* sums;
  int64_t stride, db1, dw2, db2;  // of a chunk's sums, which start with dW1
};

// What a block holds in shared memory: matrices whose rows are an odd number of elements apart, so that neither
// neighbours of a row nor of a column share a bank.
template <typename T>
struct Resident {
  int d_pitch, h_pitch, q_pitch;
  T *w1, *w2;                    // (h,d), (q,h)
  T *x, *hidden, *slope, *output;  // (16,d); (16,h): Z, then H; (16,h): φ′(Z), then ∂L/∂Z; (16,q): O, then Ĝ

  TMB_INLINE Resident(T* start, int d, int h, int q) : d_pitch(d | 1), h_pitch(h | 1), q_pitch(q | 1) {
    w1 = start;
    w2 = w1 + h * d_pitch;
    x = w2 + q * h_pitch;
    hidden = x + kSide * d_pitch;
    slope = hidden + kSide * h_pitch;
    output = slope + kSide * h_pitch;
  }
  TMB_INLINE T* end() const { return output + kSide * q_pitch; }

  static size_t bytes(int64_t d, int64_t h, int64_t q) {
    const Resident none(nullptr, static_cast<int>(d), static_cast<int>(h), static_cast<int>(q));
    return reinterpret_cast<uintptr_t>(none.end());
  }
};

// A matrix in shared memory; across: from one row or column of the product to the next, along: to the next term.
template <typename T>
struct Operand {
  const T* start;
  int across, along;
};

// sum[a][b] += Σ_k left[m][k] right[k][n], m = 16 a + this thread's y, n = 16 b + its x. Beyond M and N it repeats the
// last row or column, of which nobody makes use.
template <int A, int B, typename T>
__device__ __forceinline__ void multiply(T (&sum)[A][B], Operand<T> left, Operand<T> right, int M, int N, int K) {
  const int x = threadIdx.x % kSide, y = threadIdx.x / kSide;
  int row[A], column[B];
#pragma unroll
  for (int a = 0; a < A; ++a) {
    row[a] = min(kSide * a + y, M - 1) * left.across;
  }
#pragma unroll
  for (int b = 0; b < B; ++b) {
    column[b] = min(kSide * b + x, N - 1) * right.across;
  }
  for (int k = 0; k < K; ++k) {
    T r[B];
#pragma unroll
    for (int b = 0; b < B; ++b) {
      r[b] = right.start[column[b] + k * right.along];
    }
#pragma unroll
    for (int a = 0; a < A; ++a) {
      const T l = left.start[row[a] + k * left.along];
#pragma unroll
      for (int b = 0; b < B; ++b) {
        sum[a][b] += l * r[b];
      }
    }
  }
}

// f(m, n, its value) for those elements of a product that this thread has made.
template <int A, int B, typename T, typename F>
__device__ __forceinline__ void for_own(const T (&sum)[A][B], int M, int N, F f) {
  const int x = threadIdx.x % kSide, y = threadIdx.x / kSide;
#pragma unroll
  for (int a = 0; a < A; ++a) {
#pragma unroll
    for (int b = 0; b < B; ++b) {
      if (kSide * a + y < M && kSide * b + x < N) {
        f(kSide * a + y, kSide * b + x, sum[a][b]);
      }
    }
  }
}

// A warp a row.
template <typename T>
__device__ void copy_rows(const T* from, int rows, int columns, T* to, int pitch) {
  for (int row = threadIdx.x / kWarp; row < rows; row += kThreads / kWarp) {
    for (int k = threadIdx.x % kWarp; k < columns; k += kWarp) {
      to[row * pitch + k] = from[row * columns + k];
    }
  }
}

// hidden ← φ(Z), slope ← φ′(Z), where hidden holds Z: of those elements that this thread has written itself.
template <Activation A, typename T>
__device__ void activate_own(T* hidden, T* slope, int n) {
  for (int k = threadIdx.x % kSide; k < n; k += kSide) {
    const T z = hidden[k];
    hidden[k] = Phi<A>::value(z);
    slope[k] = Phi<A>::slope(z);
  }
}

// All threads of a block take the same branch: one kernel with eleven short loops, where eleven kernels would take
// eleven times as long to compile and to load.
template <typename T>
__device__ __forceinline__ void activate_own(Activation activation, T* hidden, T* slope, int n) {
  switch (activation) {
#define TMB_CASE(name)                                     \
  case Activation::name:                                   \
    activate_own<Activation::name>(hidden, slope, n);      \
    break;
    TMB_ACTIVATIONS(TMB_CASE)
#undef TMB_CASE
  }
}

struct RowLoss {
  double loss, weight;
};

constexpr int kMostColumns = 128;
constexpr int kLaneColumns = kMostColumns / kWarp;

// o ← Ĝ of one row, by a warp.
template <typename T>
__device__ RowLoss cross_entropy_row(const RowPass<T>& a, int64_t b, T* o, double class_weight_sum) {
  const int lane = threadIdx.x % kWarp;
  const int64_t y = static_cast<const int64_t*>(a.y)[b];
  if (y == a.ignore_index) {
    for (int k = lane; k < a.q; k += kWarp) {
      o[k] = 0;
    }
    return {0, 0};
  }
  CUDA_KERNEL_ASSERT(!is_bad(y, a.q, a.ignore_index) && "y must hold labels in [0, q)");
  const T x_y = o[y];
  T e[kLaneColumns], top = std::numeric_limits<T>::lowest();  // finite, so that −∞ − top is no NaN
  for (int i = 0; i < kLaneColumns; ++i) {
    const int k = lane + kWarp * i;
    e[i] = k < a.q ? o[k] : -std::numeric_limits<T>::infinity();
    top = Max()(top, e[i]);
  }
  top = reduce<kWarp>(top, Max());
  T mass = 0;
  double below_top = 0;  // Σ_k w_k (top − x_k)
  for (int i = 0; i < kLaneColumns; ++i) {
    const int k = lane + kWarp * i;
    if (k < a.q) {
      below_top += (a.class_weight != nullptr ? a.class_weight[k] : T(1)) * (top - e[i]);
      e[i] = exp_nonpositive(e[i] - top);
      mass += e[i];
    }
  }
  mass = reduce<kWarp>(mass, Sum());  // every lane has read x_y by now
  below_top = reduce<kWarp>(below_top, Sum());
  const double r = a.row_weight != nullptr ? a.row_weight[b] : T(1);
  const double w_y = a.class_weight != nullptr ? a.class_weight[y] : T(1);
  const TargetMass t(a.smoothing, a.q, w_y, class_weight_sum);
  const RowGradient<T> G(t, r, mass);
  for (int i = 0; i < kLaneColumns; ++i) {
    const int k = lane + kWarp * i;
    if (k < a.q) {
      const T w_k = a.class_weight != nullptr ? a.class_weight[k] : T(1);
      o[k] = k == y ? G.at_label(e[i], w_k) : G.at(e[i], w_k);
    }
  }
  return {r * t.loss(::log(static_cast<double>(mass)), static_cast<double>(top) - x_y, below_top), r * w_y};
}

template <typename Loss, typename T>
__device__ RowLoss elementwise_row(const RowPass<T>& a, int64_t b, T* o) {
  const T* const y = static_cast<const T*>(a.y) + b * a.q;
  const T r = a.row_weight != nullptr ? a.row_weight[b] : T(1);
  double loss = 0;
  for (int k = threadIdx.x % kWarp; k < a.q; k += kWarp) {
    const LossTerm<T> term = Loss::at(o[k], y[k]);
    o[k] = r * term.gradient;
    loss += r * term.loss;
  }
  return {reduce<kWarp>(loss, Sum()), static_cast<double>(r)};
}

template <typename T>
__device__ __forceinline__ RowLoss loss_row(const RowPass<T>& a, int64_t b, T* o, double class_weight_sum) {
  switch (a.loss) {
    case LossKind::cross_entropy:
      return cross_entropy_row(a, b, o, class_weight_sum);
    case LossKind::mse:
      return elementwise_row<SquaredError>(a, b, o);
    default:
      return elementwise_row<BinaryCrossEntropy>(a, b, o);
  }
}

// Σ w² over this block's share of n elements, of this thread.
template <typename T>
__device__ double own_squares(const T* w, int n) {
  double squares = 0;
  for (int i = blockIdx.x * kThreads + threadIdx.x; i < n; i += gridDim.x * kThreads) {
    squares += static_cast<double>(w[i]) * w[i];
  }
  return squares;
}

// The sums of chunk blockIdx.x. P and Q: d, h ≤ 16 P and q ≤ 16 Q; dW1 and dW2 stay in registers till the end.
template <typename T, int P, int Q>
__global__ void __launch_bounds__(kThreads) gradient_rows(const RowPass<T> a) {
  const Resident<T> s(reinterpret_cast<T*>(dynamic_shared), a.d, a.h, a.q);
  const int y = threadIdx.x / kSide, warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  copy_rows(a.w1, a.h, a.d, s.w1, s.d_pitch);
  copy_rows(a.w2, a.q, a.h, s.w2, s.h_pitch);
  double class_weight_sum = a.q;
  if (a.class_weight != nullptr) {
    class_weight_sum = 0;
    for (int k = lane; k < a.q; k += kWarp) {
      class_weight_sum += a.class_weight[k];
    }
    class_weight_sum = reduce<kWarp>(class_weight_sum, Sum());
  }

  T dw1[P][P] = {}, dw2[Q][P] = {};
  // One half of the block sums the columns of Ĝ, the other those of ∂L/∂Z.
  const bool of_output = threadIdx.x < kMostColumns;
  const int column = threadIdx.x % kMostColumns;
  T column_sum = 0;
  RowLoss total{0, 0};
  for (int64_t first = int64_t(blockIdx.x) * kSide; first < a.B; first += int64_t(gridDim.x) * kSide) {
    const int n = static_cast<int>(min(int64_t(kSide), a.B - first));
    copy_rows(a.x + first * a.d, n, a.d, s.x, s.d_pitch);
    __syncthreads();

    T z[1][P] = {};  // Z = X W1ᵀ + 1 b1ᵀ
    multiply<1, P, T>(z, {s.x, s.d_pitch, 1}, {s.w1, s.d_pitch, 1}, n, a.h, a.d);
    for_own(z, n, a.h, [&](int m, int k, T value) {
      s.hidden[m * s.h_pitch + k] = a.b1 != nullptr ? value + a.b1[k] : value;
    });
    if (y < n) {
      activate_own(a.activation, s.hidden + y * s.h_pitch, s.slope + y * s.h_pitch, a.h);
    }
    __syncthreads();

    T o[1][Q] = {};  // O = H W2ᵀ + 1 b2ᵀ
    multiply<1, Q, T>(o, {s.hidden, s.h_pitch, 1}, {s.w2, s.h_pitch, 1}, n, a.q, a.h);
    for_own(o, n, a.q, [&](int m, int k, T value) {
      s.output[m * s.q_pitch + k] = a.b2 != nullptr ? value + a.b2[k] : value;
    });
    __syncthreads();

    for (int row = warp; row < n; row += kThreads / kWarp) {
      const RowLoss own = loss_row(a, first + row, s.output + row * s.q_pitch, class_weight_sum);
      total.loss += own.loss;
      total.weight += own.weight;
    }
    __syncthreads();

    if (a.wanted.hidden()) {
      T dh[1][P] = {};  // ∂L/∂H = Ĝ W2, ∂L/∂Z = φ′(Z) ⊙ ∂L/∂H
      multiply<1, P, T>(dh, {s.output, s.q_pitch, 1}, {s.w2, 1, s.h_pitch}, n, a.h, a.q);
      for_own(dh, n, a.h, [&](int m, int k, T value) { s.slope[m * s.h_pitch + k] *= value; });
    }
    if (a.wanted.dw2) {  // dW2 += Ĝᵀ H
      multiply<Q, P, T>(dw2, {s.output, 1, s.q_pitch}, {s.hidden, 1, s.h_pitch}, a.q, a.h, n);
    }
    __syncthreads();

    if (a.wanted.dw1) {  // dW1 += ∂L/∂Zᵀ X
      multiply<P, P, T>(dw1, {s.slope, 1, s.h_pitch}, {s.x, 1, s.d_pitch}, a.h, a.d, n);
    }
    if (column < (of_output ? a.q : a.h)) {
      const T* const at = of_output ? s.output + column : s.slope + column;
      const int pitch = of_output ? s.q_pitch : s.h_pitch;
      for (int row = 0; row < n; ++row) {
        column_sum += at[row * pitch];
      }
    }
    __syncthreads();  // the next tile writes over this one
  }

  T* const sums = a.sums + blockIdx.x * a.stride;
  for_own(dw1, a.h, a.d, [&](int m, int k, T value) { sums[m * a.d + k] = value; });
  for_own(dw2, a.q, a.h, [&](int m, int k, T value) { sums[a.dw2 + m * a.h + k] = value; });
  if (column < (of_output ? a.q : a.h)) {
    sums[(of_output ? a.db2 : a.db1) + column] = column_sum;
  }
  // each lane of a warp has its warp's sums
  const double loss = reduce<kThreads>(lane == 0 ? total.loss : 0, Sum());
  const double weight = reduce<kThreads>(lane == 0 ? total.weight : 0, Sum());
  double squares = a.penalised ? own_squares(a.w1, a.h * a.d) + own_squares(a.w2, a.q * a.h) : 0;
  squares = reduce<kThreads>(squares, Sum());
  if (threadIdx.x == 0) {
    a.row_sums[blockIdx.x] = {loss, weight, squares};
  }
}

}  // namespace tmb
