// The numbers of an optimizer for one parameter: a row of `hyper`, in the order in which the ops take it; and what is
// checked of an update.
#pragma once

#include "checks.h"

namespace tmb {

struct SgdHyper {
  double penalty, lr, weight_decay, momentum;
};
struct AdamHyper {
  double penalty, lr, weight_decay, beta1, beta2, eps;
};
template <typename Hyper>
constexpr int64_t kHyperColumns = sizeof(Hyper) / sizeof(double);

inline void check_sgd_update(const Tensors& p, const Tensors& g, const Tensors& momentum_buffer, const Tensor& hyper) {
  check_hyper("sgd_", hyper, static_cast<int64_t>(p.size()), kHyperColumns<SgdHyper>);
  check_list("sgd_", "p", p, p);
  check_list("sgd_", "g", g, p);
  if (!momentum_buffer.empty()) {
    check_list("sgd_", "momentum_buffer", momentum_buffer, p);
  }
}

inline void check_adam_update(const Tensors& p, const Tensors& g, const Tensors& exp_avg, const Tensors& exp_avg_sq,
                              const Tensors& step, const Tensor& hyper) {
  check_hyper("adam_", hyper, static_cast<int64_t>(p.size()), kHyperColumns<AdamHyper>);
  check_list("adam_", "p", p, p);
  check_list("adam_", "g", g, p);
  check_list("adam_", "exp_avg", exp_avg, p);
  check_list("adam_", "exp_avg_sq", exp_avg_sq, p);
  check_steps("adam_", step, p.size(), p[0]);
}

}  // namespace tmb
