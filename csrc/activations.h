// φ and φ′ of each activation, one definition for CPU and CUDA; kinks, thresholds and NaN as in equations/activations.py.
//
// slope(z) is φ′ as a function of z. Where slope_from_output exists, it is φ′ as a function of h = φ(z).
#pragma once

#include "coarse.h"

namespace tmb {

// clang-format off
#define TMB_ACTIVATIONS(X) \
  X(identity) X(relu) X(leaky_relu) X(tanh) X(sigmoid) X(silu) X(gelu) X(gelu_tanh) X(softplus) X(elu) X(relu_squared)
#define TMB_ACTIVATIONS_FROM_OUTPUT(X) X(identity) X(relu) X(leaky_relu) X(tanh) X(sigmoid)
#define TMB_ACTIVATIONS_BINARY(X) X(relu) X(leaky_relu)
// clang-format on

#define TMB_ENUMERATOR(name) name,
enum class Activation : int64_t { TMB_ACTIVATIONS(TMB_ENUMERATOR) };
#undef TMB_ENUMERATOR

// What was kept of the forward pass: h = φ(z), z itself, or one bit [z > 0] a unit.
enum class Kind : int64_t { h, z, mask };

constexpr double kLeakySlope = 0.01;
constexpr double kSoftplusThreshold = 20.0;

// 1 where x > 0, low elsewhere, NaN where x is NaN.
template <typename C>
TMB_INLINE C step(C x, C low) {
  return x > C(0) ? C(1) : (x <= C(0) ? low : x);
}

template <Activation A>
struct Phi;

template <>
struct Phi<Activation::identity> {
  template <typename C> static TMB_INLINE C value(C z) { return z; }
  template <typename C> static TMB_INLINE C slope(C) { return C(1); }
  template <typename C> static TMB_INLINE C slope_from_output(C) { return C(1); }
};

template <>
struct Phi<Activation::relu> {
  template <typename C> static TMB_INLINE C value(C z) { return z < C(0) ? C(0) : z; }
  template <typename C> static TMB_INLINE C slope(C z) { return step(z, C(0)); }
  template <typename C> static TMB_INLINE C slope_from_output(C h) { return step(h, C(0)); }
};

template <>
struct Phi<Activation::leaky_relu> {
  template <typename C> static TMB_INLINE C value(C z) { return z < C(0) ? C(kLeakySlope) * z : z; }
  template <typename C> static TMB_INLINE C slope(C z) { return step(z, C(kLeakySlope)); }
  template <typename C> static TMB_INLINE C slope_from_output(C h) { return step(h, C(kLeakySlope)); }
};

template <>
struct Phi<Activation::tanh> {
  template <typename C> static TMB_INLINE C value(C z) { return tmb::tanh(z); }
  template <typename C> static TMB_INLINE C slope(C z) { return slope_from_output(value(z)); }
  template <typename C> static TMB_INLINE C slope_from_output(C h) { return C(1) - h * h; }
};

template <>
struct Phi<Activation::sigmoid> {
  template <typename C> static TMB_INLINE C value(C z) { return tmb::sigmoid(z).value; }
  template <typename C> static TMB_INLINE C slope(C z) {
    const auto s = tmb::sigmoid(z);
    return s.value * s.complement;  // σ(1 − σ)
  }
  template <typename C> static TMB_INLINE C slope_from_output(C h) { return h * (C(1) - h); }
};

template <>
struct Phi<Activation::silu> {
  template <typename C> static TMB_INLINE C value(C z) { return z * tmb::sigmoid(z).value; }
  template <typename C> static TMB_INLINE C slope(C z) {
    const auto s = tmb::sigmoid(z);
    return s.value * (C(1) + z * s.complement);  // σ(1 + z(1 − σ))
  }
};

template <>
struct Phi<Activation::gelu> {
  template <typename C> static TMB_INLINE C value(C z) { return z * normal(z).distribution; }
  template <typename C> static TMB_INLINE C slope(C z) {
    const auto n = normal(z);
    return n.distribution + z * (C(kInvSqrt2Pi) * n.bell);  // Φ + zϕ
  }
};

// ½(1 + tanh u) = σ(2u), which has no cancellation where tanh u is near −1; u = √(2/π)(z + 0.044715 z³).
template <>
struct Phi<Activation::gelu_tanh> {
  template <typename C> static TMB_INLINE C two_u(C z) {
    return C(2 * kSqrt2OverPi) * z * (C(1) + C(0.044715) * z * z);
  }
  template <typename C> static TMB_INLINE C value(C z) { return z * tmb::sigmoid(two_u(z)).value; }
  template <typename C> static TMB_INLINE C slope(C z) {
    const auto s = tmb::sigmoid(two_u(z));
    const C two_du = C(2 * kSqrt2OverPi) * (C(1) + C(3 * 0.044715) * z * z);
    return s.value * (C(1) + z * (s.complement * two_du));  // σ + zσ(1 − σ)·2u′
  }
};

template <>
struct Phi<Activation::softplus> {
  template <typename C> static TMB_INLINE C value(C z) {
    const C soft = (z > C(0) ? z : C(0)) + log1p(exp_nonpositive(-magnitude(z)));
    return z > C(kSoftplusThreshold) ? z : soft;
  }
  template <typename C> static TMB_INLINE C slope(C z) {
    return z > C(kSoftplusThreshold) ? C(1) : tmb::sigmoid(z).value;
  }
};

// Without a branch: max(z,0) + e^{min(z,0)} − 1.
template <>
struct Phi<Activation::elu> {
  template <typename C> static TMB_INLINE C value(C z) {
    return (z > C(0) ? z : C(0)) + expm1_nonpositive(z > C(0) ? C(0) : z);
  }
  template <typename C> static TMB_INLINE C slope(C z) { return exp_nonpositive(z > C(0) ? C(0) : z); }
};

template <>
struct Phi<Activation::relu_squared> {
  template <typename C> static TMB_INLINE C value(C z) {
    const C r = z < C(0) ? C(0) : z;
    return r * r;
  }
  template <typename C> static TMB_INLINE C slope(C z) { return C(2) * (z < C(0) ? C(0) : z); }
};

// φ′ from what was kept; a unit of the mask arrives as 0 or 1.
template <Activation A, Kind K, typename C>
TMB_INLINE C slope_from(C kept) {
  if constexpr (K == Kind::h) {
    return Phi<A>::slope_from_output(kept);
  } else if constexpr (K == Kind::z) {
    return Phi<A>::slope(kept);
  } else {
    return step(kept, Phi<A>::slope(C(-1)));
  }
}

}  // namespace tmb
