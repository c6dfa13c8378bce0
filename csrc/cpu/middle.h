// What lies between the two products with x, Z = X W1ᵀ and dW1 = dZᵀ X: a block of rows at a time, which stays in the cache.
//
// Units lie in the vector lanes. What is padded to whole vectors has a size marked by a bar: h̄, q̄.
#pragma once

#include "losses.h"
#include "../net_arguments.h"
#include "products.h"

namespace tmb {

template <typename T>
struct LossInput {
  LossKind kind;
  const int64_t* labels;  // of cross-entropy
  const T* y;             // of the others
  const T *row_weight, *class_weight;  // null: 1
  double smoothing;
  int64_t ignore_index;
  double class_weight_sum;  // over the q classes
};

template <typename T>
LossInput<T> loss_input(const LossArguments& arguments, int64_t q);

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

// φ and its slope over a range: h may be z; dz = φ′ ⊙ dh in place, φ′ taken from h where it follows from it, else from z.
template <typename T>
struct ActivationKernels {
  void (*phi)(const T* z, T* h, int64_t n);
  void (*slope)(const T* kept, T* dh, int64_t n);
};
template <typename T>
ActivationKernels<T> kernels_of(Activation activation);

inline bool keeps_z(Activation a) { return a > Activation::sigmoid; }  // whether φ′ is taken from z

// W2 as the products of a block read it; whoever has prepared it may share it.
template <typename T>
struct OutputLayer {
  int64_t h, q, padded_h, padded_q;
  T *w2t, *b2;  // W2ᵀ (h,q̄), (q̄)
  T* w2;        // W2 (q,h̄)

  OutputLayer(int64_t h, int64_t q, bool backward, Pieces<T>& scratch);
  void prepare(const T* w2, const T* b2, bool backward);
};

// The buffers of a block; z and h are one where z is not kept. dh and what follows are there for a backward pass.
template <typename T>
struct Block {
  T *z, *h, *o, *dh = nullptr;
  T *zeros = nullptr, *row = nullptr;  // of the losses: a bias (rows,q), workspace
  T* weights = nullptr;                // r for each element of o

  Block(int64_t rows, const OutputLayer<T>& layer, Activation activation, bool backward, Pieces<T>& scratch);
  void prepare(int64_t rows, const OutputLayer<T>& layer) const;
};

// Sums over blocks, of Ĝ's gradient.
template <typename T>
struct MiddleSums {
  T *db1, *dw2, *db2;
  LossSum loss;
};

// h ← φ(z) and o ← h W2ᵀ + 1 b2ᵀ for the n rows of a block, z with its bias.
template <typename T>
void middle_forward(const OutputLayer<T>& layer, const Block<T>& block, const ActivationKernels<T>& activation, int64_t n,
                    T* o);

// The same, then the loss and all that comes back: dh ← dz, and the sums of rows [begin, begin + n); the first of them
// begin a sum.
template <typename T>
void middle_backward(const OutputLayer<T>& layer, const Block<T>& block, const ActivationKernels<T>& activation,
                     const LossInput<T>& loss, Wanted wanted, int64_t begin, int64_t n, bool first,
                     MiddleSums<T>& sums);

}  // namespace tmb
