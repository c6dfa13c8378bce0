// The arithmetic of a net so small that calls would cost more than it: forward and backward pass in one thread.
#pragma once

#include "middle.h"

namespace tmb {

// Whether a step of this size takes less time here than in large_net.h's products: at most so many weights, which are
// transposed anew for each step, and so many multiply-adds, which one thread makes. Measured.
inline bool is_small(int64_t B, int64_t d, int64_t h, int64_t q) {
  const int64_t weights = d * h + h * q;
  return weights <= int64_t{1} << 15 && B * (2 * weights + h * q) <= int64_t{1} << 22;
}
inline bool is_small(const NetTensors& net) {
  return is_small(net.x.size(0), net.x.size(1), net.w2.size(1), net.w2.size(0));
}

// Contiguous; a null bias is none.
template <typename T>
struct SmallNet {
  const T *x, *w1, *b1, *w2, *b2;
  int64_t B, d, h, q;
  Activation activation;
};

// Sums over the rows, of Ĝ's gradient: ∂L/∂X is their product with the loss's scale. They live in the scratch.
template <typename T>
struct SmallSums {
  T *dw1, *db1, *dw2, *db2;
  double loss;    // Σ r l
  double weight;  // N
};

// Elements of scratch that a pass needs; its start should be aligned to 64 bytes.
template <typename T>
int64_t forward_scratch(const SmallNet<T>& net);
template <typename T>
int64_t gradient_scratch(const SmallNet<T>& net);

// o (B,q)
template <typename T>
void forward_pass(const SmallNet<T>& net, T* o, T* scratch);

template <typename T>
SmallSums<T> gradient_pass(const SmallNet<T>& net, const LossInput<T>& loss, Wanted wanted, T* scratch);

}  // namespace tmb
