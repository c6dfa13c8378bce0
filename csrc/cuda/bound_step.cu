#include "../bound_step.h"

#include "launch.cuh"
#include "one_call.cuh"

STABLE_TORCH_LIBRARY_IMPL(torch_manual_bp, CUDA, m) {
  m.impl("bind_sgd", TORCH_BOX(&tmb::bind_sgd<tmb::cuda::objective_sgd_>));
  m.impl("bind_adam", TORCH_BOX(&tmb::bind_adam<tmb::cuda::objective_adam_>));
  m.impl("step_bound_", TORCH_BOX(&tmb::step_bound_));
}
