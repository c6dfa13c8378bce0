// Forward and backward pass of a net so small that a launch costs more than its arithmetic: one kernel, with the weights
// in shared memory.
//
// A block takes a chunk of rows, a tile of kTileRows at a time, and leaves the chunk's sums; all products are made by one
// function, in registers. Chunks depend on the shape alone, so the sums have a fixed order.
#pragma once

#include "../cross_entropy.h"
#include "../elementwise_losses.h"
#include "../net_arguments.h"
#include "labels.cuh"
#include "reduce.cuh"

namespace tmb::cuda {

constexpr int kSide = 16;  // a block's threads are kSide × kSide
static_assert(kSide * kSide == kThreads);
constexpr int kTileRows = kSide;
constexpr int kMostChunks = 128;

// Widths up to kSide · P; a thread then has P × P numbers of each product of two weights' size.
template <typename T>
constexpr int kMostWidth = sizeof(T) == 4 ? 128 : 64;

template <typename T>
struct SmallNet {
  const T *x, *w1, *b1, *w2, *b2;  // a null bias is none
  int64_t rows;
  int d, h, q;
  Activation activation;
};

template <typename T>
struct SmallLoss {
  LossKind kind;
  const int64_t* labels;                // of cross-entropy
  const T* targets;                     // of the others
  const T *row_weight, *class_weight;   // null: 1
  double smoothing;
  int64_t ignore_index;
};

// Where a chunk leaves its sums: those of the parameters at these offsets from chunk · stride on; Σ r l, N, and its share
// of ‖W1‖² + ‖W2‖², where that is wanted.
template <typename T>
struct ChunkSums {
  T* sums;
  int64_t stride, at[4];  // w1, b1, w2, b2
  double *losses, *weights, *norms;
  bool penalised;
};

// Shared memory, in elements. A row of a matrix begins an odd number of elements after the one before: threads that read
// down a column then meet different banks.
struct Layout {
  int d, h, q;                         // pitches
  int w1, w2, b1, b2, x, slope, hidden, g, size;

  TMB_INLINE Layout(int d_, int h_, int q_) : d(d_ | 1), h(h_ | 1), q(q_ | 1) {
    w1 = 0;
    w2 = w1 + h_ * d;
    b1 = w2 + q_ * h;
    b2 = b1 + h_;
    x = b2 + q_;
    slope = x + kTileRows * d;
    hidden = slope + kTileRows * h;
    g = hidden + kTileRows * h;
    size = g + kTileRows * q;
  }
};

// A matrix in shared memory as the first or second factor of a product: element (m, k) or (k, n).
template <typename T>
struct Factor {
  const T* at;
  int by_first, by_second;
};

// sum[i][j] += Σ_k A(m_i, k) B(k, n_j), m_i = row + kSide i < M, n_j = column + kSide j < N. What lies beyond is a copy of
// the last, which nobody reads.
template <int PM, int PN, typename T>
__device__ __forceinline__ void add_product(T (&sum)[PM][PN], Factor<T> A, Factor<T> B, int M, int N, int K) {
  const int row = threadIdx.x / kSide, column = threadIdx.x % kSide;
  const T *a[PM], *b[PN];
#pragma unroll
  for (int i = 0; i < PM; ++i) {
    a[i] = A.at + min(row + kSide * i, M - 1) * A.by_first;
  }
#pragma unroll
  for (int j = 0; j < PN; ++j) {
    b[j] = B.at + min(column + kSide * j, N - 1) * B.by_second;
  }
#pragma unroll 4
  for (int k = 0; k < K; ++k) {
    T left[PM], right[PN];
#pragma unroll
    for (int i = 0; i < PM; ++i) {
      left[i] = a[i][k * A.by_second];
    }
#pragma unroll
    for (int j = 0; j < PN; ++j) {
      right[j] = b[j][k * B.by_first];
    }
#pragma unroll
    for (int i = 0; i < PM; ++i) {
#pragma unroll
      for (int j = 0; j < PN; ++j) {
        sum[i][j] += left[i] * right[j];
      }
    }
  }
}

// f(m, n, sum) for those of this thread's numbers that there are
template <int PM, int PN, typename T, typename F>
__device__ __forceinline__ void for_each(const T (&sum)[PM][PN], int M, int N, const F& f) {
  const int row = threadIdx.x / kSide, column = threadIdx.x % kSide;
#pragma unroll
  for (int i = 0; i < PM; ++i) {
#pragma unroll
    for (int j = 0; j < PN; ++j) {
      const int m = row + kSide * i, n = column + kSide * j;
      if (m < M && n < N) {
        f(m, n, sum[i][j]);
      }
    }
  }
}

template <typename T>
struct Point {
  T value, slope;
};

// φ and φ′; all threads of a launch take the same branch.
template <typename T>
__device__ Point<T> phi_of(Activation activation, T z) {
  switch (activation) {
#define TMB_CASE(A)   \
  case Activation::A: \
    return {Phi<Activation::A>::value(z), Phi<Activation::A>::slope(z)};
    TMB_ACTIVATIONS(TMB_CASE)
#undef TMB_CASE
  }
  return {z, T(1)};
}

// What the rows of a warp have of the loss; the same in each of its lanes.
struct RowTotals {
  double loss = 0, weight = 0;
};

// o ← Ĝ for one row, by a warp.
template <typename T>
__device__ void cross_entropy_row(T* o, int q, const SmallLoss<T>& loss, int64_t b, double class_weight_sum,
                                  RowTotals& totals) {
  const int lane = threadIdx.x % kWarp;
  const int64_t y = loss.labels[b];
  if (y == loss.ignore_index) {
    for (int k = lane; k < q; k += kWarp) {
      o[k] = 0;
    }
    return;
  }
  CUDA_KERNEL_ASSERT(!is_bad(y, q, loss.ignore_index) && "step: y must hold labels in [0, q)");
  T top = std::numeric_limits<T>::lowest();
  for (int k = lane; k < q; k += kWarp) {
    top = Max()(top, o[k]);
  }
  top = reduce<kWarp>(top, Max());
  T mass = 0, below_top = 0;
  for (int k = lane; k < q; k += kWarp) {
    mass += exp_nonpositive(o[k] - top);
    below_top += (loss.class_weight != nullptr ? loss.class_weight[k] : T(1)) * (top - o[k]);
  }
  mass = reduce<kWarp>(mass, Sum());
  below_top = reduce<kWarp>(below_top, Sum());
  const double r = loss.row_weight != nullptr ? loss.row_weight[b] : T(1);
  const double w_y = loss.class_weight != nullptr ? loss.class_weight[y] : T(1);
  const TargetMass t(loss.smoothing, q, w_y, class_weight_sum);
  totals.loss += r * t.loss(::log(static_cast<double>(mass)), static_cast<double>(top) - o[y], below_top);
  totals.weight += r * w_y;
  const RowGradient<T> G(t, r, mass);
  __syncwarp();  // o[y] has been read
  for (int k = lane; k < q; k += kWarp) {
    const T e = exp_nonpositive(o[k] - top), w = loss.class_weight != nullptr ? loss.class_weight[k] : T(1);
    o[k] = k == y ? G.at_label(e, w) : G.at(e, w);
  }
}

template <typename Loss, typename T>
__device__ void elementwise_row(T* o, int q, const SmallLoss<T>& loss, int64_t b, RowTotals& totals) {
  const T r = loss.row_weight != nullptr ? loss.row_weight[b] : T(1);
  T sum = 0;
  for (int k = threadIdx.x % kWarp; k < q; k += kWarp) {
    const LossTerm<T> term = Loss::at(o[k], loss.targets[b * q + k]);
    o[k] = r * term.gradient;
    sum += r * term.loss;
  }
  totals.loss += reduce<kWarp>(static_cast<double>(sum), Sum());
  totals.weight += r;
}

template <typename T>
__device__ void loss_row(T* o, int q, const SmallLoss<T>& loss, int64_t b, double class_weight_sum, RowTotals& totals) {
  switch (loss.kind) {
    case LossKind::cross_entropy:
      return cross_entropy_row(o, q, loss, b, class_weight_sum, totals);
    case LossKind::mse:
      return elementwise_row<SquaredError>(o, q, loss, b, totals);
    case LossKind::bce_with_logits:
      return elementwise_row<BinaryCrossEntropy>(o, q, loss, b, totals);
  }
}

// to (rows, columns) in shared memory ← from, of which the first rows are there; zeros in the others
template <typename T>
__device__ void copy_rows(T* to, int pitch, const T* from, int rows, int there, int columns) {
  for (int i = threadIdx.x; i < rows * columns; i += kThreads) {
    const int row = i / columns;
    to[row * pitch + i % columns] = row < there ? from[i] : T(0);
  }
}

template <typename T>
__device__ double squares_of_slice(const T* w, int64_t n) {
  double sum = 0;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < n; i += int64_t(gridDim.x) * kThreads) {
    sum += static_cast<double>(w[i]) * w[i];
  }
  return sum;
}

extern __shared__ __align__(16) unsigned char dynamic_shared[];

template <typename T, int P>
__global__ void __launch_bounds__(kThreads) gradient_rows(SmallNet<T> net, SmallLoss<T> loss, ChunkSums<T> out) {
  T* const shared = reinterpret_cast<T*>(dynamic_shared);
  const int d = net.d, h = net.h, q = net.q, warp = threadIdx.x / kWarp;
  const Layout at(d, h, q);
  T *const w1 = shared + at.w1, *const w2 = shared + at.w2, *const b1 = shared + at.b1, *const b2 = shared + at.b2;
  T *const x = shared + at.x, *const slope = shared + at.slope, *const hidden = shared + at.hidden, *const g = shared + at.g;
  copy_rows(w1, at.d, net.w1, h, h, d);
  copy_rows(w2, at.h, net.w2, q, q, h);
  copy_rows(b1, 0, net.b1, 1, net.b1 != nullptr, h);
  copy_rows(b2, 0, net.b2, 1, net.b2 != nullptr, q);
  double class_weight_sum = q;
  if (loss.class_weight != nullptr) {
    class_weight_sum = 0;
    for (int k = threadIdx.x % kWarp; k < q; k += kWarp) {
      class_weight_sum += loss.class_weight[k];
    }
    class_weight_sum = reduce<kWarp>(class_weight_sum, Sum());
  }

  T dw1[P][P] = {}, dw2[P][P] = {}, db1 = 0, db2 = 0;
  RowTotals totals;
  const int64_t tiles = ceil_div(net.rows, kTileRows), per_chunk = ceil_div(tiles, gridDim.x);
  const int64_t end = min((blockIdx.x + 1) * per_chunk, tiles);
  for (int64_t tile = blockIdx.x * per_chunk; tile < end; ++tile) {
    const int64_t begin = tile * kTileRows;
    const int rows = static_cast<int>(min(net.rows - begin, int64_t(kTileRows)));
    copy_rows(x, at.d, net.x + begin * d, kTileRows, rows, d);
    __syncthreads();

    T z[1][P] = {};  // Z = X W1ᵀ + 1 b1ᵀ, H = φ(Z)
    add_product(z, Factor<T>{x, at.d, 1}, Factor<T>{w1, 1, at.d}, kTileRows, h, d);
    for_each(z, kTileRows, h, [&](int r, int j, T sum) {
      const Point<T> phi = phi_of(net.activation, sum + b1[j]);
      hidden[r * at.h + j] = phi.value;
      slope[r * at.h + j] = phi.slope;
    });
    __syncthreads();

    T o[1][P] = {};  // O = H W2ᵀ + 1 b2ᵀ
    add_product(o, Factor<T>{hidden, at.h, 1}, Factor<T>{w2, 1, at.h}, kTileRows, q, h);
    for_each(o, kTileRows, q, [&](int r, int k, T sum) { g[r * at.q + k] = sum + b2[k]; });
    __syncthreads();

    for (int r = warp; r < kTileRows; r += kThreads / kWarp) {  // Ĝ
      if (r < rows) {
        loss_row(g + r * at.q, q, loss, begin + r, class_weight_sum, totals);
      } else {
        for (int k = threadIdx.x % kWarp; k < q; k += kWarp) {
          g[r * at.q + k] = 0;
        }
      }
    }
    __syncthreads();

    T dh[1][P] = {};  // dH = dO W2, dZ = φ′(Z) ⊙ dH
    add_product(dh, Factor<T>{g, at.q, 1}, Factor<T>{w2, at.h, 1}, kTileRows, h, q);
    T* const dz = slope;
    for_each(dh, kTileRows, h, [&](int r, int j, T sum) { dz[r * at.h + j] *= sum; });
    add_product(dw2, Factor<T>{g, 1, at.q}, Factor<T>{hidden, at.h, 1}, q, h, kTileRows);  // dW2 = dOᵀ H
    for (int r = 0; threadIdx.x < q && r < kTileRows; ++r) {
      db2 += g[r * at.q + threadIdx.x];  // db2 = dOᵀ 1
    }
    __syncthreads();

    add_product(dw1, Factor<T>{dz, 1, at.h}, Factor<T>{x, at.d, 1}, h, d, kTileRows);  // dW1 = dZᵀ X
    for (int r = 0; threadIdx.x < h && r < kTileRows; ++r) {
      db1 += dz[r * at.h + threadIdx.x];  // db1 = dZᵀ 1
    }
    __syncthreads();
  }

  T* const sums = out.sums + blockIdx.x * out.stride;
  for_each(dw1, h, d, [&](int j, int i, T sum) { sums[out.at[0] + j * d + i] = sum; });
  for_each(dw2, q, h, [&](int k, int j, T sum) { sums[out.at[2] + k * h + j] = sum; });
  if (threadIdx.x < h) {
    sums[out.at[1] + threadIdx.x] = db1;
  }
  if (threadIdx.x < q) {
    sums[out.at[3] + threadIdx.x] = db2;
  }
  const bool speaks = threadIdx.x % kWarp == 0;  // for its warp
  const double total_loss = reduce<kThreads>(speaks ? totals.loss : 0.0, Sum());
  const double total_weight = reduce<kThreads>(speaks ? totals.weight : 0.0, Sum());
  const double norms = reduce<kThreads>(
      out.penalised ? squares_of_slice(net.w1, h * d) + squares_of_slice(net.w2, q * h) : 0.0, Sum());
  if (threadIdx.x == 0) {
    out.losses[blockIdx.x] = total_loss;
    out.weights[blockIdx.x] = total_weight;
    out.norms[blockIdx.x] = norms;
  }
}

}  // namespace tmb::cuda
