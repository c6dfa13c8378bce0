#include "large_net.h"

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include "ops.h"

namespace tmb {
namespace {

Tensor transposed(const Tensor& matrix) {
  const int64_t sizes[2] = {matrix.size(1), matrix.size(0)}, strides[2] = {matrix.stride(1), matrix.stride(0)};
  AtenTensorHandle view = nullptr;
  TORCH_ERROR_CODE_CHECK(
      aoti_torch__reinterpret_tensor(matrix.get(), 2, sizes, strides, matrix.storage_offset(), &view));
  return Tensor(view);
}

Tensor product(const Tensor& a, const Tensor& b) {
  Tensor out = new_tensor(a, {a.size(0), b.size(1)}, a.scalar_type());
  TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_mm_out(out.get(), a.get(), b.get()));
  return out;
}

LossSum loss_in_place(const Tensor& o, const MaybeTensor& b2, const LossArguments& loss) {
  switch (static_cast<LossKind>(loss.kind)) {
    case LossKind::cross_entropy:
      return cross_entropy_sums(o, b2, loss.y, loss.class_weight, loss.row_weight, loss.smoothing, loss.ignore_index);
    case LossKind::mse:
      return mse_sums(o, b2, loss.y, loss.row_weight);
    default:
      return bce_with_logits_sums(o, b2, loss.y, loss.row_weight);
  }
}

constexpr int64_t kShortSum = 64;    // rows summed in T before they go into a double
constexpr int64_t kColumns = 1024;  // at a time

template <typename T>
TMB_CLONES void add_rows(const T* g, int64_t rows, int64_t stride, int64_t columns, double* sum) {
  for (int64_t begin = 0; begin < rows; begin += kShortSum) {
    T part[kColumns];
    std::fill_n(part, columns, T(0));
    for (int64_t b = begin; b < std::min(rows, begin + kShortSum); ++b) {
      TMB_SIMD for (int64_t k = 0; k < columns; ++k) { part[k] += g[b * stride + k]; }
    }
    TMB_SIMD for (int64_t k = 0; k < columns; ++k) { sum[k] += part[k]; }
  }
}
template void add_rows<float>(const float*, int64_t, int64_t, int64_t, double*);
template void add_rows<double>(const double*, int64_t, int64_t, int64_t, double*);

// gᵀ 1; a thread has whole columns, so that the sums do not depend on the number of threads.
Tensor row_sums(const Tensor& g) {
  Tensor sum = new_tensor(g, {g.size(1)}, g.scalar_type());
  const int64_t B = g.size(0), q = g.size(1), strips = (q + kColumns - 1) / kColumns;
  with_wide_type(g.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    parallel_for(strips, B * std::min(q, kColumns), [&](int64_t first, int64_t last) {
      double total[kColumns];
      for (int64_t i = first; i < last; ++i) {
        const int64_t columns = std::min(kColumns, q - i * kColumns);
        std::fill_n(total, columns, 0.0);
        add_rows(const_data<T>(g) + i * kColumns, B, q, columns, total);
        std::copy_n(total, columns, data<T>(sum) + i * kColumns);
      }
    });
  });
  return sum;
}

bool from_output(Activation a) { return a <= Activation::sigmoid; }  // whether φ′ is taken from h

}  // namespace

LargePass large_pass(const NetTensors& net, const LossArguments& loss, Activation activation, Wanted wanted) {
  const auto code = static_cast<int64_t>(activation);
  const bool keep_z = wanted.hidden() && !from_output(activation);
  const Tensor z = product(net.x, transposed(net.w1));  // Z = X W1ᵀ
  Tensor h = z;
  if (keep_z) {
    h = new_tensor(z, {z.size(0), z.size(1)}, z.scalar_type());
    bias_act_keep_(z, h, net.b1, code);  // Z + 1 b1ᵀ, and H = φ(Z)
  } else {
    bias_act_(z, net.b1, code);
  }
  Tensor g = product(h, transposed(net.w2));          // O = H W2ᵀ, without b2
  const LossSum sum = loss_in_place(g, net.b2, loss);  // Ĝ
  LargePass pass{h, g, std::nullopt, std::nullopt, std::nullopt, sum};
  if (wanted.db2) {
    pass.db2 = row_sums(g);  // db2 = dOᵀ 1
  }
  if (wanted.hidden()) {
    const Tensor dh = product(g, net.w2);  // dH = dO W2
    const auto kind = static_cast<int64_t>(keep_z ? Kind::z : Kind::h);
    if (wanted.db1) {
      pass.db1 = dact_bias_grad_(dh, keep_z ? z : h, code, kind);  // dZ = φ′(Z) ⊙ dH and db1 = dZᵀ 1
    } else {
      dact_(dh, keep_z ? z : h, code, kind);
    }
    pass.dz = dh;
  }
  return pass;
}

Tensor large_forward(const NetTensors& net, Activation activation) {
  const Tensor h = product(net.x, transposed(net.w1));
  bias_act_(h, net.b1, static_cast<int64_t>(activation));
  const Tensor o = product(h, transposed(net.w2));
  bias_act_(o, net.b2, static_cast<int64_t>(Activation::identity));
  return o;
}

Tensor transposed_product(const Tensor& left, const Tensor& right) { return product(transposed(left), right); }

void update_by_product(const Tensor& w, const Tensor& left, const Tensor& right, double keep, double rate) {
  TORCH_ERROR_CODE_CHECK(
      aoti_torch_cpu_addmm_out(w.get(), w.get(), transposed(left).get(), right.get(), keep, -rate));
}

}  // namespace tmb
