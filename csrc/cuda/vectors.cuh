// Several neighbours of a row in one thread, loaded and stored 16 bytes at a time where they are aligned.
#pragma once

#include <cstring>
#include <type_traits>

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
__device__ __forceinline__ Vector<T, V> load_vector(const T* from) {
  return *reinterpret_cast<const Vector<T, V>*>(from);
}

// One access, said so: the members of a class may be stored one by one.
__device__ __forceinline__ void store_16_bytes(void* to, uint4 words) {
#if defined(__CUDA_ARCH__)
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)), "r"(words.x),
               "r"(words.y), "r"(words.z), "r"(words.w)
               : "memory");
#else
  *static_cast<uint4*>(to) = words;
#endif
}

template <int V, typename T>
__device__ __forceinline__ void store(T* to, const Vector<T, V>& v) {
  if constexpr (sizeof v % sizeof(uint4) == 0) {
    uint4 words[sizeof v / sizeof(uint4)];
    std::memcpy(words, &v, sizeof v);
    for (size_t i = 0; i < sizeof v / sizeof(uint4); ++i) {
      store_16_bytes(reinterpret_cast<uint4*>(to) + i, words[i]);
    }
  } else {
    *reinterpret_cast<Vector<T, V>*>(to) = v;
  }
}

template <int V, typename T>
__device__ __forceinline__ void widen(const Vector<T, V>& v, Wide<T> (&x)[V]) {
  for (int i = 0; i < V; ++i) {
    x[i] = static_cast<Wide<T>>(v.at[i]);
  }
}

template <int V, typename T>
__device__ __forceinline__ void load(const T* from, Wide<T> (&x)[V]) {
  widen(load_vector<V>(from), x);
}

// Two numbers, rounded to T, as one word: one instruction, of which the compiler makes no use by itself.
template <typename T>
__device__ __forceinline__ uint32_t narrow_pair(float low, float high) {
  uint32_t pair;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  if constexpr (std::is_same_v<T, BFloat16>) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  }
#else
  const Vector<T, 2> v{{static_cast<T>(low), static_cast<T>(high)}};
  std::memcpy(&pair, &v, sizeof pair);
#endif
  return pair;
}

template <typename T, int V>
__device__ __forceinline__ Vector<T, V> narrow(const Wide<T> (&x)[V]) {
  Vector<T, V> v;
  if constexpr (sizeof(T) == 2 && V % 2 == 0) {
    uint32_t pairs[V / 2];
    for (int i = 0; i < V / 2; ++i) {
      pairs[i] = narrow_pair<T>(x[2 * i], x[2 * i + 1]);
    }
    std::memcpy(&v, pairs, sizeof v);
  } else {
    for (int i = 0; i < V; ++i) {
      v.at[i] = static_cast<T>(x[i]);
    }
  }
  return v;
}

// Logits of a row from column k on, with their bias where there is one.
template <int V, typename T>
__device__ __forceinline__ void add_bias(const T* bias, int64_t k, Wide<T> (&x)[V]) {
  if (bias != nullptr) {
    Wide<T> b[V];
    load(bias + k, b);
    for (int v = 0; v < V; ++v) {
      x[v] += b[v];
    }
  }
}

template <int V, typename T>
__device__ __forceinline__ void load_biased(const T* row, const T* bias, int64_t k, Wide<T> (&x)[V]) {
  load(row + k, x);
  add_bias(bias, k, x);
}

}  // namespace tmb
