// factor · g in a new tensor, multiplied before it is rounded: an octet a thread.
#include "vectors.cuh"

namespace tmb {
namespace {

template <typename T>
__global__ void __launch_bounds__(kThreads) scaled_octets(const T* g, const Wide<T>* factor, T* to, Octets octets) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= octets.count()) {
    return;
  }
  Wide<T> x[8];
  octets.get(g + 8 * i, 8 * i, x);
  for (int j = 0; j < 8; ++j) {
    x[j] *= *factor;
  }
  octets.put(to + 8 * i, 8 * i, x);
}

Tensor scaled(Tensor g, Tensor factor) {
  check_scaled("scaled", g, factor);
  Tensor to = new_tensor(g, {g.size(0), g.size(1)}, g.scalar_type());
  if (g.numel() == 0) {
    return to;
  }
  const OnDeviceOf device(g);
  with_type(g.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const T* const from = const_data<T>(g);
    const Octets flat(1, g.numel(), holds_vectors<8>(from, g.numel()) && holds_vectors<8>(data<T>(to), g.numel()));
    run(scaled_octets<T>, blocks(flat.count(), kThreads), kThreads, 0, device.stream(), from,
        const_data<Wide<T>>(factor), data<T>(to), flat);
  });
  return to;
}

}  // namespace
}  // namespace tmb

STABLE_TORCH_LIBRARY_IMPL(torch_manual_bp, CUDA, m) { m.impl("scaled", TORCH_BOX(&tmb::scaled)); }
