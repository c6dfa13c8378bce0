#include "../bound_steps.h"

#include <torch/csrc/stable/library.h>

#include "one_call.cuh"

STABLE_TORCH_LIBRARY_IMPL(torch_manual_bp, CUDA, m) {
  m.impl("bind_sgd", TORCH_BOX(&tmb::Bind<tmb::cuda::objective_sgd_>::op));
  m.impl("bind_adam", TORCH_BOX(&tmb::Bind<tmb::cuda::objective_adam_>::op));
  m.impl("step_bound_", TORCH_BOX(&tmb::step_bound_));
}
