// Ops that other ops call. Each has checked its arguments and works in place; see torch_manual_bp/kernels.
#pragma once

#include "../checks.h"

namespace tmb {

void bias_act_(Tensor z, MaybeTensor bias, int64_t activation);
void bias_act_keep_(Tensor z, Tensor h, MaybeTensor bias, int64_t activation);
void dact_(Tensor dh, Tensor saved, int64_t activation, int64_t kind);
Tensor dact_bias_grad_(Tensor dh, Tensor saved, int64_t activation, int64_t kind);
int64_t dact_scratch(int64_t B, int64_t h);  // bytes that either takes, but for an identity without sums

Tensor objective_sgd_(const Tensor& x, const Tensor& y, const MaybeTensor& row_weight, const Tensor& w1,
                      const MaybeTensor& b1, const Tensor& w2, const MaybeTensor& b2, const MaybeTensor& class_weight,
                      int64_t activation, int64_t loss, double label_smoothing, int64_t ignore_index, bool mean,
                      double weight_decay, const std::vector<Tensor>& momentum_buffer, const Tensor& hyper,
                      double clip_norm, bool nesterov);
Tensor objective_adam_(const Tensor& x, const Tensor& y, const MaybeTensor& row_weight, const Tensor& w1,
                       const MaybeTensor& b1, const Tensor& w2, const MaybeTensor& b2, const MaybeTensor& class_weight,
                       int64_t activation, int64_t loss, double label_smoothing, int64_t ignore_index, bool mean,
                       double weight_decay, const std::vector<Tensor>& exp_avg, const std::vector<Tensor>& exp_avg_sq,
                       const std::vector<Tensor>& step, const Tensor& hyper, double clip_norm, bool decoupled);

}  // namespace tmb
