// dz = φ′ ⊙ dh in place, and db1 = dzᵀ 1 in the same pass.
//
// The sums are the same whatever the number of threads: rows are cut into chunks that depend on the shape alone; in a
// chunk 32 rows at a time are summed in the type that is computed in, these sums in double; then the chunks in order.
#include <torch/csrc/stable/library.h>

#include "loops.h"
#include "ops.h"

namespace tmb {
namespace {

constexpr int64_t kShortSum = 32;  // rows
constexpr int64_t kStrip = 1024;   // columns

// What is kept of a unit: a number of dh's dtype, or a byte of an unpacked mask.
template <typename T, Kind K>
struct Kept {
  using type = T;
};
template <typename T>
struct Kept<T, Kind::mask> {
  using type = uint8_t;
};

// dh ← φ′ ⊙ dh over rows × columns (≤ kShortSum × kStrip), and sum += its column sums.
template <typename T, Activation A, Kind K>
TMB_CLONES void dact_tile(T* dh, const typename Kept<T, K>::type* kept, int64_t stride, int64_t kept_stride,
                          Wide<T>* sum, int64_t rows, int64_t columns) {
  using C = Wide<T>;
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) {  // four rows to one load and store of the sum
    T *const d0 = dh + r * stride, *const d1 = d0 + stride, *const d2 = d1 + stride, *const d3 = d2 + stride;
    const auto *const k0 = kept + r * kept_stride, *const k1 = k0 + kept_stride, *const k2 = k1 + kept_stride,
                     *const k3 = k2 + kept_stride;
    TMB_SIMD for (int64_t j = 0; j < columns; ++j) {
      const C a = slope_from<A, K>(C(widen(k0[j]))) * widen(d0[j]);
      const C b = slope_from<A, K>(C(widen(k1[j]))) * widen(d1[j]);
      const C c = slope_from<A, K>(C(widen(k2[j]))) * widen(d2[j]);
      const C d = slope_from<A, K>(C(widen(k3[j]))) * widen(d3[j]);
      d0[j] = narrow<T>(a);
      d1[j] = narrow<T>(b);
      d2[j] = narrow<T>(c);
      d3[j] = narrow<T>(d);
      sum[j] += (a + b) + (c + d);
    }
  }
  for (; r < rows; ++r) {
    T* const d = dh + r * stride;
    const auto* const k = kept + r * kept_stride;
    TMB_SIMD for (int64_t j = 0; j < columns; ++j) {
      const C a = slope_from<A, K>(C(widen(k[j]))) * widen(d[j]);  // dZ = φ′(Z) ⊙ dH
      d[j] = narrow<T>(a);
      sum[j] += a;
    }
  }
}

#define TMB_INSTANTIATE_FOR(T, A, K)                                                                              \
  template void dact_tile<T, Activation::A, Kind::K>(T*, const Kept<T, Kind::K>::type*, int64_t, int64_t, Wide<T>*, \
                                                     int64_t, int64_t);
#define TMB_INSTANTIATE(A, K)           \
  TMB_INSTANTIATE_FOR(float, A, K)    \
  TMB_INSTANTIATE_FOR(double, A, K)   \
  TMB_INSTANTIATE_FOR(BFloat16, A, K) \
  TMB_INSTANTIATE_FOR(Half, A, K)
#define TMB_FROM_Z(A) TMB_INSTANTIATE(A, z)
#define TMB_FROM_H(A) TMB_INSTANTIATE(A, h)
#define TMB_FROM_MASK(A) TMB_INSTANTIATE(A, mask)
TMB_ACTIVATIONS(TMB_FROM_Z)
TMB_ACTIVATIONS_FROM_OUTPUT(TMB_FROM_H)
TMB_ACTIVATIONS_BINARY(TMB_FROM_MASK)

template <typename T, Kind K>
using TileKernel = void (*)(T*, const typename Kept<T, K>::type*, int64_t, int64_t, Wide<T>*, int64_t, int64_t);

template <typename T, Kind K>
TileKernel<T, K> tile_kernel(Activation a) {
#define TMB_CASE(A) \
  case Activation::A: \
    return &dact_tile<T, Activation::A, K>;
  if constexpr (K == Kind::z) {
    switch (a) { TMB_ACTIVATIONS(TMB_CASE) }
  } else if constexpr (K == Kind::h) {
    switch (a) {
      TMB_ACTIVATIONS_FROM_OUTPUT(TMB_CASE)
      default:
        break;
    }
  } else {
    switch (a) {
      TMB_ACTIVATIONS_BINARY(TMB_CASE)
      default:
        break;
    }
  }
#undef TMB_CASE
  return nullptr;  // check_dact has refused this pair
}

// One byte a unit, 0 or 1, from one bit a unit; writes whole groups of eight.
void unpack(const uint8_t* mask, uint8_t* units, int64_t n) {
  for (int64_t i = 0; i < n; i += 8) {
    const uint64_t own_bit = mask[i / 8] * 0x0101010101010101u & 0x8040201008040201u;
    const uint64_t eight = (own_bit + 0x7f7f7f7f7f7f7f7fu) >> 7 & 0x0101010101010101u;
    std::memcpy(units + i, &eight, 8);
  }
}

// (B,h) seen as wider rows of `merged` rows each, so that a narrow h fills the vectors too; the last B mod merged rows
// are one row more, a short one.
struct Plan {
  int64_t merged, columns, rows, rest, chunk_rows, chunks;

  Plan(int64_t B, int64_t h)
      : merged(std::min(B, std::max<int64_t>(1, 256 / h))),
        columns(merged * h),
        rows(B / merged),
        rest(B % merged * h),
        chunk_rows(whole_short_sums(std::max({2 * kShortSum, rows / 64 + 1, kGrain / columns}))),
        chunks((rows + chunk_rows - 1) / chunk_rows) {}

  static int64_t whole_short_sums(int64_t rows) { return (rows + kShortSum - 1) / kShortSum * kShortSum; }
};

template <typename T, Kind K>
void run(const Tensor& dh, const Tensor& saved, Activation a, const Tensor* db) {
  using C = Wide<T>;
  using S = typename Kept<T, K>::type;
  const int64_t h = dh.size(1), mask_columns = (h + 7) / 8;
  const Plan plan(dh.size(0), h);
  T* const dh_data = data<T>(dh);
  const S* const kept = const_data<S>(saved);
  const TileKernel<T, K> kernel = tile_kernel<T, K>(a);
  const Tensor memory = new_tensor(dh, {plan.chunks, plan.columns}, ScalarType::Double);  // the allocator's, so planned
  double* const partial = data<double>(memory);
  std::fill_n(partial, plan.chunks * plan.columns, 0.0);

  const auto strip_of_chunk = [&](int64_t first, int64_t last, int64_t column, int64_t columns, double* total) {
    C sum[kStrip];
    uint8_t units[K == Kind::mask ? kShortSum * (kStrip + 8) : 1];
    for (int64_t row = first; row < last; row += kShortSum) {
      const int64_t rows = std::min(kShortSum, last - row);
      std::fill_n(sum, columns, C(0));
      const int64_t offset = row * plan.columns + column;
      if constexpr (K == Kind::mask) {
        for (int64_t r = 0; r < rows; ++r) {
          uint8_t* const to = units + r * (kStrip + 8);
          const uint8_t* const from = kept + (row + r) * plan.merged * mask_columns + column / 8;
          if (plan.merged == 1) {
            unpack(from, to, columns);
          } else {
            for (int64_t i = 0; i * h < columns; ++i) {
              unpack(from + i * mask_columns, to + i * h, h);
            }
          }
        }
        kernel(dh_data + offset, units, plan.columns, kStrip + 8, sum, rows, columns);
      } else {
        kernel(dh_data + offset, kept + offset, plan.columns, plan.columns, sum, rows, columns);
      }
      for (int64_t j = 0; j < columns; ++j) {
        total[column + j] += sum[j];
      }
    }
  };

  parallel_for(plan.chunks, plan.chunk_rows * plan.columns, [&](int64_t begin, int64_t end) {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      const int64_t first = chunk * plan.chunk_rows, last = std::min(first + plan.chunk_rows, plan.rows);
      double* const total = partial + chunk * plan.columns;
      for (int64_t column = 0; column < plan.columns; column += kStrip) {
        strip_of_chunk(first, last, column, std::min(kStrip, plan.columns - column), total);
      }
      if (plan.rest > 0 && chunk == plan.chunks - 1) {
        strip_of_chunk(plan.rows, plan.rows + 1, 0, plan.rest, total);
      }
    }
  });

  if (db != nullptr) {
    for (int64_t i = 1; i < plan.chunks * plan.merged; ++i) {
      TMB_SIMD for (int64_t j = 0; j < h; ++j) { partial[j] += partial[i * h + j]; }
    }
    std::transform(partial, partial + h, data<T>(*db), [](double s) { return narrow<T>(static_cast<C>(s)); });
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
        return run<T, Kind::h>(dh, saved, a, db);
      case Kind::z:
        return run<T, Kind::z>(dh, saved, a, db);
      case Kind::mask:
        return run<T, Kind::mask>(dh, saved, a, db);
    }
  });
}

}  // namespace

int64_t dact_scratch(int64_t B, int64_t h) {
  if (B * h == 0) {
    return 0;
  }
  const Plan plan(B, h);
  return plan.chunks * plan.columns * static_cast<int64_t>(sizeof(double));
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

}  // namespace tmb

STABLE_TORCH_LIBRARY_IMPL(torch_manual_bp, CPU, m) {
  m.impl("dact_", TORCH_BOX(&tmb::dact_));
  m.impl("dact_bias_grad_", TORCH_BOX(&tmb::dact_bias_grad_));
}
