// How loops run on the CPU: compiled for several instruction sets, over threads, in bfloat16 and float16.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <vector>

#include "../tensors.h"

// One machine-code version of the function for each instruction set; the loader picks the one for this processor.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define TMB_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define TMB_CLONES
#endif

#define TMB_SIMD _Pragma("omp simd")

namespace tmb {

// Elements that one thread should at least have: below it, waking another thread costs more than it brings.
constexpr int64_t kGrain = 32768;

inline int64_t grain_of(int64_t elements_per_item) { return std::max<int64_t>(1, kGrain / elements_per_item); }

// The threads that so many items are worth.
inline int64_t threads_for(int64_t items, int64_t elements_per_item) {
  const int64_t grain = grain_of(elements_per_item);
  return std::clamp<int64_t>((items + grain - 1) / grain, 1, torch::stable::get_num_threads());
}

template <typename F>
void parallel_for(int64_t items, int64_t elements_per_item, const F& f) {
  const int64_t grain = grain_of(elements_per_item);
  if (items <= grain) {
    f(0, items);
  } else {
    torch::stable::parallel_for(0, items, grain, f);
  }
}

// To the type that is computed in, and back with round to nearest even. The class conversions of BFloat16 and Half
// branch on NaN or fall into intrinsics; these vectorise.
TMB_INLINE float widen(float x) { return x; }
TMB_INLINE double widen(double x) { return x; }
TMB_INLINE float widen(uint8_t x) { return x; }
TMB_INLINE float widen(BFloat16 x) { return float_of(static_cast<uint32_t>(x.x) << 16); }

TMB_INLINE float widen(Half x) {
  const uint32_t h = x.x, magnitude = (h & 0x7fffu) << 13;
  // Exponent 31 (inf, NaN) becomes 255; else 2^112 corrects the bias, and turns subnormals into normal numbers.
  const float finite = float_of(magnitude) * 0x1p112f;
  const uint32_t bits = magnitude >= (0x7c00u << 13) ? magnitude | 0x7f800000u : bits_of(finite);
  return float_of(bits | (h & 0x8000u) << 16);
}

template <typename T>
TMB_INLINE T narrow(Wide<T> x) {
  return x;
}

template <>
TMB_INLINE BFloat16 narrow<BFloat16>(float x) {
  const uint32_t bits = bits_of(x), rounded = bits + 0x7fffu + (bits >> 16 & 1u);
  return BFloat16(static_cast<uint16_t>(x != x ? 0x7fc0u : rounded >> 16), BFloat16::from_bits());
}

template <>
TMB_INLINE Half narrow<Half>(float x) {
  const uint32_t bits = bits_of(x), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  const uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u);
  const uint32_t normal = rounded >= 0x47800000u ? 0x7c00u : (rounded - 0x38000000u) >> 13;
  // Below 2^-14: adding ½ leaves the multiple of 2^-24 in the low bits, rounded by the addition.
  const uint32_t subnormal = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000u;
  const uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
  return Half(static_cast<uint16_t>(sign | (x != x ? 0x7e00u : finite)), Half::from_bits());
}

// b in the type that is computed in, repeated to fill whole rows of a tile; zeros where there is no bias.
template <typename T>
std::vector<Wide<T>> repeated_bias(const T* bias, int64_t columns, int64_t rows) {
  std::vector<Wide<T>> tile(static_cast<size_t>(columns * rows), Wide<T>(0));
  if (bias != nullptr) {
    for (int64_t j = 0; j < columns; ++j) {
      tile[j] = widen(bias[j]);
    }
    for (int64_t r = 1; r < rows; ++r) {
      std::copy_n(tile.begin(), columns, tile.begin() + r * columns);
    }
  }
  return tile;
}

// A contiguous matrix, not empty, cut into contiguous tiles of at most kElements: several rows, or a strip of one row.
struct Tiles {
  static constexpr int64_t kElements = 2048;
  int64_t rows, columns, tile_rows, tile_columns, strips, count;

  Tiles(int64_t rows, int64_t columns)
      : rows(rows),
        columns(columns),
        tile_rows(std::min(rows, std::max<int64_t>(1, kElements / columns))),
        tile_columns(std::min(columns, kElements)),
        strips((columns + kElements - 1) / kElements),
        count(strips * ((rows + tile_rows - 1) / tile_rows)) {}

  // f(row, column, rows, columns) for the i-th tile
  template <typename F>
  void visit(int64_t i, const F& f) const {
    const int64_t row = i / strips * tile_rows, column = i % strips * tile_columns;
    f(row, column, std::min(tile_rows, rows - row), std::min(tile_columns, columns - column));
  }
};

}  // namespace tmb
