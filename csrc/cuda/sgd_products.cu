#include "../sgd_products.h"

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cuda.h>

#include "launch.cuh"

namespace tmb {
namespace {

// b ← keep b − rate db
template <typename T>
__global__ void __launch_bounds__(kThreads)
    update_bias_elements(T* b, const Wide<T>* db, Wide<T> keep, Wide<T> rate, int64_t count) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count) {
    b[i] = static_cast<T>(keep * static_cast<Wide<T>>(b[i]) - rate * db[i]);
  }
}

void sgd_products_(Tensor w1, MaybeTensor b1, Tensor w2, MaybeTensor b2, Tensor x, Tensor h, Tensor g, Tensor dz,
                   MaybeTensor db1, MaybeTensor db2, Tensor hyper, double factor) {
  const SgdProducts products{w1, w2, b1, b2, x, h, g, dz, db1, db2, const_data<SgdHyper>(hyper), factor};
  check_sgd_products(products, hyper);
  const OnDeviceOf device(x);
  update_by_products(products, aoti_torch_cuda_addmm_out, [&](const Tensor& b, const Tensor& db, double keep, double rate) {
    if (b.numel() == 0) {
      return;
    }
    with_type(b.scalar_type(), [&](auto zero) {
      using T = decltype(zero);
      using C = Wide<T>;
      run(update_bias_elements<T>, blocks(b.numel(), kThreads), kThreads, 0, device.stream(), data<T>(b),
          const_data<C>(db), static_cast<C>(keep), static_cast<C>(rate), b.numel());
    });
  });
}

}  // namespace
}  // namespace tmb

STABLE_TORCH_LIBRARY_IMPL(torch_manual_bp, CUDA, m) { m.impl("sgd_products_", TORCH_BOX(&tmb::sgd_products_)); }
