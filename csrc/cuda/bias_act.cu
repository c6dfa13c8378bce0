// z ← φ(z + 1 bᵀ) and its variants: one pass over z.
#include "octets.cuh"

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

template <typename T, Activation A, bool kWhole>
__global__ void __launch_bounds__(kThreads) bias_act_octets(Arguments<T> a, Octets octets) {
  using C = Wide<T>;
  constexpr int kAtOnce = kOctetsAtOnce<T, 1>;
  const Walk walk(octets);
  if (!walk.in_columns(octets)) {
    return;
  }
  C b[8];
  get_bias<kWhole>(a.bias, octets, walk.column, b);
  Vector<T, 8> z[kAtOnce];
  TMB_UNROLL
  for (int u = 0; u < kAtOnce; ++u) {
    const int64_t at = walk.offset + u * walk.stride;
    if (at < octets.size) {
      z[u] = get<kWhole>(a.z + at, walk.length(octets, at));
    }
  }
  TMB_UNROLL
  for (int u = 0; u < kAtOnce; ++u) {
    const int64_t at = walk.offset + u * walk.stride;
    if (at >= octets.size) {
      return;
    }
    const int length = walk.length(octets, at);
    C x[8];
    widen(z[u], x);
    for (int j = 0; j < 8; ++j) {
      x[j] += b[j];
    }
    if (a.kept != nullptr || a.mask != nullptr) {
      const Vector<T, 8> kept = narrow<T>(x);
      widen(kept, x);  // φ of z as it is kept, rounded
      if (a.kept != nullptr) {
        put<kWhole>(a.kept + at, length, kept);
      }
      if (a.mask != nullptr) {
        unsigned bits = 0;
        for (int j = 0; j < 8; ++j) {
          bits |= unsigned(x[j] > C(0)) << j;
        }
        a.mask[(walk.row + u * int64_t(octets.block_rows)) * octets.per_row + walk.column / 8] =
            static_cast<uint8_t>(bits);
      }
    }
    for (int j = 0; j < 8; ++j) {
      x[j] = static_cast<C>(Phi<A>::value(Arithmetic<T>(x[j])));
    }
    put<kWhole>(a.h + at, length, narrow<T>(x));
  }
}

template <typename T>
void launch(const Tensor& z, const MaybeTensor& bias, const Tensor& h, Activation activation, bool keep,
            uint8_t* mask) {
  const OnDeviceOf device(z);
  const Arguments<T> a{const_data<T>(z), const_data<T>(bias), keep ? data<T>(z) : nullptr, mask, data<T>(h)};
  constexpr int walk = kOctetsAtOnce<T, 1>;
  const bool flat = a.bias == nullptr && mask == nullptr;
  const Octets octets = flat ? Octets::flat(z.numel(), walk) : Octets(z.size(0), z.size(1), walk);
  const int64_t run_length = flat ? z.numel() : z.size(1);
  with_bool(holds_vectors<8>(a.z, run_length) && holds_vectors<8>(a.bias, run_length) &&
                holds_vectors<8>(a.h, run_length),
            [&](auto whole) {
              switch (activation) {
#define TMB_CASE(A)                                                                                             \
  case Activation::A:                                                                                           \
    return run(bias_act_octets<T, Activation::A, decltype(whole)::value>, octets.grid(), octets.block(), 0,     \
               device.stream(), a, octets);
                TMB_ACTIVATIONS(TMB_CASE)
#undef TMB_CASE
              }
            });
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
