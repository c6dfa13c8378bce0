// What the ops on a whole net are given, and its checks.
#pragma once

#include "checks.h"

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

  bool is(LossKind k) const { return kind == static_cast<int64_t>(k); }
};

// Which gradients are wanted.
struct Wanted {
  bool dw1 = true, db1 = true, dw2 = true, db2 = true;

  bool hidden() const { return dw1 || db1; }
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

// All but the labels themselves.
inline Activation check_step(const char* op, const NetTensors& t, const LossArguments& a, int64_t activation) {
  const Activation phi = check_net(op, t, activation);
  const int64_t B = t.x.size(0), q = t.w2.size(0);
  const ScalarType type = t.x.scalar_type();
  STD_TORCH_CHECK(a.kind >= 0 && a.kind <= static_cast<int64_t>(LossKind::bce_with_logits), op,
                  ": loss must be in [0, 2], got ", a.kind);
  STD_TORCH_CHECK(a.normalizer == 0 || (a.mean && a.normalizer > 0), op,
                  ": normalizer must be positive, and the loss a mean, or 0; got ", a.normalizer);
  check_beside(op, "row_weight", a.row_weight, {B}, type, t.x);
  if (!a.is(LossKind::cross_entropy)) {
    check_beside(op, "y", a.y, {B, q}, type, t.x);
    return phi;
  }
  check_beside(op, "y", a.y, {B}, ScalarType::Long, t.x);
  check_beside(op, "class_weight", a.class_weight, {q}, type, t.x);
  check_smoothing(op, a.smoothing);
  return phi;
}

inline void check_gradients(const char* op, const NetTensors& t, const MaybeTensor& dw1, const MaybeTensor& db1,
                            const MaybeTensor& dw2, const MaybeTensor& db2) {
  const int64_t d = t.w1.size(1), h = t.w1.size(0), q = t.w2.size(0);
  check_beside(op, "dw1", dw1, {h, d}, t.x.scalar_type(), t.x);
  check_beside(op, "db1", db1, {h}, t.x.scalar_type(), t.x);
  check_beside(op, "dw2", dw2, {q, h}, t.x.scalar_type(), t.x);
  check_beside(op, "db2", db2, {q}, t.x.scalar_type(), t.x);
}

// The net's parameters in their fixed order, w1, b1, w2, b2, of which the biases may be absent.
struct InOrder {
  const Tensor* parameters[4];
  int places[4];  // of each among all four
  int64_t count = 0;

  explicit InOrder(const NetTensors& t) {
    add(t.w1, 0);
    if (t.b1.has_value()) {
      add(*t.b1, 1);
    }
    add(t.w2, 2);
    if (t.b2.has_value()) {
      add(*t.b2, 3);
    }
  }

  void check(const char* op, const char* name, const Tensors& state) const {
    STD_TORCH_CHECK(static_cast<int64_t>(state.size()) == count, op, ": ", name, " must have ", count,
                    " tensors, one for each parameter, got ", state.size());
    for (int64_t i = 0; i < count; ++i) {
      check_parameter(op, name, i, state[i], *parameters[i], parameters[i]->scalar_type());
    }
  }

 private:
  void add(const Tensor& parameter, int place) {
    parameters[count] = &parameter;
    places[count++] = place;
  }
};

}  // namespace tmb
