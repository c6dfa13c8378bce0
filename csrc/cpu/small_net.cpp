// Blocks of 32 rows: x and the gradients are read as they stand, the weights are transposed once.
#include "small_net.h"

#include <algorithm>

namespace tmb {
namespace {

constexpr int64_t kBlockRows = 32;

// Z = X W1ᵀ + 1 b1ᵀ, and what the middle needs.
template <typename T>
struct Forward {
  int64_t rows;
  OutputLayer<T> layer;
  Block<T> block;
  T *w1t, *b1;  // W1ᵀ (d,h̄), (h̄)

  Forward(const SmallNet<T>& net, bool backward, Pieces<T>& scratch)
      : rows(std::min(net.B, kBlockRows)),
        layer(net.h, net.q, backward, scratch),
        block(rows, layer, net.activation, backward, scratch) {
    w1t = scratch.take(net.d * layer.padded_h);
    b1 = scratch.take(layer.padded_h);
  }

  void prepare(const SmallNet<T>& net, bool backward) {
    layer.prepare(net.w2, net.b2, backward);
    if (layer.padded_h != net.h) {
      std::fill_n(w1t, net.d * layer.padded_h, T(0));
    }
    transpose<T>({net.w1, net.d}, net.h, net.d, {w1t, layer.padded_h});
    std::fill_n(b1, layer.padded_h, T(0));
    if (net.b1 != nullptr) {
      std::copy_n(net.b1, net.h, b1);
    }
  }

  void hidden(const SmallNet<T>& net, int64_t begin, int64_t n) const {
    const int64_t H = layer.padded_h;
    multiply<T>({{block.z, H}, {b1, 0}, {net.x + begin * net.d, net.d, 1}, {w1t, H}, n, H, net.d});
  }
};

template <typename T>
struct Sums {
  T *dw1t, *dw1;
  MiddleSums<T> middle;

  Sums(const SmallNet<T>& net, const Forward<T>& f, Pieces<T>& scratch) {
    dw1t = scratch.take(net.d * f.layer.padded_h);
    dw1 = scratch.take(net.h * net.d);
    middle = {scratch.take(net.h), scratch.take(net.q * net.h), scratch.take(net.q), {}};
    scratch.take(kVectorLanes<T>);  // whole vectors are read at the end of a row, of the last one as well
  }
};

}  // namespace

template <typename T>
int64_t forward_scratch(const SmallNet<T>& net) {
  Pieces<T> pieces(nullptr);
  const Forward<T> forward(net, false, pieces);
  return pieces.used();
}

template <typename T>
int64_t gradient_scratch(const SmallNet<T>& net) {
  Pieces<T> pieces(nullptr);
  const Sums<T> sums(net, Forward<T>(net, true, pieces), pieces);
  return pieces.used();
}

template <typename T>
void forward_pass(const SmallNet<T>& net, T* o, T* scratch) {
  Pieces<T> pieces(scratch);
  Forward<T> f(net, false, pieces);
  const ActivationKernels<T> activation = kernels_of<T>(net.activation);
  f.prepare(net, false);
  for (int64_t begin = 0; begin < net.B; begin += kBlockRows) {
    const int64_t n = std::min(kBlockRows, net.B - begin);
    f.hidden(net, begin, n);
    middle_forward(f.layer, f.block, activation, n, o + begin * net.q);
  }
}

template <typename T>
SmallSums<T> gradient_pass(const SmallNet<T>& net, const LossInput<T>& loss, Wanted wanted, T* scratch) {
  Pieces<T> pieces(scratch);
  Forward<T> f(net, true, pieces);
  Sums<T> s(net, f, pieces);
  const ActivationKernels<T> activation = kernels_of<T>(net.activation);
  const int64_t d = net.d, H = f.layer.padded_h;
  f.prepare(net, true);
  f.block.prepare(f.rows, f.layer);
  for (int64_t begin = 0; begin < net.B; begin += kBlockRows) {
    const int64_t n = std::min(kBlockRows, net.B - begin);
    const bool first = begin == 0;
    f.hidden(net, begin, n);
    middle_backward(f.layer, f.block, activation, loss, wanted, begin, n, first, s.middle);
    if (wanted.dw1) {  // dW1ᵀ += xᵀ dz
      multiply<T>({{s.dw1t, H}, {first ? nullptr : s.dw1t, H}, {net.x + begin * d, 1, d}, {f.block.dh, H}, d, H, n});
    }
  }
  if (net.B == 0) {
    std::fill_n(s.dw1t, d * H, T(0));
    std::fill_n(s.middle.db1, net.h, T(0));
    std::fill_n(s.middle.dw2, net.q * net.h, T(0));
    std::fill_n(s.middle.db2, net.q, T(0));
  }
  if (wanted.dw1) {
    transpose<T>({s.dw1t, H}, d, net.h, {s.dw1, d});
  }
  return {s.dw1, s.middle.db1, s.middle.dw2, s.middle.db2, s.middle.loss.loss, s.middle.loss.weight};
}

#define TMB_INSTANTIATE(T)                                   \
  template int64_t forward_scratch(const SmallNet<T>&);  \
  template int64_t gradient_scratch(const SmallNet<T>&); \
  template void forward_pass(const SmallNet<T>&, T*, T*);     \
  template SmallSums<T> gradient_pass(const SmallNet<T>&, const LossInput<T>&, Wanted, T*);
TMB_INSTANTIATE(float)
TMB_INSTANTIATE(double)

}  // namespace tmb
