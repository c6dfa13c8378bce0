// A number whose functions are good to 3·10⁻⁵, relative: in it CUDA computes φ and φ′ of what is rounded to 16 bits.
//
// A bfloat16 is read and written in the time of 29 instructions (docs/cuda.md), of which Φ in float would take 40. The
// argument's own rounding enters eˣ as |x| 2⁻²⁴, which is 5·10⁻⁶ where eˣ underflows.
#pragma once

#include "math.h"

namespace tmb {

struct Coarse {
  float value;

  template <typename Number>
  TMB_INLINE explicit constexpr Coarse(Number number) : value(static_cast<float>(number)) {}
  TMB_INLINE explicit operator float() const { return value; }
};

TMB_INLINE Coarse operator-(Coarse a) { return Coarse(-a.value); }
TMB_INLINE Coarse operator+(Coarse a, Coarse b) { return Coarse(a.value + b.value); }
TMB_INLINE Coarse operator-(Coarse a, Coarse b) { return Coarse(a.value - b.value); }
TMB_INLINE Coarse operator*(Coarse a, Coarse b) { return Coarse(a.value * b.value); }
TMB_INLINE bool operator<(Coarse a, Coarse b) { return a.value < b.value; }
TMB_INLINE bool operator<=(Coarse a, Coarse b) { return a.value <= b.value; }
TMB_INLINE bool operator>(Coarse a, Coarse b) { return a.value > b.value; }

TMB_INLINE Coarse magnitude(Coarse x) { return Coarse(std::fabs(x.value)); }
TMB_INLINE Coarse reciprocal(Coarse x) { return Coarse(reciprocal(x.value)); }

TMB_INLINE Coarse exp_nonpositive(Coarse x) {
  const float y = 1.44269504f * x.value;
#if defined(__CUDA_ARCH__)
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(y));  // 2 ulp; 0 where it would be subnormal
  return Coarse(power);
#else
  return Coarse(std::exp2(y));
#endif
}

// eˣ − 1 by its series where the difference would cancel.
TMB_INLINE Coarse expm1_nonpositive(Coarse x) {
  const float v = x.value, series = v + v * v * (0.5f + 0.166666667f * v);
  return Coarse(v > -0.03125f ? series : exp_nonpositive(x).value - 1.0f);
}

// 1 − 2/(1 + e^{2|x|}), and again the series near 0.
TMB_INLINE Coarse tanh(Coarse x) {
  const float v = x.value, e = exp_nonpositive(Coarse(-2.0f * std::fabs(v))).value;
  const float far = std::copysign(1.0f - 2.0f * e * reciprocal(1.0f + e), v), s = v * v;
  return Coarse(s < 0.005f ? v - 0.333333333f * s * v : far);
}

// As for float, with a shorter polynomial.
TMB_INLINE Coarse log1p(Coarse x) {
  const float s = ratio(x.value, 2.0f + x.value), w = s * s;
  float p = 0.3270763f;
  p = p * w + 0.39821452f;
  p = p * w + 0.66667794f;
  return Coarse(s * (2.0f + w * p));
}

// Φ(−|x|) = e^{−x²/2} t p(t) all the way from 0, t = 1/(1 + 0.32 |x|).
TMB_INLINE Normal<Coarse> normal(Coarse x) {
  const float v = x.value, bell = exp_nonpositive(Coarse(-0.5f * v * v)).value;
  const float t = reciprocal(1.0f + 0.32f * std::fabs(v));
  float p = -0.06410831f;
  p = p * t + 0.13295626f;
  p = p * t + 0.05557295f;
  p = p * t + 0.12070298f;
  p = p * t + 0.12721626f;
  p = p * t + 0.12766959f;
  const float tail = bell * (t * p);
  return {Coarse(v > 0.0f ? 1.0f - tail : tail), Coarse(bell)};
}

}  // namespace tmb
