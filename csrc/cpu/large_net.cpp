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

// How a batch is cut, and the elements of scratch that this takes. A thread's block is taken before the threads start,
// so that the memory does not depend on when they run.
template <typename T>
struct NarrowPlan {
  int64_t rows, chunk_rows, chunks, threads;  // of a block, of a chunk; chunks; threads
  int64_t layer, block, sums;                 // elements: once, for each thread, for each chunk

  NarrowPlan(int64_t B, int64_t h, int64_t q, Activation activation)
      : rows(std::clamp<int64_t>(kBlockBytes / static_cast<int64_t>(sizeof(T)) / h / 8 * 8, 8, 32)),
        chunk_rows(std::max(kChunkRows, (B + kMostChunks - 1) / kMostChunks + rows - 1) / rows * rows),
        chunks((B + chunk_rows - 1) / chunk_rows),
        threads(threads_for(chunks, chunk_rows * h * 4)),
        sums(h + q * h + q + kVectorLanes<T>) {
    Pieces<T> of_layer(nullptr), of_block(nullptr);
    const OutputLayer<T> output(h, q, true, of_layer);
    const Block<T> measured(rows, output, activation, true, of_block);
    layer = of_layer.used();
    block = of_block.used();
  }

  LargeScratch bytes() const {
    return {Scratch<T>::bytes(layer), Scratch<T>::bytes(chunks * sums), Scratch<T>::bytes(threads * block)};
  }
};

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
        plan_(B_, h_, q_, activation),
        shared_(plan_.layer, net.x),
        sums_(plan_.chunks * plan_.sums, net.x) {
    Pieces<T> pieces(shared_.start());
    layer_.emplace(h_, q_, true, pieces);
    layer_->prepare(const_data<T>(net.w2), const_data<T>(net.b2), true);
  }

  // z (B,h) holds X W1ᵀ, and dZ afterwards.
  LargePass run(const Tensor& z) {
    std::vector<LossSum> losses(static_cast<size_t>(plan_.chunks));
    run_chunks(z, losses);
    return collected(z, losses);
  }

 private:
  void run_chunks(const Tensor& z, std::vector<LossSum>& losses) const {
    const int64_t threads = plan_.threads;
    const Scratch<T> blocks(threads * plan_.block, z);
    const auto run_part = [&](int64_t thread) {
      T* const own = blocks.start() + thread * plan_.block;
      Pieces<T> pieces(own);
      const Block<T> block(plan_.rows, *layer_, activation_, true, pieces);
      std::fill_n(own, plan_.block, T(0));
      block.prepare(plan_.rows, *layer_);
      for (int64_t chunk = thread * plan_.chunks / threads; chunk < (thread + 1) * plan_.chunks / threads; ++chunk) {
        losses[chunk] = run_chunk(chunk, block, data<T>(z));
      }
    };
    parallel_for(threads, kGrain, [&](int64_t first, int64_t last) {
      for (int64_t thread = first; thread < last; ++thread) {
        run_part(thread);
      }
    });
  }

  MiddleSums<T> sums_of(int64_t chunk) const {
    T* const start = sums_.start() + chunk * plan_.sums;
    return {start, start + h_, start + h_ + q_ * h_, {}};
  }

  LossSum run_chunk(int64_t chunk, const Block<T>& block, T* z) const {
    MiddleSums<T> sums = sums_of(chunk);
    const int64_t start = chunk * plan_.chunk_rows, end = std::min(B_, start + plan_.chunk_rows);
    const int64_t H = layer_->padded_h;
    for (int64_t begin = start; begin < end; begin += plan_.rows) {
      const int64_t n = std::min(plan_.rows, end - begin);
      for (int64_t b = 0; b < n; ++b) {
        add_bias(z + (begin + b) * h_, block.z + b * H);
      }
      middle_backward(*layer_, block, kernels_, loss_, wanted_, begin, n, begin == start, sums);
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
        for (int64_t chunk = 1; chunk < plan_.chunks; ++chunk) {
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
  const NarrowPlan<T> plan_;
  const Scratch<T> shared_, sums_;
  std::optional<OutputLayer<T>> layer_;
};

bool is_narrow(int64_t B, int64_t h, int64_t q) { return q <= kNarrow && B > 0 && q * h > 0; }

}  // namespace

LargeScratch large_scratch(const Tensor& x, int64_t h, int64_t q, Activation activation) {
  if (!is_narrow(x.size(0), h, q)) {
    return {};
  }
  return with_wide_type(x.scalar_type(), [&](auto zero) {
    return NarrowPlan<decltype(zero)>(x.size(0), h, q, activation).bytes();
  });
}

LargePass large_pass(const NetTensors& net, const LossArguments& loss, Activation activation, Wanted wanted) {
  const Tensor z = product(net.x, transposed(net.w1));  // Z = X W1ᵀ
  if (is_narrow(net.x.size(0), net.w2.size(1), net.w2.size(0))) {
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
