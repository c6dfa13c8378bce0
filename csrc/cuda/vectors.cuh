// Several neighbours of a row in one thread, loaded and stored 16 bytes at a time where they are aligned.
#pragma once

#include "launch.cuh"

namespace tmb {

template <typename T, int V>
struct alignas(V * sizeof(T) < 16 ? V * sizeof(T) : 16) Vector {
  T at[V];
};

// Whether rows of this many elements, from this address on, are whole vectors of V, each aligned.
template <int V, typename T>
bool holds_vectors(const T* rows, int64_t columns) {
  return columns % V == 0 && reinterpret_cast<uintptr_t>(rows) % alignof(Vector<T, V>) == 0;
}

template <int V, typename T>
__device__ __forceinline__ void load(const T* from, Wide<T> (&x)[V]) {
  const auto v = *reinterpret_cast<const Vector<T, V>*>(from);
  for (int i = 0; i < V; ++i) {
    x[i] = static_cast<Wide<T>>(v.at[i]);
  }
}

// V logits of a row, from column k on, with their bias where there is one.
template <int V, typename T>
__device__ __forceinline__ void load_biased(const T* row, const T* bias, int64_t k, Wide<T> (&x)[V]) {
  load(row + k, x);
  if (bias != nullptr) {
    Wide<T> b[V];
    load(bias + k, b);
    for (int v = 0; v < V; ++v) {
      x[v] += b[v];
    }
  }
}

template <int V, typename T>
__device__ __forceinline__ void store(T* to, const Wide<T> (&x)[V]) {
  Vector<T, V> v;
  for (int i = 0; i < V; ++i) {
    v.at[i] = static_cast<T>(x[i]);
  }
  *reinterpret_cast<Vector<T, V>*>(to) = v;
}

// A matrix seen as octets: 8 neighbours of a row, as many as share a byte of a mask; the last of a row may be shorter.
struct Octets {
  int64_t rows, columns, per_row;
  bool whole;  // all octets of all matrices involved are complete and aligned

  Octets(int64_t rows, int64_t columns, bool whole)
      : rows(rows), columns(columns), per_row(ceil_div(columns, 8)), whole(whole) {}

  TMB_INLINE int64_t count() const { return rows * per_row; }

  __device__ int length(int64_t column) const { return static_cast<int>(min(columns - column, int64_t(8))); }

  // x ← the octet at from, which starts in this column; 0 beyond its end
  template <typename T, typename C>
  __device__ __forceinline__ void get(const T* from, int64_t column, C (&x)[8]) const {
    if (whole) {
      load(from, x);
      return;
    }
    const int n = length(column);
    for (int i = 0; i < 8; ++i) {
      x[i] = i < n ? static_cast<C>(from[i]) : C(0);
    }
  }

  template <typename T, typename C>
  __device__ __forceinline__ void put(T* to, int64_t column, const C (&x)[8]) const {
    if (whole) {
      store(to, x);
      return;
    }
    const int n = length(column);
    for (int i = 0; i < 8; ++i) {
      if (i < n) {
        to[i] = static_cast<T>(x[i]);
      }
    }
  }
};

}  // namespace tmb
