// What the ops on a whole net are given.
#pragma once

#include "../checks.h"

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

  bool hidden() const { return dw1 || db1; }
};

}  // namespace tmb
