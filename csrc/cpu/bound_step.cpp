#include "../bound_steps.h"

#include <torch/csrc/stable/library.h>

#include "ops.h"

namespace tmb {
namespace {

int64_t bind_sgd(Tensor w1, MaybeTensor b1, Tensor w2, MaybeTensor b2, MaybeTensor class_weight, int64_t activation,
                 int64_t loss, double label_smoothing, int64_t ignore_index, bool mean, double weight_decay,
                 Tensors momentum_buffer, Tensor hyper, double clip_norm, bool nesterov) {
  return bind_call(&objective_sgd_, w1, b1, w2, b2, class_weight, activation, loss, label_smoothing, ignore_index, mean,
                   weight_decay, momentum_buffer, hyper, clip_norm, nesterov);
}

int64_t bind_adam(Tensor w1, MaybeTensor b1, Tensor w2, MaybeTensor b2, MaybeTensor class_weight, int64_t activation,
                  int64_t loss, double label_smoothing, int64_t ignore_index, bool mean, double weight_decay,
                  Tensors exp_avg, Tensors exp_avg_sq, Tensors step, Tensor hyper, double clip_norm, bool decoupled) {
  return bind_call(&objective_adam_, w1, b1, w2, b2, class_weight, activation, loss, label_smoothing, ignore_index, mean,
                   weight_decay, exp_avg, exp_avg_sq, step, hyper, clip_norm, decoupled);
}

Tensor step_bound_(Tensor x, Tensor y, int64_t number) { return (*BoundSteps::all().find(number))(x, y); }

void unbind(int64_t number) { BoundSteps::all().remove(number); }

}  // namespace
}  // namespace tmb

STABLE_TORCH_LIBRARY_IMPL(torch_manual_bp, CPU, m) {
  m.impl("bind_sgd", TORCH_BOX(&tmb::bind_sgd));
  m.impl("bind_adam", TORCH_BOX(&tmb::bind_adam));
  m.impl("step_bound_", TORCH_BOX(&tmb::step_bound_));
}

STABLE_TORCH_LIBRARY_IMPL(torch_manual_bp, CompositeExplicitAutograd, m) { m.impl("unbind", TORCH_BOX(&tmb::unbind)); }
