// z ← φ(z + 1 bᵀ) and its variants: one pass over z, an octet a thread.
#include "vectors.cuh"

namespace tmb {
namespace {

template <typename T>
struct Arguments {
  const T* z;
  const T* bias;  // null: none
  T* kept;        // z + b goes there; null: it is not kept
  uint8_t* mask;  // [z + b > 0] goes there; null: it is not wanted
  T* h;           // may be z
};

template <typename T, Activation A>
__global__ void __launch_bounds__(kThreads) bias_act_octets(Arguments<T> a, Octets octets) {
  using C = Wide<T>;
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= octets.count()) {
    return;
  }
  const int64_t row = i / octets.per_row, column = i % octets.per_row * 8, offset = row * octets.columns + column;
  C x[8];
  octets.get(a.z + offset, column, x);
  if (a.bias != nullptr) {
    C b[8];
    octets.get(a.bias + column, column, b);
    for (int j = 0; j < 8; ++j) {
      x[j] += b[j];
    }
  }
  if (a.kept != nullptr || a.mask != nullptr) {
    unsigned bits = 0;
    for (int j = 0; j < 8; ++j) {
      x[j] = static_cast<C>(static_cast<T>(x[j]));  // φ of z as it is kept, rounded
      bits |= unsigned(x[j] > C(0)) << j;
    }
    if (a.kept != nullptr) {
      octets.put(a.kept + offset, column, x);
    }
    if (a.mask != nullptr) {
      a.mask[i] = static_cast<uint8_t>(bits);
    }
  }
  for (int j = 0; j < 8; ++j) {
    x[j] = Phi<A>::value(x[j]);
  }
  octets.put(a.h + offset, column, x);
}

template <typename T>
void launch(const Tensor& z, const MaybeTensor& bias, const Tensor& h, Activation activation, bool keep,
            uint8_t* mask) {
  const OnDeviceOf device(z);
  const Arguments<T> a{const_data<T>(z), const_data<T>(bias), keep ? data<T>(z) : nullptr, mask, data<T>(h)};
  const int64_t columns = z.size(1);
  const bool whole = holds_vectors<8>(a.z, columns) && holds_vectors<8>(a.bias, columns) &&
                     holds_vectors<8>(a.h, columns);
  const Octets octets(z.size(0), columns, whole);
  const unsigned grid = blocks(octets.count(), kThreads);
  switch (activation) {
#define TMB_CASE(A)   \
  case Activation::A: \
    return run(bias_act_octets<T, Activation::A>, grid, kThreads, 0, device.stream(), a, octets);
    TMB_ACTIVATIONS(TMB_CASE)
#undef TMB_CASE
  }
}

void dispatch(const Tensor& z, const MaybeTensor& bias, const Tensor& h, Activation a, bool keep, uint8_t* mask) {
  if (z.numel() == 0) {
    return;
  }
  with_type(z.scalar_type(), [&](auto zero) { launch<decltype(zero)>(z, bias, h, a, keep, mask); });
}

void bias_act_(Tensor z, MaybeTensor bias, int64_t activation) {
  dispatch(z, bias, z, check_bias_act("bias_act_", z, bias, activation), false, nullptr);
}

void bias_act_keep_(Tensor z, Tensor h, MaybeTensor bias, int64_t activation) {
  const Activation a = check_bias_act("bias_act_keep_", z, bias, activation);
  check_beside("bias_act_keep_", "h", h, {z.size(0), z.size(1)}, z.scalar_type(), z);
  dispatch(z, bias, h, a, true, nullptr);
}

Tensor bias_act_mask_(Tensor z, MaybeTensor bias, int64_t activation) {
  const Activation a = check_bias_act("bias_act_mask_", z, bias, activation);
  check_binary("bias_act_mask_", a);
  Tensor mask = new_tensor(z, {z.size(0), ceil_div(z.size(1), 8)}, ScalarType::Byte);
  dispatch(z, bias, z, a, false, data<uint8_t>(mask));
  return mask;
}

Tensor act(Tensor z, int64_t activation) {
  const Activation a = check_bias_act("act", z, std::nullopt, activation);
  Tensor h = new_tensor(z, {z.size(0), z.size(1)}, z.scalar_type());
  dispatch(z, std::nullopt, h, a, false, nullptr);
  return h;
}

}  // namespace
}  // namespace tmb

STABLE_TORCH_LIBRARY_IMPL(torch_manual_bp, CUDA, m) {
  m.impl("bias_act_", TORCH_BOX(&tmb::bias_act_));
  m.impl("bias_act_keep_", TORCH_BOX(&tmb::bias_act_keep_));
  m.impl("bias_act_mask_", TORCH_BOX(&tmb::bias_act_mask_));
  m.impl("act", TORCH_BOX(&tmb::act));
}
