// Matrix products small enough to stay in the first-level cache, where a call of a BLAS costs more than the arithmetic.
//
// One form serves all: C's columns lie in the vector lanes, B is read by whole vectors, A's elements are broadcast one by
// one, so that A may be transposed by its strides alone.
#pragma once

#include <cstdint>

namespace tmb {

constexpr int64_t kVectorBytes = 64;

template <typename T>
constexpr int64_t kVectorLanes = kVectorBytes / static_cast<int64_t>(sizeof(T));

// n rounded up to whole vectors.
template <typename T>
constexpr int64_t whole_vectors(int64_t n) {
  return (n + kVectorLanes<T> - 1) / kVectorLanes<T> * kVectorLanes<T>;
}

// An element (i, k) stands at data[i·row + k·column]; a stride may be 0.
template <typename T>
struct Operand {
  const T* data;
  int64_t row, column;
};

// Rows of vectors: row i starts at data + i·row. Reading a row touches whole vectors, whatever its number of columns.
template <typename T>
struct Rows {
  T* data;
  int64_t row;
};

// C (M,N) ← start + A (M,K) B (K,N); start.data null: 0; start.row 0: the same row, a bias, for each; start may be C.
// Nothing is written beside the N columns of C. float and double.
template <typename T>
struct Product {
  Rows<T> c;
  Rows<const T> start;
  Operand<T> a;
  Rows<const T> b;
  int64_t M, N, K;
};

template <typename T>
void multiply(const Product<T>& product);

// sum (N) ← [add] sum + aᵀ 1, the column sums of a's M rows.
template <typename T>
void column_sums(Rows<const T> a, int64_t M, int64_t N, bool add, T* sum);

// to (columns,rows) ← from (rows,columns)ᵀ, both given by the distance of their rows.
template <typename T>
void transpose(Rows<const T> from, int64_t rows, int64_t columns, Rows<T> to);

}  // namespace tmb
