// sgd_products_: SGD inside the products that would make the weights' gradients. The products are torch's, by the C shim
// of each device.
#pragma once

#include "hyper.h"
#include "tensors.h"

namespace tmb {

// The parameters, and what the pass has left of their gradients: dW1 = dzᵀ x, dW2 = gᵀ h, up to a factor; db1, db2.
struct SgdProducts {
  const Tensor &w1, &w2;
  const MaybeTensor &b1, &b2;
  const Tensor &x, &h, &g, &dz;
  const MaybeTensor &db1, &db2;
  const SgdHyper* hyper;  // a row for each parameter there is, in the order w1, b1, w2, b2
  double factor;
};

inline void check_sgd_products(const SgdProducts& a, const Tensor& hyper) {
  constexpr const char* op = "sgd_products_";
  check_matrix(op, "x", a.x);
  const ScalarType type = a.x.scalar_type(), wide = wide_type(type);
  const int64_t B = a.x.size(0), d = a.x.size(1);
  check_matrix(op, "w2", a.w2);
  const int64_t q = a.w2.size(0), h = a.w2.size(1);
  check_beside(op, "w1", a.w1, {h, d}, type, a.x);
  check_beside(op, "b1", a.b1, {h}, type, a.x);
  check_beside(op, "w2", a.w2, {q, h}, type, a.x);
  check_beside(op, "b2", a.b2, {q}, type, a.x);
  check_beside(op, "h", a.h, {B, h}, type, a.x);
  check_beside(op, "g", a.g, {B, q}, type, a.x);
  check_beside(op, "dz", a.dz, {B, h}, type, a.x);
  STD_TORCH_CHECK(a.db1.has_value() == a.b1.has_value() && a.db2.has_value() == a.b2.has_value(), op,
                  ": db1 and db2 must be there where b1 and b2 are");
  check_beside(op, "db1", a.db1, {h}, wide, a.x);
  check_beside(op, "db2", a.db2, {q}, wide, a.x);
  check_hyper(op, hyper, 2 + a.b1.has_value() + a.b2.has_value(), kHyperColumns<SgdHyper>);
}

// addmm_out: the device's aoti_torch_…_addmm_out. update_bias(b, db, keep, rate): b ← keep b − rate db.
template <typename Addmm, typename UpdateBias>
void update_by_products(const SgdProducts& a, Addmm* addmm_out, const UpdateBias& update_bias) {
  const SgdHyper* hyper = a.hyper;
  // W ← (1 − η(λ + weight_decay)) W − η factor leftᵀ right
  const auto weight = [&](const Tensor& w, const Tensor& left, const Tensor& right) {
    const double keep = 1 - hyper->lr * (hyper->penalty + hyper->weight_decay);
    TORCH_ERROR_CODE_CHECK(addmm_out(w.get(), w.get(), transposed(left).get(), right.get(), keep,
                                     -hyper->lr * a.factor));
    ++hyper;
  };
  const auto bias = [&](const MaybeTensor& b, const MaybeTensor& db) {
    if (b.has_value()) {
      update_bias(*b, *db, 1 - hyper->lr * hyper->weight_decay, hyper->lr);
      ++hyper;
    }
  };
  weight(a.w1, a.dz, a.x);
  bias(a.b1, a.db1);
  weight(a.w2, a.g, a.h);
  bias(a.b2, a.db2);
}

}  // namespace tmb
