// Ops that other ops call. Each has checked its arguments and works in place; see torch_manual_bp/kernels.
#pragma once

#include "../checks.h"

namespace tmb {

void bias_act_(Tensor z, MaybeTensor bias, int64_t activation);
void bias_act_keep_(Tensor z, Tensor h, MaybeTensor bias, int64_t activation);
void dact_(Tensor dh, Tensor saved, int64_t activation, int64_t kind);
Tensor dact_bias_grad_(Tensor dh, Tensor saved, int64_t activation, int64_t kind);

}  // namespace tmb
