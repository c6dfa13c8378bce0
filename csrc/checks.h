// Every check of shape, dtype, device and layout. Each runs before its op writes; Python has told users more kindly.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <array>
#include <initializer_list>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "activations.h"

namespace tmb {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;

// The dtype that is computed in, which losses and weights have.
inline ScalarType wide_type(ScalarType type) { return type == ScalarType::Double ? type : ScalarType::Float; }

template <typename Sizes>
std::string shape_text(const Sizes& sizes) {
  std::ostringstream text;
  text << '(';
  const char* comma = "";
  for (const int64_t size : sizes) {
    text << comma << size;
    comma = ", ";
  }
  text << ')';
  return text.str();
}

// A contiguous floating-point matrix that the op works on in place, or reads.
inline void check_matrix(const char* op, const char* name, const Tensor& t) {
  STD_TORCH_CHECK(t.dim() == 2, op, ": ", name, " must be 2-d, got shape ", shape_text(t.sizes()));
  const ScalarType type = t.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double || type == ScalarType::BFloat16 ||
                      type == ScalarType::Half,
                  op, ": ", name, " must be float32, float64, bfloat16 or float16, got ",
                  torch::headeronly::toString(type));
  STD_TORCH_CHECK(t.is_contiguous(), op, ": ", name, " must be contiguous, got strides ", shape_text(t.strides()));
}

// A contiguous companion of the matrix: of this shape and dtype, on the same device.
inline void check_beside(const char* op, const char* name, const Tensor& t, std::initializer_list<int64_t> shape,
                         ScalarType type, const Tensor& matrix) {
  const auto sizes = t.sizes();
  bool same = sizes.size() == shape.size();
  for (size_t i = 0; same && i < shape.size(); ++i) {
    same = sizes[i] == shape.begin()[i];
  }
  STD_TORCH_CHECK(same, op, ": ", name, " must have shape ", shape_text(shape), ", got ", shape_text(sizes));
  STD_TORCH_CHECK(t.scalar_type() == type, op, ": ", name, " must be ", torch::headeronly::toString(type), ", got ",
                  torch::headeronly::toString(t.scalar_type()));
  STD_TORCH_CHECK(t.device() == matrix.device(), op, ": ", name, " must be on the device of the tensor worked on");
  STD_TORCH_CHECK(t.is_contiguous(), op, ": ", name, " must be contiguous, got strides ", shape_text(t.strides()));
}

inline void check_beside(const char* op, const char* name, const MaybeTensor& t, std::initializer_list<int64_t> shape,
                         ScalarType type, const Tensor& matrix) {
  if (t.has_value()) {
    check_beside(op, name, *t, shape, type, matrix);
  }
}

inline Activation checked_activation(const char* op, int64_t code) {
  constexpr auto last = static_cast<int64_t>(Activation::relu_squared);
  STD_TORCH_CHECK(code >= 0 && code <= last, op, ": activation must be in [0, ", last, "], got ", code);
  return static_cast<Activation>(code);
}

inline void check_binary(const char* op, Activation a) {
  STD_TORCH_CHECK(a == Activation::relu || a == Activation::leaky_relu, op,
                  ": a mask is enough for relu and leaky_relu only, got activation ", static_cast<int64_t>(a));
}

inline Activation check_bias_act(const char* op, const Tensor& z, const MaybeTensor& bias, int64_t activation) {
  check_matrix(op, "z", z);
  check_beside(op, "bias", bias, {z.size(1)}, z.scalar_type(), z);
  return checked_activation(op, activation);
}

inline Activation check_dact(const char* op, const Tensor& dh, const Tensor& saved, int64_t activation, int64_t kind) {
  const Activation a = checked_activation(op, activation);
  check_matrix(op, "dh", dh);
  STD_TORCH_CHECK(kind >= 0 && kind <= static_cast<int64_t>(Kind::mask), op, ": kind must be in [0, 2], got ", kind);
  if (static_cast<Kind>(kind) == Kind::mask) {
    check_binary(op, a);
    check_beside(op, "saved", saved, {dh.size(0), (dh.size(1) + 7) / 8}, ScalarType::Byte, dh);
    return a;
  }
  STD_TORCH_CHECK(static_cast<Kind>(kind) == Kind::z || a <= Activation::sigmoid, op,
                  ": φ′ does not follow from h for activation ", activation);
  check_beside(op, "saved", saved, {dh.size(0), dh.size(1)}, dh.scalar_type(), dh);
  return a;
}

inline void check_scaled(const char* op, const Tensor& g, const Tensor& factor) {
  check_matrix(op, "g", g);
  check_beside(op, "factor", factor, {}, wide_type(g.scalar_type()), g);
}

inline void check_targets(const char* op, const Tensor& o, const MaybeTensor& bias, const Tensor& target,
                          const MaybeTensor& row_weight) {
  check_matrix(op, "o", o);
  const ScalarType type = o.scalar_type();
  check_beside(op, "bias", bias, {o.size(1)}, type, o);
  const bool as_wide = target.scalar_type() == wide_type(type);  // float32 targets beside low-precision logits
  check_beside(op, "target", target, {o.size(0), o.size(1)}, as_wide ? wide_type(type) : type, o);
  check_beside(op, "row_weight", row_weight, {o.size(0)}, wide_type(type), o);
}

inline void check_labels(const char* op, const Tensor& target) {
  STD_TORCH_CHECK(target.dim() == 1 && target.scalar_type() == ScalarType::Long && target.is_contiguous(), op,
                  ": target must be a contiguous 1-d int64 tensor, got shape ", shape_text(target.sizes()));
}

inline void check_smoothing(const char* op, double smoothing) {
  STD_TORCH_CHECK(smoothing >= 0 && smoothing <= 1, op, ": label_smoothing must be in [0, 1], got ", smoothing);
}

inline void check_cross_entropy(const char* op, const Tensor& o, const MaybeTensor& bias, const Tensor& target,
                                const MaybeTensor& class_weight, const MaybeTensor& row_weight, double smoothing) {
  check_matrix(op, "o", o);
  const ScalarType type = o.scalar_type();
  check_beside(op, "bias", bias, {o.size(1)}, type, o);
  check_beside(op, "target", target, {o.size(0)}, ScalarType::Long, o);
  check_beside(op, "class_weight", class_weight, {o.size(1)}, wide_type(type), o);
  check_beside(op, "row_weight", row_weight, {o.size(0)}, wide_type(type), o);
  check_smoothing(op, smoothing);
}

// o holds the logits of some classes of all rows, first_class on.
inline void check_class_tile(const char* op, const Tensor& o, const MaybeTensor& bias, const Tensor& target,
                             const MaybeTensor& class_weight, int64_t first_class, const Tensor& statistics,
                             int64_t columns) {
  check_matrix(op, "o", o);
  const ScalarType type = o.scalar_type();
  check_beside(op, "bias", bias, {o.size(1)}, type, o);
  check_beside(op, "target", target, {o.size(0)}, ScalarType::Long, o);
  check_beside(op, "class_weight", class_weight, {o.size(1)}, wide_type(type), o);
  check_beside(op, "statistics", statistics, {o.size(0), columns}, ScalarType::Double, o);
  STD_TORCH_CHECK(first_class >= 0, op, ": first_class must be at least 0, got ", first_class);
}

inline void check_class_gradient(const char* op, const Tensor& o, const MaybeTensor& row_weight, int64_t first_class,
                                 int64_t classes, double smoothing) {
  check_beside(op, "row_weight", row_weight, {o.size(0)}, wide_type(o.scalar_type()), o);
  STD_TORCH_CHECK(first_class + o.size(1) <= classes, op, ": o must hold some of the ", classes,
                  " classes, got those in [", first_class, ", ", first_class + o.size(1), ")");
  check_smoothing(op, smoothing);
}

inline void check_class_loss(const char* op, const Tensor& statistics, int64_t columns, const Tensor& target,
                             const MaybeTensor& row_weight, double smoothing) {
  check_labels(op, target);
  check_beside(op, "statistics", statistics, {target.size(0), columns}, ScalarType::Double, target);
  if (row_weight.has_value()) {
    const bool is_float = row_weight->scalar_type() == ScalarType::Float;
    check_beside(op, "row_weight", *row_weight, {target.size(0)}, is_float ? ScalarType::Float : ScalarType::Double,
                 target);
  }
  check_smoothing(op, smoothing);
}

// The numbers of the optimizer: a row for each parameter.
inline void check_hyper(const char* op, const Tensor& hyper, int64_t parameters, int64_t columns) {
  const bool fits = hyper.dim() == 2 && hyper.size(0) == parameters && hyper.size(1) == columns;
  STD_TORCH_CHECK(fits && hyper.scalar_type() == ScalarType::Double && hyper.is_contiguous(), op,
                  ": hyper must be a contiguous float64 tensor of shape ", shape_text(std::array{parameters, columns}),
                  ", got ", torch::headeronly::toString(hyper.scalar_type()), " of shape ", shape_text(hyper.sizes()));
}

// The i-th tensor of a list that goes with the parameters.
inline void check_parameter(const char* op, const char* name, size_t i, const Tensor& t, const Tensor& p,
                            ScalarType type) {
  const auto own = t.sizes(), expected = p.sizes();
  STD_TORCH_CHECK(own.equals(expected), op, ": ", name, "[", i, "] must have shape ", shape_text(expected), ", got ",
                  shape_text(own));
  STD_TORCH_CHECK(t.scalar_type() == type && type == wide_type(type), op, ": ", name, "[", i,
                  "] must be float32 or float64, as p[0], got ", torch::headeronly::toString(t.scalar_type()));
  STD_TORCH_CHECK(t.is_contiguous(), op, ": ", name, "[", i, "] must be contiguous, got strides ",
                  shape_text(t.strides()));
}

inline void check_steps(const char* op, const std::vector<Tensor>& step, size_t parameters) {
  STD_TORCH_CHECK(step.size() == parameters, op, ": step must have ", parameters, " tensors as p, got ", step.size());
  for (const Tensor& t : step) {
    STD_TORCH_CHECK(t.numel() == 1 && t.scalar_type() == ScalarType::Float, op,
                    ": step must hold float32 tensors of one number, got ",
                    torch::headeronly::toString(t.scalar_type()), " of shape ", shape_text(t.sizes()));
  }
}

}  // namespace tmb
