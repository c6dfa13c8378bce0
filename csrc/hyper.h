// The numbers of an optimizer for one parameter: a row of `hyper`, in the order in which the ops take it.
#pragma once

#include <cstdint>

namespace tmb {

struct SgdHyper {
  double penalty, lr, weight_decay, momentum;
};
struct AdamHyper {
  double penalty, lr, weight_decay, beta1, beta2, eps;
};
template <typename Hyper>
constexpr int64_t kHyperColumns = sizeof(Hyper) / sizeof(double);

}  // namespace tmb
