// A matrix seen as octets: 8 neighbours of a row, as many as share a byte of a mask; the last of a row may be shorter.
//
// A block is lanes × rows threads, both chosen by the shape alone. A lane keeps its octet of columns, and so what
// belongs to columns (a bias, a sum), while it walks down the rows; no thread divides 64-bit numbers. With kWhole all
// octets of all matrices involved are complete and aligned.
#pragma once

#include <type_traits>

#include "../activations.h"
#include "vectors.cuh"

namespace tmb {

// What φ and φ′ of a T are computed in.
template <typename T>
using Arithmetic = std::conditional_t<sizeof(T) == 2, Coarse, Wide<T>>;

// Bytes of each thread under way at a time: with a quarter of an SM's threads resident this is 32 KiB of the SM, which
// is what 4.8 TB/s needs at a latency of 800 ns.
constexpr int kBytesUnderWay = 64;

// How many octets of each of so many matrices a thread loads before it computes.
template <typename T, int kMatrices>
constexpr int kOctetsAtOnce = std::max<int>(1, kBytesUnderWay / (kMatrices * sizeof(Vector<T, 8>)));

constexpr int64_t kNoLimit = int64_t(1) << 40;

struct Octets {
  int64_t rows, columns, size;
  int64_t per_row;             // octets in a row
  unsigned lanes, block_rows;  // threads of a block; block_rows is a power of two
  unsigned strips;             // blocks beside each other
  int64_t chunk_rows;          // rows of a block's walk, which are dealt to its threads in turn

  // A thread walks least_walk rows at least, more where there would be more than max_chunks chunks; then no chunk has
  // more than max_rows rows.
  Octets(int64_t rows, int64_t columns, int least_walk, int64_t max_chunks = kNoLimit, int64_t max_rows = kNoLimit)
      : rows(rows), columns(columns), size(rows * columns), per_row(ceil_div(columns, 8)), block_rows(kThreads) {
    strips = static_cast<unsigned>(ceil_div(per_row, kWarp));
    lanes = static_cast<unsigned>(ceil_div(per_row, strips));
    while (block_rows * lanes > kThreads) {
      block_rows /= 2;
    }
    const int64_t least = int64_t(block_rows) * least_walk;
    chunk_rows = std::max(least, std::min(ceil_div(ceil_div(rows, max_chunks), least) * least, max_rows));
  }

  // A matrix whose elements do not know their column, as one of 256 columns: its last row may be shorter.
  static Octets flat(int64_t size, int least_walk, int64_t max_chunks = kNoLimit) {
    constexpr int64_t columns = 8 * kWarp;
    Octets octets(ceil_div(size, columns), columns, least_walk, max_chunks);
    octets.size = size;
    return octets;
  }

  int64_t chunks() const { return ceil_div(rows, chunk_rows); }
  unsigned grid() const { return static_cast<unsigned>(chunks() * strips); }
  dim3 block() const { return dim3(lanes, block_rows); }
};

// Where a thread is: in its column, at the first row of its walk.
struct Walk {
  int64_t chunk, column, row, last, offset, stride;  // last: the chunk's end; offset, stride: in elements

  __device__ __forceinline__ explicit Walk(const Octets& octets) {
    const unsigned strip = blockIdx.x % octets.strips;
    chunk = blockIdx.x / octets.strips;
    column = (int64_t(strip) * octets.lanes + threadIdx.x) * 8;
    row = chunk * octets.chunk_rows + threadIdx.y;
    last = min((chunk + 1) * octets.chunk_rows, octets.rows);
    offset = row * octets.columns + column;
    stride = octets.block_rows * octets.columns;
  }

  __device__ __forceinline__ bool in_columns(const Octets& octets) const { return column < octets.columns; }

  // How many elements the octet at this offset has, 0 beyond the matrix.
  __device__ __forceinline__ int length(const Octets& octets, int64_t at) const {
    return static_cast<int>(min(min(octets.columns - column, octets.size - at), int64_t(8)));
  }

  __device__ __forceinline__ void advance(const Octets& octets, int steps) {
    row += int64_t(steps) * octets.block_rows;
    offset += steps * stride;
  }
};

// The octet that starts here, 0 beyond its length.
template <bool kWhole, typename T>
__device__ __forceinline__ Vector<T, 8> get(const T* from, int length) {
  if constexpr (kWhole) {
    return load_vector<8>(from);
  } else {
    Vector<T, 8> v;
    for (int i = 0; i < 8; ++i) {
      v.at[i] = i < length ? from[i] : T(0.0f);
    }
    return v;
  }
}

template <bool kWhole, typename T>
__device__ __forceinline__ void put(T* to, int length, const Vector<T, 8>& v) {
  if constexpr (kWhole) {
    store(to, v);
  } else {
    for (int i = 0; i < 8; ++i) {
      if (i < length) {
        to[i] = v.at[i];
      }
    }
  }
}

// x ← the bias of these columns; without one −0, which changes no number it is added to
template <bool kWhole, typename T>
__device__ __forceinline__ void get_bias(const T* bias, const Octets& octets, int64_t column, Wide<T> (&x)[8]) {
  for (int j = 0; j < 8; ++j) {
    x[j] = Wide<T>(-0.0);
  }
  if (bias != nullptr) {
    widen(get<kWhole>(bias + column, static_cast<int>(min(octets.columns - column, int64_t(8)))), x);
  }
}

}  // namespace tmb
