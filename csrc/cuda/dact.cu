// dz = φ′ ⊙ dh in place, and db1 = dzᵀ 1 in the same pass.
//
// Stage 1: a block takes a chunk of rows of a strip of columns, and leaves the chunk's column sums. Stage 2 adds the
// chunks in double. No atomics: chunks depend on the shape alone, and all orders are fixed.
#include <torch/csrc/stable/ops.h>

#include "octets.cuh"

namespace tmb {
namespace {

// At most 1024 rows a chunk bound the error of its sums; at least 8 rows a thread, and 512 chunks at most while that
// allows it, bound the share of partial sums in the traffic.
constexpr int kLeastWalk = 8;
constexpr int64_t kMostChunks = 512, kMostRows = 1024;

template <typename T, Kind K>
constexpr int kDactAtOnce = kOctetsAtOnce<T, K == Kind::mask ? 1 : 2>;

// What a thread loads of saved for an octet of dh: an octet, or the byte that holds its bits.
template <Kind K, typename T>
using Saved = std::conditional_t<K == Kind::mask, uint8_t, Vector<T, 8>>;

template <Kind K, bool kWhole, typename S>
__device__ __forceinline__ auto get_saved(const S* saved, const Octets& octets, int64_t row, int64_t column,
                                          int64_t offset, int length) {
  if constexpr (K == Kind::mask) {
    return saved[row * octets.per_row + column / 8];
  } else {
    return get<kWhole>(saved + offset, length);
  }
}

// slope ← φ′ of the octet
template <Activation A, Kind K, typename T>
__device__ __forceinline__ void slopes(const Saved<K, T>& saved, Wide<T> (&slope)[8]) {
  if constexpr (K == Kind::mask) {
    for (int j = 0; j < 8; ++j) {
      slope[j] = slope_from<A, K>(static_cast<Wide<T>>(saved >> j & 1u));
    }
  } else {
    widen(saved, slope);
    for (int j = 0; j < 8; ++j) {
      slope[j] = static_cast<Wide<T>>(slope_from<A, K>(Arithmetic<T>(slope[j])));
    }
  }
}

// sums: (chunks, columns), or null if they are not wanted
template <typename T, Activation A, Kind K, bool kWhole, typename S>
__global__ void __launch_bounds__(kThreads) dact_chunks(T* dh, const S* saved, Wide<T>* sums, Octets octets) {
  using C = Wide<T>;
  constexpr int kAtOnce = kDactAtOnce<T, K>;
  Walk walk(octets);
  C sum[8] = {};
  if (walk.in_columns(octets)) {
    for (; walk.row < walk.last; walk.advance(octets, kAtOnce)) {
      Vector<T, 8> d[kAtOnce];
      Saved<K, T> kept[kAtOnce];
      TMB_UNROLL
      for (int u = 0; u < kAtOnce; ++u) {
        const int64_t at = walk.offset + u * walk.stride;
        if (at < octets.size) {
          const int length = walk.length(octets, at);
          d[u] = get<kWhole>(dh + at, length);
          kept[u] = get_saved<K, kWhole>(saved, octets, walk.row + u * int64_t(octets.block_rows), walk.column, at,
                                         length);
        }
      }
      TMB_UNROLL
      for (int u = 0; u < kAtOnce; ++u) {
        const int64_t at = walk.offset + u * walk.stride;
        if (at < octets.size) {
          C x[8], slope[8];
          widen(d[u], x);
          slopes<A, K, T>(kept[u], slope);
          for (int j = 0; j < 8; ++j) {
            x[j] *= slope[j];
            sum[j] += x[j];
          }
          if constexpr (A != Activation::identity) {
            put<kWhole>(dh + at, walk.length(octets, at), narrow<T>(x));
          }
        }
      }
    }
  }
  if (sums == nullptr) {
    return;
  }
  __shared__ C shared[8][kThreads];
  const unsigned thread = threadIdx.y * blockDim.x + threadIdx.x;
  for (int j = 0; j < 8; ++j) {
    shared[j][thread] = sum[j];
  }
  for (unsigned half = blockDim.y / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.y < half) {
      for (int j = 0; j < 8; ++j) {
        shared[j][thread] += shared[j][thread + half * blockDim.x];
      }
    }
  }
  if (threadIdx.y == 0 && walk.in_columns(octets)) {
    for (int j = 0; j < min(octets.columns - walk.column, int64_t(8)); ++j) {
      sums[walk.chunk * octets.columns + walk.column + j] = shared[j][thread];
    }
  }
}

// db ← Σ over chunks; a block of kWarp × kWarp threads takes kWarp columns.
template <typename T>
__global__ void __launch_bounds__(kWarp * kWarp)
    add_chunks(const Wide<T>* sums, int64_t chunks, int64_t columns, T* db) {
  __shared__ double shared[kWarp][kWarp];
  const int64_t column = int64_t(blockIdx.x) * kWarp + threadIdx.x;
  double sum = 0;
  if (column < columns) {
    for (int64_t chunk = threadIdx.y; chunk < chunks; chunk += kWarp) {
      sum += sums[chunk * columns + column];
    }
  }
  shared[threadIdx.y][threadIdx.x] = sum;
  for (unsigned half = kWarp / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.y < half) {
      shared[threadIdx.y][threadIdx.x] += shared[threadIdx.y + half][threadIdx.x];
    }
  }
  if (threadIdx.y == 0 && column < columns) {
    db[column] = static_cast<T>(static_cast<Wide<T>>(shared[0][threadIdx.x]));
  }
}

template <typename T, Kind K>
void launch(const Tensor& dh, const Tensor& saved, Activation activation, const Tensor* db) {
  using C = Wide<T>;
  using S = std::conditional_t<K == Kind::mask, uint8_t, T>;
  const OnDeviceOf device(dh);
  const int64_t columns = dh.size(1);
  T* const dh_data = data<T>(dh);
  const S* const saved_data = const_data<S>(saved);
  const bool flat = db == nullptr && K != Kind::mask;
  const int64_t run_length = flat ? dh.numel() : columns;
  const bool whole =
      holds_vectors<8>(dh_data, run_length) && (K == Kind::mask || holds_vectors<8>(saved_data, run_length));
  const Octets octets = flat ? Octets::flat(dh.numel(), kDactAtOnce<T, K>)
                             : Octets(dh.size(0), columns, kLeastWalk, kMostChunks, kMostRows);
  MaybeTensor sums;
  if (db != nullptr) {
    sums = new_tensor(dh, {octets.chunks(), columns}, wide_type(dh.scalar_type()));
  }
  C* const sums_data = db != nullptr ? data<C>(*sums) : nullptr;

  with_bool(whole, [&](auto whole) {
#define TMB_CASE(A)                                                                                           \
  case Activation::A:                                                                                         \
    return run(dact_chunks<T, Activation::A, K, decltype(whole)::value, S>, octets.grid(), octets.block(), 0, \
               device.stream(), dh_data, saved_data, sums_data, octets);
    if constexpr (K == Kind::z) {
      switch (activation) { TMB_ACTIVATIONS(TMB_CASE) }
    } else if constexpr (K == Kind::h) {
      switch (activation) {
        TMB_ACTIVATIONS_FROM_OUTPUT(TMB_CASE)
        default:
          return;  // check_dact has refused this pair
      }
    } else {
      switch (activation) {
        TMB_ACTIVATIONS_BINARY(TMB_CASE)
        default:
          return;
      }
    }
#undef TMB_CASE
  });

  if (db != nullptr) {
    run(add_chunks<T>, blocks(columns, kWarp), dim3(kWarp, kWarp), 0, device.stream(), sums_data, octets.chunks(),
        columns, data<T>(*db));
  }
}

void dispatch(const Tensor& dh, const Tensor& saved, Activation a, int64_t kind, const Tensor* db) {
  if (dh.numel() == 0) {
    if (db != nullptr && db->numel() > 0) {
      Tensor zeros = *db;
      torch::stable::zero_(zeros);
    }
    return;
  }
  with_type(dh.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    switch (static_cast<Kind>(kind)) {
      case Kind::h:
        return launch<T, Kind::h>(dh, saved, a, db);
      case Kind::z:
        return launch<T, Kind::z>(dh, saved, a, db);
      case Kind::mask:
        return launch<T, Kind::mask>(dh, saved, a, db);
    }
  });
}

void dact_(Tensor dh, Tensor saved, int64_t activation, int64_t kind) {
  const Activation a = check_dact("dact_", dh, saved, activation, kind);
  if (a != Activation::identity) {  // φ′ = 1
    dispatch(dh, saved, a, kind, nullptr);
  }
}

Tensor dact_bias_grad_(Tensor dh, Tensor saved, int64_t activation, int64_t kind) {
  const Activation a = check_dact("dact_bias_grad_", dh, saved, activation, kind);
  Tensor db = new_tensor(dh, {dh.size(1)}, dh.scalar_type());
  dispatch(dh, saved, a, kind, &db);
  return db;
}

}  // namespace
}  // namespace tmb

STABLE_TORCH_LIBRARY_IMPL(torch_manual_bp, CUDA, m) {
  m.impl("dact_", TORCH_BOX(&tmb::dact_));
  m.impl("dact_bias_grad_", TORCH_BOX(&tmb::dact_bias_grad_));
}
