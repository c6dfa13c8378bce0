// A row's cross-entropy and its gradient by the logits: one definition for whole rows and for tiles of classes, on CPU
// and CUDA. With e_k = e^{x_k − top} and mass = Σ_k e_k the softmax is p_k = e_k / mass.
#pragma once

#include <limits>

#include "math.h"

namespace tmb {

// t_k = (1−ε) w_y [k=y] + (ε/q) w_k, the weight of each class in l = Σ_k t_k (−log p_k).
struct TargetMass {
  double hard, soft, class_weight_sum;  // (1−ε) w_y, ε/q, Σ_k w_k

  TMB_INLINE TargetMass(double smoothing, int64_t classes, double label_weight, double class_weight_sum)
      : hard((1 - smoothing) * label_weight),
        soft(smoothing / static_cast<double>(classes)),
        class_weight_sum(class_weight_sum) {}

  // a = Σ_k t_k
  TMB_INLINE double total() const { return hard + soft * class_weight_sum; }

  // l from log Σ_k e_k, top − x_y, and Σ_k w_k (top − x_k), which counts where soft > 0 only: 0 · ∞ would be NaN.
  TMB_INLINE double loss(double log_mass, double label_below_top, double weighted_below_top) const {
    const double at_label = hard * (log_mass + label_below_top);
    return soft > 0 ? at_label + soft * (class_weight_sum * log_mass + weighted_below_top) : at_label;
  }
};

// Ĝ_k = r (a p_k − t_k)
template <typename C>
struct RowGradient {
  C per_mass, hard, soft;

  TMB_INLINE RowGradient(const TargetMass& t, double r, double mass)
      : per_mass(static_cast<C>(r * t.total() / mass)),
        hard(static_cast<C>(r * t.hard)),
        soft(static_cast<C>(r * t.soft)) {}

  TMB_INLINE C at(C e, C w) const { return per_mass * e - soft * w; }
  TMB_INLINE C at_label(C e, C w) const { return per_mass * e - hard - soft * w; }
};

// What is known of a row when some of its classes have been read: a row of the ops' `statistics`. Every term of the sums
// is ≥ 0, so that nothing cancels.
struct RowStatistics {
  double top;           // max_k x_k; −∞ before the first class, finite or +∞ afterwards
  double mass;          // Σ_k e^{x_k − top}
  double label_logit;   // x_y, NaN until its class has been read
  double label_weight;  // w_y, likewise
  double weight;        // Σ_k w_k
  double below_top;     // Σ_k w_k (top − x_k)

  // The sums as they are from a higher top.
  TMB_INLINE void raise(double higher) {
    if (!(higher > top)) {
      return;
    }
    if (top > -std::numeric_limits<double>::infinity()) {
      mass *= ::exp(top - higher);
      below_top += weight * (higher - top);
    }
    top = higher;
  }

  TMB_INLINE double loss(const TargetMass& t) const { return t.loss(::log(mass), top - label_logit, below_top); }
};

// Of the ops over tiles of classes.
struct ClassOptions {
  int64_t classes, ignore_index;
  double smoothing;

  TMB_INLINE TargetMass target_mass(const RowStatistics& s) const {
    return {smoothing, classes, s.label_weight, s.weight};
  }
};

constexpr int64_t kStatistics = sizeof(RowStatistics) / sizeof(double);

}  // namespace tmb
