// What the ops on a whole net are given, its checks, and what the sums of a pass over the rows amount to.
#pragma once

#include "tensors.h"

namespace tmb {

enum class LossKind : int64_t { cross_entropy, mse, bce_with_logits };

struct NetTensors {
  const Tensor &x, &w1, &w2;
  const MaybeTensor &b1, &b2;
};

struct LossArguments {
  const Tensor& y;
  const MaybeTensor &row_weight, &class_weight;
  int64_t kind;
  double smoothing;
  int64_t ignore_index;
  bool mean;
  double normalizer;  // in place of N; 0: N itself
};

// Which gradients are wanted.
struct Wanted {
  bool dw1 = true, db1 = true, dw2 = true, db2 = true;

  TMB_INLINE bool hidden() const { return dw1 || db1; }
};

inline Activation check_net(const char* op, const NetTensors& t, int64_t activation) {
  check_matrix(op, "x", t.x);
  check_matrix(op, "w1", t.w1);
  check_matrix(op, "w2", t.w2);
  const ScalarType type = t.x.scalar_type();
  STD_TORCH_CHECK(type == wide_type(type), op, ": x must be float32 or float64, got ",
                  torch::headeronly::toString(type));
  const int64_t h = t.w1.size(0), q = t.w2.size(0);
  check_beside(op, "w1", t.w1, {h, t.x.size(1)}, type, t.x);
  check_beside(op, "b1", t.b1, {h}, type, t.x);
  check_beside(op, "w2", t.w2, {q, h}, type, t.x);
  check_beside(op, "b2", t.b2, {q}, type, t.x);
  return checked_activation(op, activation);
}

// All but the labels, whose numbers are on the device.
inline Activation check_step(const char* op, const NetTensors& t, const LossArguments& a, int64_t activation) {
  const Activation phi = check_net(op, t, activation);
  const int64_t B = t.x.size(0), q = t.w2.size(0);
  const ScalarType type = t.x.scalar_type();
  STD_TORCH_CHECK(a.kind >= 0 && a.kind <= static_cast<int64_t>(LossKind::bce_with_logits), op,
                  ": loss must be in [0, 2], got ", a.kind);
  STD_TORCH_CHECK(a.normalizer == 0 || (a.mean && a.normalizer > 0), op,
                  ": normalizer must be positive, and the loss a mean, or 0; got ", a.normalizer);
  check_beside(op, "row_weight", a.row_weight, {B}, type, t.x);
  if (a.kind != static_cast<int64_t>(LossKind::cross_entropy)) {
    check_beside(op, "y", a.y, {B, q}, type, t.x);
    return phi;
  }
  check_beside(op, "y", a.y, {B}, ScalarType::Long, t.x);
  check_beside(op, "class_weight", a.class_weight, {q}, type, t.x);
  check_smoothing(op, a.smoothing);
  return phi;
}

// Where objective_gradient_ writes.
struct GradientTensors {
  const MaybeTensor &dw1, &db1, &dw2, &db2;

  Wanted wanted() const { return {dw1.has_value(), db1.has_value(), dw2.has_value(), db2.has_value()}; }

  void check(const char* op, const NetTensors& t) const {
    const int64_t d = t.w1.size(1), h = t.w1.size(0), q = t.w2.size(0);
    check_beside(op, "dw1", dw1, {h, d}, t.x.scalar_type(), t.x);
    check_beside(op, "db1", db1, {h}, t.x.scalar_type(), t.x);
    check_beside(op, "dw2", dw2, {q, h}, t.x.scalar_type(), t.x);
    check_beside(op, "db2", db2, {q}, t.x.scalar_type(), t.x);
  }
};

// The net's parameters in their fixed order, w1, b1, w2, b2, of which the biases may be absent.
struct InOrder {
  const Tensor* parameters[4];
  int64_t count = 0;

  explicit InOrder(const NetTensors& t) {
    parameters[count++] = &t.w1;
    if (t.b1.has_value()) {
      parameters[count++] = &*t.b1;
    }
    parameters[count++] = &t.w2;
    if (t.b2.has_value()) {
      parameters[count++] = &*t.b2;
    }
  }

  void check(const char* op, const char* name, const Tensors& state) const {
    STD_TORCH_CHECK(static_cast<int64_t>(state.size()) == count, op, ": ", name, " must have ", count,
                    " tensors, one for each parameter, got ", state.size());
    for (int64_t i = 0; i < count; ++i) {
      check_parameter(op, name, i, state[i], *parameters[i], parameters[i]->scalar_type());
    }
  }

  // Of each parameter, the one of the four sums, in their order, that is its own.
  template <typename T>
  std::array<T, 4> of(T w1, T b1, T w2, T b2) const {
    const bool has_b1 = count == 4 || (count == 3 && parameters[1]->dim() == 1);
    return has_b1 ? std::array<T, 4>{w1, b1, w2, b2} : std::array<T, 4>{w1, w2, b2, b2};
  }
};

inline Wanted wanted_of(const NetTensors& t) { return {true, t.b1.has_value(), true, t.b2.has_value()}; }

// What the sums over the rows amount to.
struct Amount {
  double scale;  // ∂L/∂X = scale · sum
  double share;  // of the penalty: N / normalizer
  double J;
};

// How Σ r l and N become J, from which λ follows what the gradients are to be multiplied with.
struct Reduction {
  double factor = 1, columns = 1, normalizer = 0, weight_decay = 0;
  bool mean = false;

  Reduction() = default;
  Reduction(const NetTensors& t, const LossArguments& a, double weight_decay)
      : factor(a.kind == static_cast<int64_t>(LossKind::mse) ? 2 : 1),  // (o − y)²′ = 2(o − y)
        columns(a.kind == static_cast<int64_t>(LossKind::cross_entropy) ? 1 : static_cast<double>(t.w2.size(0))),
        normalizer(a.normalizer),
        weight_decay(weight_decay),
        mean(a.mean) {}

  // squares: ‖W1‖² + ‖W2‖², which count where λ ≠ 0 only
  TMB_INLINE Amount amount(double loss, double N, double squares) const {
    const double divisor = mean ? (normalizer > 0 ? normalizer : N) * columns : 1;
    const double share = normalizer > 0 ? N / normalizer : 1;
    const double penalty = weight_decay != 0 ? share * weight_decay / 2 * squares : 0;
    return {divisor == 0 ? 0 : factor / divisor, share, loss / divisor + penalty};
  }
};

}  // namespace tmb
