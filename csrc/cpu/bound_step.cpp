#include "../bound_steps.h"

#include <torch/csrc/stable/library.h>

#include "ops.h"

namespace tmb {
namespace {

void unbind(int64_t number) { BoundSteps::all().remove(number); }

}  // namespace
}  // namespace tmb

STABLE_TORCH_LIBRARY_IMPL(torch_manual_bp, CPU, m) {
  m.impl("bind_sgd", TORCH_BOX(&tmb::Bind<tmb::objective_sgd_>::op));
  m.impl("bind_adam", TORCH_BOX(&tmb::Bind<tmb::objective_adam_>::op));
  m.impl("step_bound_", TORCH_BOX(&tmb::step_bound_));
}

STABLE_TORCH_LIBRARY_IMPL(torch_manual_bp, CompositeExplicitAutograd, m) { m.impl("unbind", TORCH_BOX(&tmb::unbind)); }
