#include "middle.h"

#include <algorithm>

namespace tmb {
namespace {

// h = φ(z), flat; h may be z.
template <typename T, Activation A>
TMB_CLONES void phi_range(const T* z, T* h, int64_t n) {
  TMB_SIMD for (int64_t i = 0; i < n; ++i) { h[i] = Phi<A>::value(z[i]); }
}

constexpr Kind kept_kind(Activation a) { return a <= Activation::sigmoid ? Kind::h : Kind::z; }

// dz = φ′ ⊙ dh, flat and in place.
template <typename T, Activation A>
TMB_CLONES void slope_range(const T* kept, T* dh, int64_t n) {
  TMB_SIMD for (int64_t i = 0; i < n; ++i) { dh[i] *= slope_from<A, kept_kind(A)>(kept[i]); }
}

#define TMB_INSTANTIATE(A)                                                                 \
  template void phi_range<float, Activation::A>(const float*, float*, int64_t);      \
  template void phi_range<double, Activation::A>(const double*, double*, int64_t);   \
  template void slope_range<float, Activation::A>(const float*, float*, int64_t);    \
  template void slope_range<double, Activation::A>(const double*, double*, int64_t);
TMB_ACTIVATIONS(TMB_INSTANTIATE)
#undef TMB_INSTANTIATE

// o ← Ĝ for n rows; Σ r l and their share of N.
template <typename T>
LossSum loss_in_place(const LossInput<T>& loss, const Block<T>& s, int64_t q, int64_t begin, int64_t n) {
  if (loss.kind == LossKind::cross_entropy) {
    const LossRows<T> rows{s.o, s.zeros, loss.row_weight == nullptr ? nullptr : loss.row_weight + begin, n, q};
    return cross_entropy_rows(rows, loss.labels + begin, loss.class_weight, loss.class_weight_sum, loss.smoothing,
                              loss.ignore_index, s.row);
  }
  LossSum sum;
  for (int64_t b = 0; b < n && loss.row_weight != nullptr; ++b) {
    std::fill_n(s.weights + b * q, q, loss.row_weight[begin + b]);
    sum.weight += loss.row_weight[begin + b];
  }
  if (loss.row_weight == nullptr) {
    sum.weight = static_cast<double>(n);
  }
  const LossRows<T> rows{s.o, s.zeros, s.weights, n, q};
  sum.loss = loss.kind == LossKind::mse ? mse_rows(rows, loss.y + begin * q)
                                        : bce_with_logits_rows(rows, loss.y + begin * q);
  return sum;
}

}  // namespace

template <typename T>
LossInput<T> loss_input(const LossArguments& a, int64_t q) {
  const auto kind = static_cast<LossKind>(a.kind);
  const bool labels = kind == LossKind::cross_entropy;
  const T* const class_weight = const_data<T>(a.class_weight);
  double sum = class_weight == nullptr ? static_cast<double>(q) : 0;
  for (int64_t k = 0; class_weight != nullptr && k < q; ++k) {
    sum += class_weight[k];
  }
  return {kind,
          labels ? const_data<int64_t>(a.y) : nullptr,
          labels ? nullptr : const_data<T>(a.y),
          const_data<T>(a.row_weight),
          class_weight,
          a.smoothing,
          a.ignore_index,
          sum};
}

template <typename T>
ActivationKernels<T> kernels_of(Activation a) {
  switch (a) {
#define TMB_CASE(A) \
  case Activation::A: \
    return {&phi_range<T, Activation::A>, &slope_range<T, Activation::A>};
    TMB_ACTIVATIONS(TMB_CASE)
#undef TMB_CASE
  }
  return {};
}

template <typename T>
OutputLayer<T>::OutputLayer(int64_t h, int64_t q, bool backward, Pieces<T>& scratch)
    : h(h), q(q), padded_h(whole_vectors<T>(h)), padded_q(whole_vectors<T>(q)) {
  w2t = scratch.take(h * padded_q);
  b2 = scratch.take(padded_q);
  w2 = backward ? scratch.take(q * padded_h) : nullptr;
}

// The lanes of the padding are computed with, though not used: zeros, since subnormal rubbish is slow.
template <typename T>
void OutputLayer<T>::prepare(const T* weight, const T* bias, bool backward) {
  if (padded_q != q) {
    std::fill_n(w2t, h * padded_q, T(0));
  }
  transpose<T>({weight, h}, q, h, {w2t, padded_q});
  std::fill_n(b2, padded_q, T(0));
  if (bias != nullptr) {
    std::copy_n(bias, q, b2);
  }
  if (!backward) {
    return;
  }
  if (padded_h == h) {
    w2 = const_cast<T*>(weight);  // read only
  } else {
    std::fill_n(w2, q * padded_h, T(0));
    for (int64_t k = 0; k < q; ++k) {
      std::copy_n(weight + k * h, h, w2 + k * padded_h);
    }
  }
}

template <typename T>
Block<T>::Block(int64_t rows, const OutputLayer<T>& layer, Activation activation, bool backward, Pieces<T>& scratch) {
  h = scratch.take(rows * layer.padded_h);
  z = keeps_z(activation) ? scratch.take(rows * layer.padded_h) : h;
  o = nullptr;
  if (backward) {
    dh = scratch.take(rows * layer.padded_h);
    o = scratch.take(rows * layer.q + kVectorLanes<T>);  // a vector more may be read
    zeros = scratch.take(rows * layer.q);
    weights = scratch.take(rows * layer.q);
    row = scratch.take(layer.q + 16);
  }
}

template <typename T>
void Block<T>::prepare(int64_t rows, const OutputLayer<T>& layer) const {
  std::fill_n(o + rows * layer.q, kVectorLanes<T>, T(0));
  std::fill_n(zeros, rows * layer.q, T(0));
  std::fill_n(weights, rows * layer.q, T(1));
}

template <typename T>
void middle_forward(const OutputLayer<T>& layer, const Block<T>& s, const ActivationKernels<T>& activation, int64_t n,
                    T* o) {
  const int64_t H = layer.padded_h;
  activation.phi(s.z, s.h, n * H);  // h = φ(z)
  multiply<T>({{o, layer.q}, {layer.b2, 0}, {s.h, H, 1}, {layer.w2t, layer.padded_q}, n, layer.q, layer.h});
}

template <typename T>
void middle_backward(const OutputLayer<T>& layer, const Block<T>& s, const ActivationKernels<T>& activation,
                     const LossInput<T>& loss, Wanted wanted, int64_t begin, int64_t n, bool first,
                     MiddleSums<T>& sums) {
  const int64_t h = layer.h, q = layer.q, H = layer.padded_h;
  middle_forward(layer, s, activation, n, s.o);
  const LossSum sum = loss_in_place(loss, s, q, begin, n);  // o ← Ĝ
  sums.loss.loss += sum.loss;
  sums.loss.weight += sum.weight;
  if (wanted.dw2) {
    multiply<T>({{sums.dw2, h}, {first ? nullptr : sums.dw2, h}, {s.o, 1, q}, {s.h, H}, q, h, n});  // dW2 += Ĝᵀ h
  }
  if (wanted.db2) {
    column_sums<T>({s.o, q}, n, q, !first, sums.db2);  // db2 += Ĝᵀ 1
  }
  if (!wanted.hidden()) {
    return;
  }
  multiply<T>({{s.dh, H}, {nullptr, 0}, {s.o, q, 1}, {layer.w2, H}, n, H, q});  // dh = Ĝ W2
  activation.slope(s.z, s.dh, n * H);                                          // dz = φ′ ⊙ dh
  if (wanted.db1) {
    column_sums<T>({s.dh, H}, n, h, !first, sums.db1);  // db1 += dzᵀ 1
  }
}

#define TMB_INSTANTIATE(T)                                                                                           \
  template LossInput<T> loss_input(const LossArguments&, int64_t);                                                \
  template ActivationKernels<T> kernels_of(Activation);                                                           \
  template struct OutputLayer<T>;                                                                                 \
  template struct Block<T>;                                                                                       \
  template void middle_forward(const OutputLayer<T>&, const Block<T>&, const ActivationKernels<T>&, int64_t, T*);    \
  template void middle_backward(const OutputLayer<T>&, const Block<T>&, const ActivationKernels<T>&,                 \
                                const LossInput<T>&, Wanted, int64_t, int64_t, bool, MiddleSums<T>&);
TMB_INSTANTIATE(float)
TMB_INSTANTIATE(double)

}  // namespace tmb
