// torch.optim's SGD, Adam and AdamW over some parameters in one pass, for gradients that are sums not yet scaled.
#pragma once

#include "../hyper.h"

namespace tmb {

// A parameter: ∂J/∂p = scale · sum + penalty · p.
template <typename T>
struct Parameter {
  T* p;
  const T* sum;
  int64_t n;
  T* first;      // momentum buffer (null: momentum is 0) or exp_avg
  T* second;     // exp_avg_sq
  double steps;  // of Adam, this one included
};

// Σ v²: short sums in T, these in double, in a fixed order.
template <typename T>
double sum_squares(const T* v, int64_t n);

// clip_norm = ∞: no clipping, and no pass for the norm. What is large is cut over threads; the norm does not depend on them.
template <typename T>
void sgd_update(const Parameter<T>* parameters, const SgdHyper* hyper, int64_t count, double scale, double clip_norm,
                bool nesterov);
template <typename T>
void adam_update(const Parameter<T>* parameters, const AdamHyper* hyper, int64_t count, double scale, double clip_norm,
                 bool decoupled);

}  // namespace tmb
