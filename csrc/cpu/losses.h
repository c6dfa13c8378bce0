// What the losses share on the CPU: sums over fixed chunks in a fixed order, and the two results.
#pragma once

#include <cmath>
#include <limits>
#include <tuple>

#include "loops.h"

namespace tmb {

constexpr int64_t kShortSum = 512;  // terms of a row that are summed in C before they go into a double

// Σ r_b l_b and N, of a chunk or of all rows.
struct LossSum {
  double loss = 0, weight = 0;
};

// (L, scale) = (loss, factor) / N, with NaN and 0 where N, a count or a sum of weights, is 0.
inline std::tuple<Tensor, Tensor> loss_and_scale(const Tensor& o, double loss, double normaliser, double factor) {
  const ScalarType type = wide_type(o.scalar_type());
  Tensor value = new_tensor(o, {}, type), scale = new_tensor(o, {}, type);
  const double per_weight = normaliser == 0 ? 0 : factor / normaliser;
  if (type == ScalarType::Double) {
    *data<double>(value) = loss / normaliser;
    *data<double>(scale) = per_weight;
  } else {
    *data<float>(value) = static_cast<float>(loss / normaliser);
    *data<float>(scale) = static_cast<float>(per_weight);
  }
  return {value, scale};
}

}  // namespace tmb
