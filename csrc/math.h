// exp, tanh, σ, Φ … for float and double, on CPU and CUDA.
//
// The float versions are polynomials without branches or calls, so that loops over them vectorise and a warp stays
// together; each is good to about 2 ulp wherever the result is a normal number, keeps NaN, and needs no -ffast-math.
// double takes libm; CUDA takes its own exp, tanh and 1/x in float, which are as short.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define TMB_INLINE __host__ __device__ __forceinline__
#else
#define TMB_INLINE inline __attribute__((always_inline))
#endif

namespace tmb {

constexpr double kInvSqrt2 = 0.70710678118654752440;
constexpr double kInvSqrt2Pi = 0.39894228040143267794;
constexpr double kSqrt2OverPi = 0.79788456080286535588;

// eˣ and eˣ − 1 are asked for at x ≤ 0 only, where neither overflows: there they take half the instructions.
TMB_INLINE double exp_nonpositive(double x) { return ::exp(x); }
TMB_INLINE double expm1_nonpositive(double x) { return ::expm1(x); }
TMB_INLINE double tanh(double x) { return ::tanh(x); }
TMB_INLINE double log1p(double x) { return ::log1p(x); }
TMB_INLINE double reciprocal(double x) { return 1.0 / x; }
TMB_INLINE double magnitude(double x) { return std::fabs(x); }
TMB_INLINE float magnitude(float x) { return std::fabs(x); }

// One instruction on CUDA, good to 1 ulp, where a division that is right to the last bit takes ten and a branch.
TMB_INLINE float reciprocal(float x) {
#if defined(__CUDA_ARCH__)
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return 1.0f / x;
#endif
}

TMB_INLINE float ratio(float a, float b) {
#if defined(__CUDA_ARCH__)
  return a * reciprocal(b);
#else
  return a / b;
#endif
}

TMB_INLINE uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

TMB_INLINE float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// Below it eˣ is subnormal, and taken to be 0.
constexpr float kExpUnderflow = -87.33654f;

// x = n ln 2 + r with |r| ≤ ½ ln 2, for x ≥ kExpUnderflow: eˣ = (1 + m) 2ⁿ with m = eʳ − 1. NaN makes m NaN.
struct ExpParts {
  float m, scale;
};

TMB_INLINE ExpParts exp_parts(float x) {
  constexpr float to_integer = 12582912.0f;  // 1.5 · 2²³: adding it rounds to an integer, which fills the low bits
  const float shifted = x * 1.44269504f + to_integer;
  const float n = shifted - to_integer;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two pieces, the first exact times n
  float q = 1.390152973e-03f;
  q = q * r + 8.363739844e-03f;
  q = q * r + 4.166686098e-02f;
  q = q * r + 1.666657369e-01f;
  q = q * r + 4.999999953e-01f;
  return {r + r * r * q, float_of((bits_of(shifted) << 23) + 0x3f800000u)};
}

TMB_INLINE float exp_nonpositive(float x) {
#if defined(__CUDA_ARCH__)
  return ::expf(x);
#else
  const ExpParts e = exp_parts(x);
  return x < kExpUnderflow ? 0.0f : e.scale + e.scale * e.m;
#endif
}

TMB_INLINE float expm1_nonpositive(float x) {
  const ExpParts e = exp_parts(x);
  return x < kExpUnderflow ? -1.0f : e.scale * e.m + (e.scale - 1.0f);
}

TMB_INLINE float tanh(float x) {
#if defined(__CUDA_ARCH__)
  return ::tanhf(x);
#else
  const float a = std::fabs(x), s = x * x;
  float p = -4.207843725e-04f;
  p = p * s + 2.510728037e-03f;
  p = p * s - 8.219227093e-03f;
  p = p * s + 2.166027553e-02f;
  p = p * s - 5.393482698e-02f;
  p = p * s + 1.333312885e-01f;
  p = p * s - 3.333333126e-01f;
  const float near_zero = x + x * s * p;
  const float e = exp_nonpositive(-2.0f * a), inverse = 1.0f / (1.0f + e);
  const float far = std::copysign(1.0f - 2.0f * e * inverse, x);
  return a < 1.0f ? near_zero : far;
#endif
}

// For x in [0, 1]: log(1 + x) = 2 artanh(s), s = x/(2 + x) ≤ 1/3.
TMB_INLINE float log1p(float x) {
  const float s = ratio(x, 2.0f + x), w = s * s;
  float p = 2.322416550e-01f;
  p = p * w + 2.170675879e-01f;
  p = p * w + 2.859233526e-01f;
  p = p * w + 3.999970705e-01f;
  p = p * w + 6.666666732e-01f;
  return 2.0f * s + s * w * p;
}

// σ(x) and 1 − σ(x) = σ(−x), neither by a subtraction: both keep all their digits in both tails.
template <typename C>
struct Sigmoid {
  C value, complement;
};

template <typename C>
TMB_INLINE Sigmoid<C> sigmoid(C x) {
  const C e = exp_nonpositive(-magnitude(x)), large = reciprocal(C(1) + e), small = e * large;
  return {x > C(0) ? large : small, x > C(0) ? small : large};
}

// Φ, and √(2π) times the density ϕ, which shares the exponential.
template <typename C>
struct Normal {
  C distribution, bell;
};

TMB_INLINE Normal<double> normal(double x) { return {0.5 * ::erfc(-x * kInvSqrt2), ::exp(-0.5 * x * x)}; }

TMB_INLINE Normal<float> normal(float x) {
  const float bell = exp_nonpositive(-0.5f * x * x);
  const float s = x * x, u = std::fabs(x);
  float c = -6.550644982e-06f;  // Φ(x) = ½ + x c(x²) near 0
  c = c * s + 1.100663873e-04f;
  c = c * s - 1.182563331e-03f;
  c = c * s + 9.971610378e-03f;
  c = c * s - 6.649008535e-02f;
  c = c * s + 3.989422731e-01f;
  const float t = reciprocal(1.0f + 0.4f * u);  // Φ(−u) = e^{−u²/2} t p(t), the Mills ratio being smooth in t
  float p = 6.855469430e-02f;
  p = p * t - 1.875280702e-01f;
  p = p * t + 1.064805807e-01f;
  p = p * t + 5.496163795e-02f;
  p = p * t + 1.391629775e-01f;
  p = p * t + 1.590774296e-01f;
  p = p * t + 1.595970315e-01f;
  const float tail = bell * (t * p);
  const float far = x > 0.0f ? 1.0f - tail : tail;
  return {u < 1.3f ? 0.5f + x * c : far, bell};
}

}  // namespace tmb
