#include "large_net.h"

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include "middle.h"
#include "ops.h"
#include "scratch.h"

namespace tmb {
namespace {

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

// With few outputs, products with W2 are too thin for a BLAS: blocks of rows go over threads, and stay in the cache from
// Z to dZ. Chunks of blocks have sums of their own, so that these do not depend on the number of threads.
constexpr int64_t kNarrow = 32;      // outputs
constexpr int64_t kBlockBytes = 1 << 16;  // of a block's h
constexpr int64_t kChunkRows = 64, kMostChunks = 16;

template <typename T>
class Narrow {
 public:
  Narrow(const NetTensors& net, const LossArguments& loss, Activation activation, Wanted wanted)
      : B_(net.x.size(0)),
        h_(net.w2.size(1)),
        q_(net.w2.size(0)),
        b1_(const_data<T>(net.b1)),
        kernels_(kernels_of<T>(activation)),
        activation_(activation),
        loss_(loss_input<T>(loss, q_)),
        wanted_(wanted),
        rows_(std::clamp<int64_t>(kBlockBytes / static_cast<int64_t>(sizeof(T)) / h_ / 8 * 8, 8, 32)),
        chunk_rows_(std::max(kChunkRows, (B_ + kMostChunks - 1) / kMostChunks + rows_ - 1) / rows_ * rows_),
        chunks_((B_ + chunk_rows_ - 1) / chunk_rows_),
        shared_(layer_scratch(), net.x),
        sums_(chunks_ * sums_size(), net.x) {
    Pieces<T> pieces(shared_.start());
    layer_.emplace(h_, q_, true, pieces);
    layer_->prepare(const_data<T>(net.w2), const_data<T>(net.b2), true);
  }

  // z (B,h) holds X W1ᵀ, and dZ afterwards.
  LargePass run(const Tensor& z) {
    std::vector<LossSum> losses(static_cast<size_t>(chunks_));
    parallel_for(chunks_, chunk_rows_ * h_ * 4, [&](int64_t first, int64_t last) {
      Pieces<T> measured(nullptr);
      Block<T>(rows_, *layer_, activation_, true, measured);
      const Scratch<T> own(measured.used(), z);
      Pieces<T> pieces(own.start());
      const Block<T> block(rows_, *layer_, activation_, true, pieces);
      std::fill_n(own.start(), measured.used(), T(0));
      block.prepare(rows_, *layer_);
      for (int64_t chunk = first; chunk < last; ++chunk) {
        losses[chunk] = run_chunk(chunk, block, data<T>(z));
      }
    });
    return collected(z, losses);
  }

 private:
  int64_t layer_scratch() const {
    Pieces<T> pieces(nullptr);
    OutputLayer<T>(h_, q_, true, pieces);
    return pieces.used();
  }

  int64_t sums_size() const { return h_ + q_ * h_ + q_ + kVectorLanes<T>; }

  MiddleSums<T> sums_of(int64_t chunk) const {
    T* const start = sums_.start() + chunk * sums_size();
    return {start, start + h_, start + h_ + q_ * h_, {}};
  }

  LossSum run_chunk(int64_t chunk, const Block<T>& block, T* z) const {
    MiddleSums<T> sums = sums_of(chunk);
    const int64_t end = std::min(B_, (chunk + 1) * chunk_rows_), H = layer_->padded_h;
    for (int64_t begin = chunk * chunk_rows_; begin < end; begin += rows_) {
      const int64_t n = std::min(rows_, end - begin);
      for (int64_t b = 0; b < n; ++b) {
        add_bias(z + (begin + b) * h_, block.z + b * H);
      }
      middle_backward(*layer_, block, kernels_, loss_, wanted_, begin, n, begin == chunk * chunk_rows_, sums);
      for (int64_t b = 0; b < n && wanted_.hidden(); ++b) {
        std::copy_n(block.dh + b * H, h_, z + (begin + b) * h_);
      }
    }
    return sums.loss;
  }

  void add_bias(const T* from, T* to) const {
    if (b1_ == nullptr) {
      std::copy_n(from, h_, to);
    } else {
      TMB_SIMD for (int64_t j = 0; j < h_; ++j) { to[j] = from[j] + b1_[j]; }
    }
  }

  LargePass collected(const Tensor& z, const std::vector<LossSum>& losses) const {
    LargePass pass{z, std::nullopt, std::nullopt, std::nullopt, std::nullopt, std::nullopt, {}};
    for (const LossSum& part : losses) {
      pass.sum.loss += part.loss;
      pass.sum.weight += part.weight;
    }
    const auto total = [&](bool wanted, std::initializer_list<int64_t> shape, T* MiddleSums<T>::* member) {
      MaybeTensor sum;
      if (wanted) {
        sum = new_tensor(z, shape, z.scalar_type());
        const int64_t n = sum->numel();
        std::copy_n(sums_of(0).*member, n, data<T>(*sum));
        for (int64_t chunk = 1; chunk < chunks_; ++chunk) {
          const T* const part = sums_of(chunk).*member;
          T* const to = data<T>(*sum);
          TMB_SIMD for (int64_t i = 0; i < n; ++i) { to[i] += part[i]; }
        }
      }
      return sum;
    };
    pass.db1 = total(wanted_.db1, {h_}, &MiddleSums<T>::db1);
    pass.dw2 = total(wanted_.dw2, {q_, h_}, &MiddleSums<T>::dw2);
    pass.db2 = total(wanted_.db2, {q_}, &MiddleSums<T>::db2);
    return pass;
  }

  const int64_t B_, h_, q_;
  const T* const b1_;
  const ActivationKernels<T> kernels_;
  const Activation activation_;
  const LossInput<T> loss_;
  const Wanted wanted_;
  const int64_t rows_, chunk_rows_, chunks_;
  const Scratch<T> shared_, sums_;
  std::optional<OutputLayer<T>> layer_;
};

}  // namespace

LargePass large_pass(const NetTensors& net, const LossArguments& loss, Activation activation, Wanted wanted) {
  const Tensor z = product(net.x, transposed(net.w1));  // Z = X W1ᵀ
  if (net.w2.size(0) <= kNarrow && net.x.size(0) > 0 && net.w2.numel() > 0) {
    return with_wide_type(z.scalar_type(), [&](auto zero) {
      return Narrow<decltype(zero)>(net, loss, activation, wanted).run(z);
    });
  }
  const auto code = static_cast<int64_t>(activation);
  const bool keep_z = wanted.hidden() && keeps_z(activation);
  Tensor h = z;
  if (keep_z) {
    h = new_tensor(z, {z.size(0), z.size(1)}, z.scalar_type());
    bias_act_keep_(z, h, net.b1, code);  // Z + 1 b1ᵀ, and H = φ(Z)
  } else {
    bias_act_(z, net.b1, code);
  }
  Tensor g = product(h, transposed(net.w2));          // O = H W2ᵀ, without b2
  const LossSum sum = loss_in_place(g, net.b2, loss);  // Ĝ
  LargePass pass{std::nullopt, h, g, std::nullopt, std::nullopt, std::nullopt, sum};
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
