// mse_ and bce_with_logits_: L, and o ← Ĝ, in one pass over o and y.
#include "../elementwise_losses.h"
#include "losses.cuh"
#include "octets.cuh"

namespace tmb {
namespace {

constexpr int kLeastWalk = 8;            // rows a thread, to be worth the last sum over its block
constexpr int64_t kMostBlocks = 4096;  // and as many partial sums, which one block adds up

template <typename T>
constexpr int kLossAtOnce = kOctetsAtOnce<T, 2>;

// o ← r Ĝ; sums[block] ← its Σ r l
template <typename T, typename Y, typename Loss, bool kWhole>
__global__ void __launch_bounds__(kThreads) loss_octets(T* o, const T* bias, const Y* target,
                                                        const Wide<T>* row_weight, double* sums, Octets octets) {
  using C = Wide<T>;
  constexpr int kAtOnce = kLossAtOnce<T>;
  Walk walk(octets);
  double sum = 0;
  if (walk.in_columns(octets)) {
    C b[8];
    get_bias<kWhole>(bias, octets, walk.column, b);
    for (; walk.row < walk.last; walk.advance(octets, kAtOnce)) {
      Vector<T, 8> logits[kAtOnce];
      Vector<Y, 8> targets[kAtOnce];
      TMB_UNROLL
      for (int u = 0; u < kAtOnce; ++u) {
        const int64_t at = walk.offset + u * walk.stride;
        if (at < octets.size) {
          const int length = walk.length(octets, at);
          logits[u] = get<kWhole>(o + at, length);
          targets[u] = get<kWhole>(target + at, length);
        }
      }
      TMB_UNROLL
      for (int u = 0; u < kAtOnce; ++u) {
        const int64_t at = walk.offset + u * walk.stride;
        if (at < octets.size) {
          const int length = walk.length(octets, at);
          const C r = row_weight != nullptr ? row_weight[walk.row + u * int64_t(octets.block_rows)] : C(1);
          C x[8], y[8], l = 0;
          widen(logits[u], x);
          widen(targets[u], y);
          for (int j = 0; j < 8; ++j) {
            const LossTerm<C> term = Loss::at(x[j] + b[j], y[j]);
            x[j] = r * term.gradient;
            l += kWhole || j < length ? r * term.loss : C(0);
          }
          sum += l;
          put<kWhole>(o + at, length, narrow<T>(x));
        }
      }
    }
  }
  sum = reduce_block(sum, Sum());
  if (threadIdx.x == 0 && threadIdx.y == 0) {
    sums[blockIdx.x] = sum;
  }
}

template <typename T, typename Y, typename Loss>
std::tuple<Tensor, Tensor> launch(const Tensor& o, const MaybeTensor& bias, const Tensor& target,
                                  const MaybeTensor& row_weight, bool mean) {
  const OnDeviceOf device(o);
  const int64_t columns = o.size(1);
  T* const o_data = data<T>(o);
  const T* const b = const_data<T>(bias);
  const Y* const y = const_data<Y>(target);
  const auto* const r = const_data<Wide<T>>(row_weight);
  Tensor sums = new_tensor(o, {0}, ScalarType::Double);
  if (o.numel() > 0) {
    const bool flat = b == nullptr && r == nullptr;
    const int64_t run_length = flat ? o.numel() : columns;
    const int64_t most_chunks = ceil_div(kMostBlocks, ceil_div(columns, 8 * kWarp));
    const Octets octets = flat ? Octets::flat(o.numel(), kLeastWalk, kMostBlocks)
                               : Octets(o.size(0), columns, kLeastWalk, most_chunks);
    sums = new_tensor(o, {int64_t(octets.grid())}, ScalarType::Double);
    const bool whole = holds_vectors<8>(o_data, run_length) && holds_vectors<8>(b, run_length) &&
                       holds_vectors<8>(y, run_length);
    with_bool(whole, [&](auto whole) {
      run(loss_octets<T, Y, Loss, decltype(whole)::value>, octets.grid(), octets.block(), 0, device.stream(), o_data, b,
          y, r, data<double>(sums), octets);
    });
  }
  return loss_and_scale<T>(o, sums, r, columns, mean, Loss::kFactor, device.stream());
}

template <typename Loss>
std::tuple<Tensor, Tensor> loss(const char* op, const Tensor& o, const MaybeTensor& bias, const Tensor& target,
                                const MaybeTensor& row_weight, bool mean) {
  check_targets(op, o, bias, target, row_weight);
  return with_type(o.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    return target.scalar_type() == o.scalar_type() ? launch<T, T, Loss>(o, bias, target, row_weight, mean)
                                                   : launch<T, Wide<T>, Loss>(o, bias, target, row_weight, mean);
  });
}

std::tuple<Tensor, Tensor> mse_(Tensor o, MaybeTensor bias, Tensor target, MaybeTensor row_weight, bool mean) {
  return loss<SquaredError>("mse_", o, bias, target, row_weight, mean);
}

std::tuple<Tensor, Tensor> bce_with_logits_(Tensor o, MaybeTensor bias, Tensor target, MaybeTensor row_weight,
                                            bool mean) {
  return loss<BinaryCrossEntropy>("bce_with_logits_", o, bias, target, row_weight, mean);
}

}  // namespace
}  // namespace tmb

STABLE_TORCH_LIBRARY_IMPL(torch_manual_bp, CUDA, m) {
  m.impl("mse_", TORCH_BOX(&tmb::mse_));
  m.impl("bce_with_logits_", TORCH_BOX(&tmb::bce_with_logits_));
}
