// dz = φ′ ⊙ dh in place, and db1 = dzᵀ 1 in the same pass.
//
// Stage 1: a block takes a chunk of rows of a strip of columns, and leaves the chunk's column sums. Stage 2 adds the
// chunks in double. No atomics: chunks depend on the shape alone, and all orders are fixed.
#include <torch/csrc/stable/ops.h>

#include "vectors.cuh"

namespace tmb {
namespace {

// A block is lanes × rows threads, both powers of two; a lane holds an octet of columns.
struct Plan {
  int lanes, rows;
  int64_t strips, chunk_rows, chunks;

  explicit Plan(const Octets& octets) : lanes(1) {
    while (lanes < kWarp && lanes < octets.per_row) {
      lanes *= 2;
    }
    rows = kThreads / lanes;
    strips = ceil_div(octets.per_row, lanes);
    // At most 1024 rows, which bounds both the error of a sum and the share of partial sums in the traffic (4 rows a
    // thread at least).
    chunk_rows = std::clamp<int64_t>(ceil_div(octets.rows, 512), 4 * rows, 1024);
    chunks = ceil_div(octets.rows, chunk_rows);
  }
};

// slope ← φ′ of the octet in this row and column
template <Activation A, Kind K, typename T, typename S>
__device__ __forceinline__ void slopes(const Octets& octets, const S* saved, int64_t row, int64_t column,
                                       Wide<T> (&slope)[8]) {
  using C = Wide<T>;
  if constexpr (K == Kind::mask) {
    const unsigned bits = saved[row * octets.per_row + column / 8];
    for (int j = 0; j < 8; ++j) {
      slope[j] = slope_from<A, K>(static_cast<C>(bits >> j & 1u));
    }
  } else {
    octets.get(saved + row * octets.columns + column, column, slope);
    for (int j = 0; j < 8; ++j) {
      slope[j] = slope_from<A, K>(slope[j]);
    }
  }
}

// sums: (chunks, columns), or null if they are not wanted
template <typename T, Activation A, Kind K, typename S>
__global__ void __launch_bounds__(kThreads)
    dact_chunks(T* dh, const S* saved, Wide<T>* sums, Octets octets, int64_t strips, int64_t chunk_rows) {
  using C = Wide<T>;
  const int64_t chunk = blockIdx.x / strips, strip = blockIdx.x % strips;
  const int64_t column = (strip * blockDim.x + threadIdx.x) * 8;
  const int64_t last = min((chunk + 1) * chunk_rows, octets.rows);
  C sum[8] = {};
  if (column < octets.columns) {
    for (int64_t row = chunk * chunk_rows + threadIdx.y; row < last; row += blockDim.y) {
      T* const at = dh + row * octets.columns + column;
      C d[8], slope[8];
      octets.get(at, column, d);
      slopes<A, K, T>(octets, saved, row, column, slope);
      for (int j = 0; j < 8; ++j) {
        d[j] *= slope[j];
        sum[j] += d[j];
      }
      if constexpr (A != Activation::identity) {
        octets.put(at, column, d);
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
  if (threadIdx.y == 0 && column < octets.columns) {
    for (int j = 0; j < octets.length(column); ++j) {
      sums[chunk * octets.columns + column + j] = shared[j][thread];
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
  const bool whole = holds_vectors<8>(dh_data, columns) && (K == Kind::mask || holds_vectors<8>(saved_data, columns));
  const Octets octets(dh.size(0), columns, whole);
  const Plan plan(octets);
  MaybeTensor sums;
  if (db != nullptr) {
    sums = new_tensor(dh, {plan.chunks, columns}, wide_type(dh.scalar_type()));
  }
  C* const sums_data = db != nullptr ? data<C>(*sums) : nullptr;
  const auto grid = static_cast<unsigned>(plan.chunks * plan.strips);
  const dim3 block(plan.lanes, plan.rows);

#define TMB_CASE(A)                                                                                            \
  case Activation::A:                                                                                          \
    run(dact_chunks<T, Activation::A, K, S>, grid, block, 0, device.stream(), dh_data, saved_data, sums_data, octets, \
        plan.strips, plan.chunk_rows);                                                                         \
    break;
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

  if (db != nullptr) {
    run(add_chunks<T>, blocks(columns, kWarp), dim3(kWarp, kWarp), 0, device.stream(), sums_data, plan.chunks, columns,
        data<T>(*db));
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
