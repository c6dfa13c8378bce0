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

// o ← Ĝ for arguments that were checked, labels too: Σ r l and N.
LossSum cross_entropy_sums(const Tensor& o, const MaybeTensor& bias, const Tensor& target,
                           const MaybeTensor& class_weight, const MaybeTensor& row_weight, double smoothing,
                           int64_t ignore_index);
LossSum mse_sums(const Tensor& o, const MaybeTensor& bias, const Tensor& target, const MaybeTensor& row_weight);
LossSum bce_with_logits_sums(const Tensor& o, const MaybeTensor& bias, const Tensor& target,
                             const MaybeTensor& row_weight);

// The same rows for whoever has checked them: o (rows,q) ← Ĝ in this thread, without a tensor made; float and double.
template <typename T>
struct LossRows {
  T* o;
  const T* bias;        // what is added to o: q numbers, for an elementwise loss q for each row
  const T* row_weight;  // r: null for 1, but an elementwise loss needs q for each row
  int64_t rows, q;
};

// workspace has room for q + 16.
template <typename T>
LossSum cross_entropy_rows(const LossRows<T>& rows, const int64_t* target, const T* class_weight,
                           double class_weight_sum, double smoothing, int64_t ignore_index, T* workspace);
template <typename T>
double mse_rows(const LossRows<T>& rows, const T* target);
template <typename T>
double bce_with_logits_rows(const LossRows<T>& rows, const T* target);

}  // namespace tmb
