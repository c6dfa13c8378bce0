// factor · g in a new tensor, multiplied before it is rounded.
#include <torch/csrc/stable/library.h>

#include "loops.h"

namespace tmb {
namespace {

template <typename T>
TMB_CLONES void scaled_range(const T* g, Wide<T> factor, T* to, int64_t n) {
  TMB_SIMD for (int64_t i = 0; i < n; ++i) { to[i] = narrow<T>(factor * widen(g[i])); }
}
template void scaled_range<float>(const float*, float, float*, int64_t);
template void scaled_range<double>(const double*, double, double*, int64_t);
template void scaled_range<BFloat16>(const BFloat16*, float, BFloat16*, int64_t);
template void scaled_range<Half>(const Half*, float, Half*, int64_t);

Tensor scaled(Tensor g, Tensor factor) {
  check_scaled("scaled", g, factor);
  Tensor to = new_tensor(g, {g.size(0), g.size(1)}, g.scalar_type());
  with_type(g.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const Wide<T> by = *const_data<Wide<T>>(factor);
    parallel_for(g.numel(), 1, [&](int64_t begin, int64_t end) {
      scaled_range(const_data<T>(g) + begin, by, data<T>(to) + begin, end - begin);
    });
  });
  return to;
}

}  // namespace
}  // namespace tmb

STABLE_TORCH_LIBRARY_IMPL(torch_manual_bp, CPU, m) { m.impl("scaled", TORCH_BOX(&tmb::scaled)); }
