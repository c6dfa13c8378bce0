// The pass of small_net.h for nets whose arithmetic is worth the calls: torch's matrix products over the whole batch.
#pragma once

#include "losses.h"
#include "../net_arguments.h"

namespace tmb {

// What is left of a pass. Sums over the rows are those of Ĝ, as in SmallSums: ∂L/∂X is their product with the scale.
struct LargePass {
  MaybeTensor dz;        // (B,h)
  MaybeTensor h, g;      // (B,h), and Ĝ (B,q): the factors of dW2, where there is none
  MaybeTensor dw2, db1, db2;
  LossSum sum;           // Σ r l and N
};

// Bytes of scratch of a pass with few outputs, all 0 with many: of the output layer, of the sums, of the threads' blocks.
struct LargeScratch {
  int64_t layer = 0, sums = 0, blocks = 0;
};

LargeScratch large_scratch(const Tensor& x, int64_t h, int64_t q, Activation activation);

LargePass large_pass(const NetTensors& net, const LossArguments& loss, Activation activation, Wanted wanted);

Tensor large_forward(const NetTensors& net, Activation activation);

// leftᵀ right
Tensor transposed_product(const Tensor& left, const Tensor& right);

// w ← keep w − rate leftᵀ right: SGD inside the product that makes the gradient
void update_by_product(const Tensor& w, const Tensor& left, const Tensor& right, double keep, double rate);

}  // namespace tmb
