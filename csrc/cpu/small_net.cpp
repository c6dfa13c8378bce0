// Hidden units lie in the vector lanes, 32 rows of the batch at a time: x, h and the gradients are read as they stand, and
// the weights are transposed once. What is padded to whole vectors has a size marked by a bar: h̄, q̄.
#include "small_net.h"

#include <algorithm>

#include "losses.h"
#include "products.h"

namespace tmb {
namespace {

constexpr int64_t kBlockRows = 32;

// h = φ(z), flat; h may be z.
template <typename T, Activation A>
TMB_CLONES void phi_range(const T* z, T* h, int64_t n) {
  TMB_SIMD for (int64_t i = 0; i < n; ++i) { h[i] = Phi<A>::value(z[i]); }
}

// What φ′ is taken from: h where it follows from h in every dtype, else z.
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

template <typename T>
struct ActivationKernels {
  void (*phi)(const T* z, T* h, int64_t n);
  void (*slope)(const T* kept, T* dh, int64_t n);
};

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

// Takes pieces of the scratch one after the other, each aligned to whole vectors; without a start it only measures.
template <typename T>
class Pieces {
 public:
  explicit Pieces(T* start) : start_(start) {}

  T* take(int64_t n) {
    T* const piece = start_ == nullptr ? nullptr : start_ + used_;
    used_ += whole_vectors<T>(n);
    return piece;
  }

  int64_t used() const { return used_; }

 private:
  T* start_;
  int64_t used_ = 0;
};

template <typename T>
struct Forward {
  int64_t rows, padded_h, padded_q;  // rows at a time, h̄, q̄
  T *w1t, *w2t;                      // W1ᵀ (d,h̄), W2ᵀ (h,q̄)
  T *b1, *b2;                        // (h̄), (q̄)
  T *z, *h;                          // (rows,h̄), one and the same where z is not kept

  Forward(const SmallNet<T>& net, Pieces<T>& scratch)
      : rows(std::min(net.B, kBlockRows)), padded_h(whole_vectors<T>(net.h)), padded_q(whole_vectors<T>(net.q)) {
    w1t = scratch.take(net.d * padded_h);
    w2t = scratch.take(net.h * padded_q);
    b1 = scratch.take(padded_h);
    b2 = scratch.take(padded_q);
    h = scratch.take(rows * padded_h);
    z = kept_kind(net.activation) == Kind::z ? scratch.take(rows * padded_h) : h;
  }

  void prepare(const SmallNet<T>& net) const {
    transpose_padded(net.w1, net.h, net.d, w1t, padded_h);
    transpose_padded(net.w2, net.q, net.h, w2t, padded_q);
    pad(net.b1, net.h, b1);
    pad(net.b2, net.q, b2);
  }

  // o of the n rows from `begin` on, with their z and h.
  void run(const SmallNet<T>& net, const ActivationKernels<T>& activation, int64_t begin, int64_t n, T* o) const {
    const Operand<T> x{net.x + begin * net.d, net.d, 1};
    multiply<T>({{z, padded_h}, {b1, 0}, x, {w1t, padded_h}, n, padded_h, net.d});                // z = x W1ᵀ + 1 b1ᵀ
    activation.phi(z, h, n * padded_h);                                                           // h = φ(z)
    multiply<T>({{o, net.q}, {b2, 0}, {h, padded_h, 1}, {w2t, padded_q}, n, net.q, net.h});  // o = h W2ᵀ + 1 b2ᵀ
  }

 private:
  // The lanes of the padding are computed with, though not used: zeros, since subnormal rubbish is slow.
  static void transpose_padded(const T* w, int64_t rows, int64_t columns, T* to, int64_t padded_rows) {
    if (padded_rows != rows) {
      std::fill_n(to, columns * padded_rows, T(0));
    }
    transpose<T>({w, columns}, rows, columns, {to, padded_rows});
  }

  static void pad(const T* bias, int64_t n, T* to) {
    std::fill_n(to, whole_vectors<T>(n), T(0));
    if (bias != nullptr) {
      std::copy_n(bias, n, to);
    }
  }
};

template <typename T>
struct Backward {
  T* w2;           // W2 (q,h̄)
  T* dh;           // (rows,h̄), later dz
  T* o;            // (rows,q), later Ĝ; a vector more may be read
  T *zeros, *row;  // of the losses: a bias (rows,q), workspace
  T* weights;      // r for each element of o
  T *dw1t, *dw1, *db1, *dw2, *db2;

  Backward(const SmallNet<T>& net, const Forward<T>& f, Pieces<T>& scratch) {
    w2 = scratch.take(net.q * f.padded_h);
    dh = scratch.take(f.rows * f.padded_h);
    o = scratch.take(f.rows * net.q + kVectorLanes<T>);
    zeros = scratch.take(f.rows * net.q);
    weights = scratch.take(f.rows * net.q);
    row = scratch.take(net.q + 16);
    dw1t = scratch.take(net.d * f.padded_h);
    dw1 = scratch.take(net.h * net.d);
    db1 = scratch.take(net.h);
    dw2 = scratch.take(net.q * net.h);
    db2 = scratch.take(net.q);
    scratch.take(kVectorLanes<T>);  // whole vectors are read at the end of a row, of the last one as well
  }

  void prepare(const SmallNet<T>& net, const Forward<T>& f) {
    if (f.padded_h == net.h) {
      w2 = const_cast<T*>(net.w2);  // read only
    } else {
      std::fill_n(w2, net.q * f.padded_h, T(0));
      for (int64_t k = 0; k < net.q; ++k) {
        std::copy_n(net.w2 + k * net.h, net.h, w2 + k * f.padded_h);
      }
    }
    std::fill_n(o + f.rows * net.q, kVectorLanes<T>, T(0));
    std::fill_n(zeros, f.rows * net.q, T(0));
    std::fill_n(weights, f.rows * net.q, T(1));
  }
};

// o ← Ĝ for n rows; Σ r l and their share of N.
template <typename T>
LossSum loss_of(const SmallLoss<T>& loss, const Backward<T>& s, int64_t q, double class_weight_sum, int64_t begin,
                int64_t n) {
  if (loss.kind == LossKind::cross_entropy) {
    const LossRows<T> rows{s.o, s.zeros, loss.row_weight == nullptr ? nullptr : loss.row_weight + begin, n, q};
    return cross_entropy_rows(rows, loss.labels + begin, loss.class_weight, class_weight_sum, loss.smoothing,
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

template <typename T>
double sum_of_class_weights(const SmallLoss<T>& loss, int64_t q) {
  double sum = 0;
  for (int64_t k = 0; k < q; ++k) {
    sum += loss.class_weight == nullptr ? 1 : loss.class_weight[k];
  }
  return sum;
}

}  // namespace

template <typename T>
int64_t forward_scratch(const SmallNet<T>& net) {
  Pieces<T> pieces(nullptr);
  const Forward<T> forward(net, pieces);
  return pieces.used();
}

template <typename T>
int64_t gradient_scratch(const SmallNet<T>& net) {
  Pieces<T> pieces(nullptr);
  const Backward<T> backward(net, Forward<T>(net, pieces), pieces);
  return pieces.used();
}

template <typename T>
void forward_pass(const SmallNet<T>& net, T* o, T* scratch) {
  Pieces<T> pieces(scratch);
  const Forward<T> f(net, pieces);
  const ActivationKernels<T> activation = kernels_of<T>(net.activation);
  f.prepare(net);
  for (int64_t begin = 0; begin < net.B; begin += kBlockRows) {
    f.run(net, activation, begin, std::min(kBlockRows, net.B - begin), o + begin * net.q);
  }
}

template <typename T>
SmallSums<T> gradient_pass(const SmallNet<T>& net, const SmallLoss<T>& loss, Wanted wanted, T* scratch) {
  Pieces<T> pieces(scratch);
  const Forward<T> f(net, pieces);
  Backward<T> s(net, f, pieces);
  const ActivationKernels<T> activation = kernels_of<T>(net.activation);
  const int64_t d = net.d, h = net.h, q = net.q, H = f.padded_h;
  const double class_weight_sum = sum_of_class_weights(loss, q);
  f.prepare(net);
  s.prepare(net, f);
  SmallSums<T> sums{s.dw1, s.db1, s.dw2, s.db2, 0, 0};

  for (int64_t begin = 0; begin < net.B; begin += kBlockRows) {
    const int64_t n = std::min(kBlockRows, net.B - begin);
    // C ← A B of the first rows, C ← C + A B of the others
    const auto add = [&](T* c, int64_t row, Operand<T> a, Rows<const T> b, int64_t M, int64_t N) {
      multiply<T>({{c, row}, {begin == 0 ? nullptr : c, row}, a, b, M, N, n});
    };

    f.run(net, activation, begin, n, s.o);
    const LossSum sum = loss_of(loss, s, q, class_weight_sum, begin, n);  // o ← Ĝ
    sums.loss += sum.loss;
    sums.weight += sum.weight;
    if (wanted.dw2) {
      add(s.dw2, h, {s.o, 1, q}, {f.h, H}, q, h);  // dW2 += Ĝᵀ h
    }
    if (wanted.db2) {
      column_sums<T>({s.o, q}, n, q, begin > 0, s.db2);  // db2 += Ĝᵀ 1
    }
    if (!wanted.dw1 && !wanted.db1) {
      continue;
    }
    multiply<T>({{s.dh, H}, {nullptr, 0}, {s.o, q, 1}, {s.w2, H}, n, H, q});  // dh = Ĝ W2
    if (net.activation != Activation::identity) {
      activation.slope(f.z, s.dh, n * H);  // dz = φ′ ⊙ dh
    }
    if (wanted.dw1) {
      add(s.dw1t, H, {net.x + begin * d, 1, d}, {s.dh, H}, d, H);  // dW1ᵀ += xᵀ dz
    }
    if (wanted.db1) {
      column_sums<T>({s.dh, H}, n, h, begin > 0, s.db1);  // db1 += dzᵀ 1
    }
  }
  if (net.B == 0) {
    std::fill_n(s.dw1t, d * H, T(0));
    std::fill_n(s.db1, h, T(0));
    std::fill_n(s.dw2, q * h, T(0));
    std::fill_n(s.db2, q, T(0));
  }
  if (wanted.dw1) {
    transpose<T>({s.dw1t, H}, d, h, {s.dw1, d});
  }
  return sums;
}

#define TMB_INSTANTIATE(T)                                   \
  template int64_t forward_scratch(const SmallNet<T>&);  \
  template int64_t gradient_scratch(const SmallNet<T>&); \
  template void forward_pass(const SmallNet<T>&, T*, T*);     \
  template SmallSums<T> gradient_pass(const SmallNet<T>&, const SmallLoss<T>&, Wanted, T*);
TMB_INSTANTIATE(float)
TMB_INSTANTIATE(double)

}  // namespace tmb
