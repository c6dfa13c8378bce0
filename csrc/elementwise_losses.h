// The losses that are sums over single logits, one definition for CPU and CUDA.
#pragma once

#include "math.h"

namespace tmb {

// l(o, y), and Ĝ: its derivative by o up to kFactor, which goes into the scale.
template <typename C>
struct LossTerm {
  C loss, gradient;
};

struct SquaredError {
  static constexpr double kFactor = 2;
  template <typename C>
  static TMB_INLINE LossTerm<C> at(C o, C y) {
    const C residual = o - y;
    return {residual * residual, residual};
  }
};

// max(o,0) − o y + log(1 + e^{−|o|}), and σ(o) − y.
struct BinaryCrossEntropy {
  static constexpr double kFactor = 1;
  template <typename C>
  static TMB_INLINE LossTerm<C> at(C o, C y) {
    const C e = exp_nonpositive(-magnitude(o)), larger = reciprocal(C(1) + e);
    const C loss = (o > C(0) ? o : C(0)) - o * y + log1p(e);
    return {loss, (o > C(0) ? larger : e * larger) - y};
  }
};

}  // namespace tmb
