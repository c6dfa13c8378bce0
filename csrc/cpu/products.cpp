// The products of small nets, and the transposition that brings a weight's outputs into the vector lanes.
#include "products.h"

#include <algorithm>
#include <cstring>

#include "loops.h"

namespace tmb {
namespace {

template <typename T>
struct VectorOf {
  typedef T type __attribute__((vector_size(kVectorBytes)));
  typedef T unaligned __attribute__((vector_size(kVectorBytes), aligned(alignof(T)), may_alias));
  typedef T quad __attribute__((vector_size(4 * sizeof(T))));
  typedef T unaligned_quad __attribute__((vector_size(4 * sizeof(T)), aligned(alignof(T)), may_alias));
};

// The first of a vector's numbers, all or `columns` of them.
template <typename T>
TMB_INLINE void write(const typename VectorOf<T>::type& v, T* to, int64_t columns) {
  if (columns >= kVectorLanes<T>) {
    *reinterpret_cast<typename VectorOf<T>::unaligned*>(to) = v;
  } else {
    for (int64_t i = 0; i < columns; ++i) {
      to[i] = v[i];
    }
  }
}

// R rows and V vectors of C, all in registers while k runs; `columns` of them are written.
template <typename T, int R, int V>
TMB_INLINE void block(const Product<T>& p, int64_t m, int64_t n, int64_t columns) {
  using Vector = typename VectorOf<T>::type;
  using Memory = typename VectorOf<T>::unaligned;
  constexpr int64_t lanes = kVectorLanes<T>;
  Vector sum[R][V];
  const T* a[R];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    a[r] = p.a.data + (m + r) * p.a.row;
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      sum[r][v] = Vector{};
    }
  }
  const T* b = p.b.data + n;
  for (int64_t k = 0, at = 0; k < p.K; ++k, at += p.a.column, b += p.b.row) {
    Vector right[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      right[v] = *reinterpret_cast<const Memory*>(b + v * lanes);
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        sum[r][v] += a[r][at] * right[v];
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    T* const c = p.c.data + (m + r) * p.c.row + n;
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      if (p.start.data != nullptr) {  // only now: a sum over blocks of rows errs less than one over all rows in turn
        sum[r][v] += *reinterpret_cast<const Memory*>(p.start.data + (m + r) * p.start.row + n + v * lanes);
      }
      write(sum[r][v], c + v * lanes, columns - v * lanes);
    }
  }
}

// All rows of V vectors of C's columns.
template <typename T, int V>
TMB_INLINE void strip(const Product<T>& p, int64_t n) {
  const int64_t columns = std::min(p.N - n, V * kVectorLanes<T>);
  int64_t m = 0;
  for (; m + 4 <= p.M; m += 4) {
    block<T, 4, V>(p, m, n, columns);
  }
  for (; m < p.M; ++m) {
    block<T, 1, V>(p, m, n, columns);
  }
}

// Sixteen sums fill half of 32 registers of 64 bytes; where registers are fewer or shorter, four do.
#if defined(__x86_64__) && defined(__GNUC__)
const bool kManyRegisters = __builtin_cpu_supports("avx512f");
#else
constexpr bool kManyRegisters = false;
#endif

template <typename T>
TMB_CLONES void multiply_on(const Product<T>& p, bool many_registers) {
  constexpr int64_t lanes = kVectorLanes<T>;
  int64_t n = 0;
  if (many_registers) {
    for (; n + 3 * lanes < p.N; n += 4 * lanes) {
      strip<T, 4>(p, n);
    }
    for (; n + lanes < p.N; n += 2 * lanes) {
      strip<T, 2>(p, n);
    }
    if (n < p.N) {
      strip<T, 1>(p, n);
    }
  } else {
    for (; n < p.N; n += lanes) {
      strip<T, 1>(p, n);
    }
  }
}
template void multiply_on<float>(const Product<float>&, bool);
template void multiply_on<double>(const Product<double>&, bool);

// Four rows at a time, each into a sum of its own: the chains of additions are shorter, and so is their error.
template <typename T>
TMB_CLONES void add_columns(const T* a, int64_t row, int64_t M, int64_t N, bool add, T* sum) {
  using Vector = typename VectorOf<T>::type;
  using Memory = typename VectorOf<T>::unaligned;
  for (int64_t n = 0; n < N; n += kVectorLanes<T>) {
    const T* from = a + n;
    Vector part[4] = {};
    int64_t m = 0;
    for (; m + 4 <= M; m += 4, from += 4 * row) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        part[i] += *reinterpret_cast<const Memory*>(from + i * row);
      }
    }
    for (; m < M; ++m, from += row) {
      part[m % 4] += *reinterpret_cast<const Memory*>(from);
    }
    Vector total = (part[0] + part[1]) + (part[2] + part[3]);
    if (add) {
      total += *reinterpret_cast<const Memory*>(sum + n);
    }
    write(total, sum + n, N - n);
  }
}
template void add_columns<float>(const float*, int64_t, int64_t, int64_t, bool, float*);
template void add_columns<double>(const double*, int64_t, int64_t, int64_t, bool, double*);

// 4 × 4 at a time: what meets in a vector is interleaved twice.
template <typename T>
TMB_CLONES void transpose_blocks(const T* from, int64_t from_row, int64_t rows, int64_t columns, T* to, int64_t to_row) {
  using Quad = typename VectorOf<T>::quad;
  using Memory = typename VectorOf<T>::unaligned_quad;
  const int64_t whole_rows = rows / 4 * 4, whole_columns = columns / 4 * 4;
  for (int64_t i = 0; i < whole_rows; i += 4) {
    for (int64_t j = 0; j < whole_columns; j += 4) {
      const T* const f = from + i * from_row + j;
      const Quad a = *reinterpret_cast<const Memory*>(f), b = *reinterpret_cast<const Memory*>(f + from_row),
                 c = *reinterpret_cast<const Memory*>(f + 2 * from_row),
                 d = *reinterpret_cast<const Memory*>(f + 3 * from_row);
      const Quad ab0 = {a[0], b[0], a[1], b[1]}, ab2 = {a[2], b[2], a[3], b[3]};
      const Quad cd0 = {c[0], d[0], c[1], d[1]}, cd2 = {c[2], d[2], c[3], d[3]};
      T* const t = to + j * to_row + i;
      *reinterpret_cast<Memory*>(t) = Quad{ab0[0], ab0[1], cd0[0], cd0[1]};
      *reinterpret_cast<Memory*>(t + to_row) = Quad{ab0[2], ab0[3], cd0[2], cd0[3]};
      *reinterpret_cast<Memory*>(t + 2 * to_row) = Quad{ab2[0], ab2[1], cd2[0], cd2[1]};
      *reinterpret_cast<Memory*>(t + 3 * to_row) = Quad{ab2[2], ab2[3], cd2[2], cd2[3]};
    }
    for (int64_t j = whole_columns; j < columns; ++j) {
      for (int64_t r = i; r < i + 4; ++r) {
        to[j * to_row + r] = from[r * from_row + j];
      }
    }
  }
  for (int64_t r = whole_rows; r < rows; ++r) {
    for (int64_t j = 0; j < columns; ++j) {
      to[j * to_row + r] = from[r * from_row + j];
    }
  }
}
template void transpose_blocks<float>(const float*, int64_t, int64_t, int64_t, float*, int64_t);
template void transpose_blocks<double>(const double*, int64_t, int64_t, int64_t, double*, int64_t);

}  // namespace

template <typename T>
void multiply(const Product<T>& product) {
  multiply_on(product, kManyRegisters);
}
template void multiply<float>(const Product<float>&);
template void multiply<double>(const Product<double>&);

template <typename T>
void column_sums(Rows<const T> a, int64_t M, int64_t N, bool add, T* sum) {
  add_columns(a.data, a.row, M, N, add, sum);
}
template void column_sums<float>(Rows<const float>, int64_t, int64_t, bool, float*);
template void column_sums<double>(Rows<const double>, int64_t, int64_t, bool, double*);

template <typename T>
void transpose(Rows<const T> from, int64_t rows, int64_t columns, Rows<T> to) {
  transpose_blocks(from.data, from.row, rows, columns, to.data, to.row);
}
template void transpose<float>(Rows<const float>, int64_t, int64_t, Rows<float>);
template void transpose<double>(Rows<const double>, int64_t, int64_t, Rows<double>);

}  // namespace tmb
