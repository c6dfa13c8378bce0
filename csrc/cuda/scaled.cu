// factor · g in a new tensor, multiplied before it is rounded.
#include "octets.cuh"

namespace tmb {
namespace {

template <typename T, bool kWhole>
__global__ void __launch_bounds__(kThreads) scaled_octets(const T* g, const Wide<T>* factor, T* to, Octets octets) {
  constexpr int kAtOnce = kOctetsAtOnce<T, 1>;
  const Walk walk(octets);
  const Wide<T> f = *factor;
  Vector<T, 8> from[kAtOnce];
  TMB_UNROLL
  for (int u = 0; u < kAtOnce; ++u) {
    const int64_t at = walk.offset + u * walk.stride;
    if (at < octets.size) {
      from[u] = get<kWhole>(g + at, walk.length(octets, at));
    }
  }
  TMB_UNROLL
  for (int u = 0; u < kAtOnce; ++u) {
    const int64_t at = walk.offset + u * walk.stride;
    if (at < octets.size) {
      Wide<T> x[8];
      widen(from[u], x);
      for (int j = 0; j < 8; ++j) {
        x[j] *= f;
      }
      put<kWhole>(to + at, walk.length(octets, at), narrow<T>(x));
    }
  }
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
    const Octets octets = Octets::flat(g.numel(), kOctetsAtOnce<T, 1>);
    with_bool(holds_vectors<8>(from, g.numel()) && holds_vectors<8>(data<T>(to), g.numel()), [&](auto whole) {
      run(scaled_octets<T, decltype(whole)::value>, octets.grid(), octets.block(), 0, device.stream(), from,
          const_data<Wide<T>>(factor), data<T>(to), octets);
    });
  });
  return to;
}

}  // namespace
}  // namespace tmb

STABLE_TORCH_LIBRARY_IMPL(torch_manual_bp, CUDA, m) { m.impl("scaled", TORCH_BOX(&tmb::scaled)); }
