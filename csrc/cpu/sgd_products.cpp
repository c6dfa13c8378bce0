#include "../sgd_products.h"

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>
#include <torch/csrc/stable/library.h>

#include "loops.h"

namespace tmb {
namespace {

// b ← keep b − rate db
void update_bias(const Tensor& b, const Tensor& db, double keep, double rate) {
  with_type(b.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using C = Wide<T>;
    T* const to = data<T>(b);
    const C* const gradient = const_data<C>(db);
    for (int64_t i = 0; i < b.numel(); ++i) {
      to[i] = narrow<T>(static_cast<C>(keep) * widen(to[i]) - static_cast<C>(rate) * gradient[i]);
    }
  });
}

void sgd_products_(Tensor w1, MaybeTensor b1, Tensor w2, MaybeTensor b2, Tensor x, Tensor h, Tensor g, Tensor dz,
                   MaybeTensor db1, MaybeTensor db2, Tensor hyper, double factor) {
  const SgdProducts products{w1, w2, b1, b2, x, h, g, dz, db1, db2, const_data<SgdHyper>(hyper), factor};
  check_sgd_products(products, hyper);
  update_by_products(products, aoti_torch_cpu_addmm_out, update_bias);
}

}  // namespace
}  // namespace tmb

STABLE_TORCH_LIBRARY_IMPL(torch_manual_bp, CPU, m) { m.impl("sgd_products_", TORCH_BOX(&tmb::sgd_products_)); }
