// Ops that other ops call; see torch_manual_bp/kernels.
#pragma once

#include "../net_arguments.h"

namespace tmb::cuda {

Tensor objective_sgd_(const Tensor& x, const Tensor& y, const MaybeTensor& row_weight, const Tensor& w1,
                      const MaybeTensor& b1, const Tensor& w2, const MaybeTensor& b2, const MaybeTensor& class_weight,
                      int64_t activation, int64_t loss, double label_smoothing, int64_t ignore_index, bool mean,
                      double weight_decay, const Tensors& momentum_buffer, const Tensor& hyper, double clip_norm,
                      bool nesterov);
Tensor objective_adam_(const Tensor& x, const Tensor& y, const MaybeTensor& row_weight, const Tensor& w1,
                       const MaybeTensor& b1, const Tensor& w2, const MaybeTensor& b2, const MaybeTensor& class_weight,
                       int64_t activation, int64_t loss, double label_smoothing, int64_t ignore_index, bool mean,
                       double weight_decay, const Tensors& exp_avg, const Tensors& exp_avg_sq, const Tensors& step,
                       const Tensor& hyper, double clip_norm, bool decoupled);

}  // namespace tmb::cuda
