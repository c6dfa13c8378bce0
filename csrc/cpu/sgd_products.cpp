// sgd_products_: SGD whose update of a weight is the matrix product that makes its gradient, in place. No dW exists.
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>
#include <torch/csrc/stable/library.h>

#include "../checks.h"

namespace tmb {
namespace {

using Tensors = std::vector<Tensor>;
using Numbers = std::vector<double>;

void check_products(const char* op, const Tensors& w, const Tensors& left, const Tensors& right, const Numbers& keep,
                    const Numbers& rate) {
  STD_TORCH_CHECK(left.size() == w.size() && right.size() == w.size() && keep.size() == w.size() &&
                      rate.size() == w.size(),
                  op, ": left, right, w_keep and w_rate must be as many as w, ", w.size());
  for (size_t i = 0; i < w.size(); ++i) {
    check_matrix(op, "w", w[i]);
    const bool fits = left[i].dim() == 2 && right[i].dim() == 2 && left[i].size(0) == w[i].size(0) &&
                      right[i].size(1) == w[i].size(1) && left[i].size(1) == right[i].size(0);
    STD_TORCH_CHECK(fits, op, ": left and right must make a product of w's shape ", shape_text(w[i].sizes()), ", got ",
                    shape_text(left[i].sizes()), " and ", shape_text(right[i].sizes()));
    STD_TORCH_CHECK(left[i].scalar_type() == w[i].scalar_type() && right[i].scalar_type() == w[i].scalar_type(), op,
                    ": left and right must have w's dtype");
  }
}

void check_biases(const char* op, const Tensors& b, const Tensors& db, const Numbers& keep, const Numbers& rate) {
  STD_TORCH_CHECK(db.size() == b.size() && keep.size() == b.size() && rate.size() == b.size(), op,
                  ": db, b_keep and b_rate must be as many as b, ", b.size());
  for (size_t i = 0; i < b.size(); ++i) {
    STD_TORCH_CHECK(b[i].dim() == 1, op, ": b must be 1-d, got shape ", shape_text(b[i].sizes()));
    check_beside(op, "b", b[i], {b[i].size(0)}, b[i].scalar_type(), b[i]);
    check_beside(op, "db", db[i], {b[i].size(0)}, b[i].scalar_type(), b[i]);
  }
}

// v ← keep v − rate dv
void decay_and_step(const Tensor& v, const Tensor& dv, double keep, double rate) {
  const auto apply = [&](auto zero) {
    using T = decltype(zero);
    T* const to = static_cast<T*>(v.mutable_data_ptr());
    const T* const by = static_cast<const T*>(dv.const_data_ptr());
    for (int64_t i = 0; i < v.size(0); ++i) {
      to[i] = static_cast<T>(keep) * to[i] - static_cast<T>(rate) * by[i];
    }
  };
  v.scalar_type() == ScalarType::Double ? apply(double{}) : apply(float{});
}

void sgd_products_(Tensors w, Tensors left, Tensors right, Numbers w_keep, Numbers w_rate, Tensors b, Tensors db,
                   Numbers b_keep, Numbers b_rate) {
  check_products("sgd_products_", w, left, right, w_keep, w_rate);
  check_biases("sgd_products_", b, db, b_keep, b_rate);
  for (const Tensors* some : {&w, &b}) {
    for (const Tensor& t : *some) {
      const ScalarType type = t.scalar_type();
      STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double,
                      "sgd_products_: parameters must be float32 or float64, got ", torch::headeronly::toString(type));
    }
  }
  for (size_t i = 0; i < w.size(); ++i) {  // W ← (1−ηλ) W − η dZᵀX
    TORCH_ERROR_CODE_CHECK(
        aoti_torch_cpu_addmm_out(w[i].get(), w[i].get(), left[i].get(), right[i].get(), w_keep[i], -w_rate[i]));
  }
  for (size_t i = 0; i < b.size(); ++i) {
    decay_and_step(b[i], db[i], b_keep[i], b_rate[i]);
  }
}

}  // namespace
}  // namespace tmb

STABLE_TORCH_LIBRARY_IMPL(torch_manual_bp, CPU, m) { m.impl("sgd_products_", TORCH_BOX(&tmb::sgd_products_)); }
