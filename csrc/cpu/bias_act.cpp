// z ← φ(z + 1 bᵀ) and its variants: one pass over z, in tiles that stay in the first-level cache.
#include <torch/csrc/stable/library.h>

#include "loops.h"
#include "ops.h"

namespace tmb {
namespace {

// h = φ(z + b), flat: b has been repeated row by row. h may be z.
template <typename T, Activation A>
TMB_CLONES void bias_act_tile(const T* z, const Wide<T>* b, T* h, int64_t n) {
  TMB_SIMD for (int64_t i = 0; i < n; ++i) { h[i] = narrow<T>(Phi<A>::value(widen(z[i]) + b[i])); }  // H = φ(Z)
}

// Explicit, since target_clones works on these, and not on templates that are instantiated on use.
#define TMB_INSTANTIATE(A)                                                                                         \
  template void bias_act_tile<float, Activation::A>(const float*, const float*, float*, int64_t);                  \
  template void bias_act_tile<double, Activation::A>(const double*, const double*, double*, int64_t);              \
  template void bias_act_tile<BFloat16, Activation::A>(const BFloat16*, const float*, BFloat16*, int64_t);         \
  template void bias_act_tile<Half, Activation::A>(const Half*, const float*, Half*, int64_t);
TMB_ACTIVATIONS(TMB_INSTANTIATE)
#undef TMB_INSTANTIATE

template <typename T>
using TileKernel = void (*)(const T*, const Wide<T>*, T*, int64_t);

template <typename T>
TileKernel<T> tile_kernel(Activation a) {
  switch (a) {
#define TMB_CASE(A) \
  case Activation::A: \
    return &bias_act_tile<T, Activation::A>;
    TMB_ACTIVATIONS(TMB_CASE)
#undef TMB_CASE
  }
  return nullptr;
}

// units[i] = [z_i > 0], as bytes.
template <typename T>
TMB_CLONES void positive_tile(const T* z, uint8_t* units, int64_t n) {
  TMB_SIMD for (int64_t i = 0; i < n; ++i) { units[i] = widen(z[i]) > 0 ? 1 : 0; }
}
template void positive_tile<float>(const float*, uint8_t*, int64_t);
template void positive_tile<double>(const double*, uint8_t*, int64_t);
template void positive_tile<BFloat16>(const BFloat16*, uint8_t*, int64_t);
template void positive_tile<Half>(const Half*, uint8_t*, int64_t);

// Eight units a byte. The product moves byte j of eight, which is 0 or 1, to bit 56 + j; no two of its terms meet.
void pack(const uint8_t* units, uint8_t* mask, int64_t n) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    uint64_t eight;
    std::memcpy(&eight, units + i, 8);
    mask[i / 8] = static_cast<uint8_t>(eight * 0x0102040810204080u >> 56);
  }
  if (i < n) {
    uint8_t byte = 0;
    for (int64_t j = 0; i + j < n; ++j) {
      byte = static_cast<uint8_t>(byte | units[i + j] << j);
    }
    mask[i / 8] = byte;
  }
}
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "pack() takes the first unit to be the lowest byte");

// z ← z + b where z is kept (and rounded), then h = φ(z); or h = φ(z + b) at once.
template <typename T>
void run(const Tensor& z, const MaybeTensor& bias, const Tensor& h, Activation a, bool keep, uint8_t* mask) {
  const Tiles tiles(z.size(0), z.size(1));
  const int64_t bias_rows = z.size(1) <= Tiles::kElements ? tiles.tile_rows : 1, mask_columns = (z.size(1) + 7) / 8;
  const auto b = repeated_bias(const_data<T>(bias), z.size(1), bias_rows);
  const std::vector<Wide<T>> zeros(keep ? Tiles::kElements : 0, Wide<T>(0));
  T* const z_data = data<T>(z);
  T* const h_data = data<T>(h);
  const TileKernel<T> phi = tile_kernel<T>(a), add = tile_kernel<T>(Activation::identity);

  parallel_for(tiles.count, Tiles::kElements, [&](int64_t begin, int64_t end) {
    uint8_t units[Tiles::kElements];
    for (int64_t i = begin; i < end; ++i) {
      tiles.visit(i, [&](int64_t row, int64_t column, int64_t rows, int64_t columns) {
        const int64_t offset = row * tiles.columns + column, n = rows * columns;
        T* const tile = z_data + offset;
        if (!keep) {
          phi(tile, b.data() + column, h_data + offset, n);
          return;
        }
        add(tile, b.data() + column, tile, n);
        if (mask != nullptr) {
          positive_tile(tile, units, n);
          for (int64_t r = 0; r < rows; ++r) {
            pack(units + r * columns, mask + (row + r) * mask_columns + column / 8, columns);
          }
        }
        phi(tile, zeros.data(), h_data + offset, n);
      });
    }
  });
}

void dispatch(const Tensor& z, const MaybeTensor& bias, const Tensor& h, Activation a, bool keep, uint8_t* mask) {
  if (z.numel() == 0) {
    return;
  }
  with_type(z.scalar_type(), [&](auto zero) { run<decltype(zero)>(z, bias, h, a, keep, mask); });
}

}  // namespace

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
  Tensor mask = new_tensor(z, {z.size(0), (z.size(1) + 7) / 8}, ScalarType::Byte);
  dispatch(z, bias, z, a, true, data<uint8_t>(mask));
  return mask;
}

Tensor act(Tensor z, int64_t activation) {
  const Activation a = check_bias_act("act", z, std::nullopt, activation);
  Tensor h = new_tensor(z, {z.size(0), z.size(1)}, z.scalar_type());
  dispatch(z, std::nullopt, h, a, false, nullptr);
  return h;
}

}  // namespace tmb

STABLE_TORCH_LIBRARY_IMPL(torch_manual_bp, CPU, m) {
  m.impl("bias_act_", TORCH_BOX(&tmb::bias_act_));
  m.impl("bias_act_keep_", TORCH_BOX(&tmb::bias_act_keep_));
  m.impl("bias_act_mask_", TORCH_BOX(&tmb::bias_act_mask_));
  m.impl("act", TORCH_BOX(&tmb::act));
}
