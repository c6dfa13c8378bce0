// A net's forward pass, gradient, and whole training step, one call each: mlp_forward, objective_gradient_,
// objective_sgd_, objective_adam_. Everything that can fail comes first; what is written is written at the end.
#include <torch/csrc/stable/library.h>

#include "labels.h"
#include "large_net.h"
#include "losses.h"
#include "ops.h"
#include "scratch.h"
#include "small_net.h"
#include "update.h"

namespace tmb {
namespace {

template <typename T>
SmallNet<T> net_of(const NetTensors& t, Activation activation) {
  return {const_data<T>(t.x), const_data<T>(t.w1), const_data<T>(t.b1), const_data<T>(t.w2), const_data<T>(t.b2),
          t.x.size(0),        t.w1.size(1),        t.w1.size(0),        t.w2.size(0),        activation};
}

template <typename T>
Amount amount_of(const NetTensors& t, const LossArguments& a, double weight_decay, double loss, double N) {
  const double squares = weight_decay == 0 ? 0
                                           : sum_squares(const_data<T>(t.w1), t.w1.numel()) +
                                                 sum_squares(const_data<T>(t.w2), t.w2.numel());
  return Reduction(t, a, weight_decay).amount(loss, N, squares);
}

// The sums of a pass, in memory that goes with it.
template <typename T>
struct Gradient {
  std::vector<Tensor> memory;
  T *dw1 = nullptr, *db1 = nullptr, *dw2 = nullptr, *db2 = nullptr;
  Amount amount;
};

template <typename T>
Gradient<T> small_gradient(const NetTensors& t, const LossArguments& a, Activation activation, double weight_decay,
                           Wanted wanted) {
  const SmallNet<T> net = net_of<T>(t, activation);
  const Scratch<T> scratch(gradient_scratch(net), t.x);
  const SmallSums<T> sums = gradient_pass(net, loss_input<T>(a, net.q), wanted, scratch.start());
  return {{scratch.tensor()}, sums.dw1, sums.db1, sums.dw2, sums.db2,
          amount_of<T>(t, a, weight_decay, sums.loss, sums.weight)};
}

template <typename T>
Gradient<T> large_gradient(const NetTensors& t, const LossArguments& a, Activation activation, double weight_decay,
                           Wanted wanted) {
  const LargePass pass = large_pass(t, a, activation, wanted);
  Gradient<T> g{{}, nullptr, nullptr, nullptr, nullptr,
                amount_of<T>(t, a, weight_decay, pass.sum.loss, pass.sum.weight)};
  const auto keep = [&](T*& to, const Tensor& sum) {
    to = data<T>(sum);
    g.memory.push_back(sum);
  };
  if (wanted.dw1) {
    keep(g.dw1, transposed_product(*pass.dz, t.x));  // dW1 = dZᵀ X
  }
  if (wanted.db1) {
    keep(g.db1, *pass.db1);
  }
  if (wanted.dw2) {
    keep(g.dw2, pass.dw2.has_value() ? *pass.dw2 : transposed_product(*pass.g, *pass.h));  // dW2 = dOᵀ H
  }
  if (wanted.db2) {
    keep(g.db2, *pass.db2);
  }
  return g;
}

template <typename T>
Gradient<T> gradient_of(const NetTensors& t, const LossArguments& a, Activation activation, double weight_decay,
                        Wanted wanted) {
  return (is_small(t) ? &small_gradient<T> : &large_gradient<T>)(t, a, activation, weight_decay, wanted);
}

Activation check_step_and_labels(const char* op, const NetTensors& t, const LossArguments& a, int64_t activation) {
  const Activation phi = check_step(op, t, a, activation);
  if (a.kind == static_cast<int64_t>(LossKind::cross_entropy)) {
    const int64_t B = t.x.size(0), q = t.w2.size(0);
    const int64_t* const labels = const_data<int64_t>(a.y);
    const int64_t bad = first_bad_label(labels, B, q, a.ignore_index);
    STD_TORCH_CHECK(bad < 0, op, ": y must hold labels in [0, ", q, ") or ", a.ignore_index, "; got ", labels[bad],
                    " at row ", bad);
  }
  return phi;
}

template <typename T>
Tensor scalar(const Tensor& like, T value) {
  Tensor result = new_tensor(like, {}, like.scalar_type());
  *data<T>(result) = value;
  return result;
}

// A net of any size, by one way or the other.
bool fits_one_call(Tensor x, int64_t, int64_t) {
  return x.dim() == 2 && (x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::Double);
}

// The bytes that the ops of a net take beside their results, for the x of so many rows; see kernels/scratch.py.
Tensor scratch_bytes(Tensor x, int64_t hidden, int64_t outputs, int64_t activation) {
  const Activation phi = checked_activation("scratch_bytes", activation);
  const int64_t B = x.size(0), d = x.size(1);
  int64_t forward = 0, gradient = 0;
  LargeScratch large;
  if (x.scalar_type() == wide_type(x.scalar_type())) {
    if (is_small(B, d, hidden, outputs)) {
      with_wide_type(x.scalar_type(), [&](auto zero) {
        using T = decltype(zero);
        const SmallNet<T> net{nullptr, nullptr, nullptr, nullptr, nullptr, B, d, hidden, outputs, phi};
        forward = Scratch<T>::bytes(forward_scratch(net));
        gradient = Scratch<T>::bytes(gradient_scratch(net));
      });
    } else {
      large = large_scratch(x, hidden, outputs, phi);
    }
  }
  Tensor bytes = new_tensor(x, {6}, ScalarType::Long);
  std::copy_n(std::array<int64_t, 6>{forward, gradient, large.layer, large.sums, large.blocks, dact_scratch(B, hidden)}.data(),
              6, data<int64_t>(bytes));
  return bytes;
}

Tensor mlp_forward(const Tensor& x, const Tensor& w1, const MaybeTensor& b1, const Tensor& w2, const MaybeTensor& b2,
                     int64_t activation) {
  const NetTensors t{x, w1, w2, b1, b2};
  const Activation phi = check_net("mlp_forward", t, activation);
  if (!is_small(t)) {
    return large_forward(t, phi);
  }
  Tensor o = new_tensor(x, {x.size(0), w2.size(0)}, x.scalar_type());
  with_wide_type(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const SmallNet<T> net = net_of<T>(t, phi);
    const Scratch<T> scratch(forward_scratch(net), x);
    forward_pass(net, data<T>(o), scratch.start());
  });
  return o;
}

// dX ← (add ? dX : 0) + scale · sum + penalty · p
template <typename T>
void write_gradient(const MaybeTensor& dX, const T* sum, const T* p, int64_t n, T scale, T penalty, bool add) {
  if (!dX.has_value()) {
    return;
  }
  T* const g = data<T>(*dX);
  for (int64_t i = 0; i < n; ++i) {
    const T own = penalty == 0 ? scale * sum[i] : scale * sum[i] + penalty * p[i];
    g[i] = add ? g[i] + own : own;
  }
}

Tensor objective_gradient_(const Tensor& x, const Tensor& y, const MaybeTensor& row_weight, const Tensor& w1,
                       const MaybeTensor& b1, const Tensor& w2, const MaybeTensor& b2, const MaybeTensor& class_weight,
                       int64_t activation, int64_t loss, double label_smoothing, int64_t ignore_index, bool mean,
                       double weight_decay, double grad_scale, double normalizer, bool add, const MaybeTensor& dw1,
                       const MaybeTensor& db1, const MaybeTensor& dw2, const MaybeTensor& db2) {
  constexpr const char* op = "objective_gradient_";
  const NetTensors t{x, w1, w2, b1, b2};
  const LossArguments a{y, row_weight, class_weight, loss, label_smoothing, ignore_index, mean, normalizer};
  const Activation phi = check_step_and_labels(op, t, a, activation);
  const GradientTensors to{dw1, db1, dw2, db2};
  to.check(op, t);
  return with_wide_type(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const Gradient<T> g = gradient_of<T>(t, a, phi, weight_decay, to.wanted());
    Tensor J = scalar(x, static_cast<T>(g.amount.J));
    const T scale = static_cast<T>(grad_scale * g.amount.scale), penalty = static_cast<T>(grad_scale * g.amount.share * weight_decay);
    write_gradient<T>(dw1, g.dw1, const_data<T>(w1), w1.numel(), scale, penalty, add);
    write_gradient<T>(db1, g.db1, nullptr, w1.size(0), scale, 0, add);
    write_gradient<T>(dw2, g.dw2, const_data<T>(w2), w2.numel(), scale, penalty, add);
    write_gradient<T>(db2, g.db2, nullptr, w2.size(0), scale, 0, add);
    return J;
  });
}

// Each parameter there is, with its sum and its states.
template <typename T>
std::array<Parameter<T>, 4> parameters_of(const InOrder& in_order, const Gradient<T>& g, const Tensors& first,
                                          const Tensors& second) {
  const auto sums = in_order.of(g.dw1, g.db1, g.dw2, g.db2);
  std::array<Parameter<T>, 4> result;
  for (int64_t i = 0; i < in_order.count; ++i) {
    const Tensor& p = *in_order.parameters[i];
    result[i] = {data<T>(p), sums[i], p.numel(), first.empty() ? nullptr : data<T>(first[i]),
                 second.empty() ? nullptr : data<T>(second[i]), 0};
  }
  return result;
}

// W1 ← (1−ηλ) W1 − η dZᵀX, W2 ← (1−ηλ) W2 − η dOᵀH: there is no dW1, nor, but for few outputs, a dW2. dZ was made with the
// old W2.
template <typename T>
Tensor sgd_in_products(const NetTensors& t, const LossArguments& a, Activation activation, double weight_decay,
                       const SgdHyper* hyper) {
  const LargePass pass = large_pass(t, a, activation, wanted_of(t));
  const Amount amount = amount_of<T>(t, a, weight_decay, pass.sum.loss, pass.sum.weight);
  Tensor J = scalar(t.x, static_cast<T>(amount.J));
  const auto weight = [&](const Tensor& w, const Tensor& left, const Tensor& right) {
    const double lr = hyper->lr, keep = 1 - lr * (hyper->penalty + hyper->weight_decay);
    update_by_product(w, left, right, keep, lr * amount.scale);
    ++hyper;
  };
  const auto by_sum = [&](const MaybeTensor& p, const MaybeTensor& sum) {
    if (p.has_value()) {
      const Parameter<T> parameter{data<T>(*p), const_data<T>(*sum), p->numel(), nullptr, nullptr, 0};
      sgd_update(&parameter, hyper, 1, amount.scale, std::numeric_limits<double>::infinity(), false);
      ++hyper;
    }
  };
  weight(t.w1, *pass.dz, t.x);
  by_sum(t.b1, pass.db1);
  if (pass.dw2.has_value()) {
    by_sum(t.w2, pass.dw2);
  } else {
    weight(t.w2, *pass.g, *pass.h);
  }
  by_sum(t.b2, pass.db2);
  return J;
}

}  // namespace

Tensor objective_sgd_(const Tensor& x, const Tensor& y, const MaybeTensor& row_weight, const Tensor& w1,
                  const MaybeTensor& b1, const Tensor& w2, const MaybeTensor& b2, const MaybeTensor& class_weight,
                  int64_t activation, int64_t loss, double label_smoothing, int64_t ignore_index, bool mean,
                  double weight_decay, const Tensors& momentum_buffer, const Tensor& hyper, double clip_norm,
                  bool nesterov) {
  constexpr const char* op = "objective_sgd_";
  const NetTensors t{x, w1, w2, b1, b2};
  const LossArguments a{y, row_weight, class_weight, loss, label_smoothing, ignore_index, mean, 0};
  const Activation phi = check_step_and_labels(op, t, a, activation);
  const InOrder in_order(t);
  check_hyper(op, hyper, in_order.count, kHyperColumns<SgdHyper>);
  if (!momentum_buffer.empty()) {
    in_order.check(op, "momentum_buffer", momentum_buffer);
  }
  const bool no_buffers = momentum_buffer.empty() && clip_norm == std::numeric_limits<double>::infinity();
  return with_wide_type(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    if (no_buffers && !is_small(t)) {
      return sgd_in_products<T>(t, a, phi, weight_decay, const_data<SgdHyper>(hyper));
    }
    const Gradient<T> g = gradient_of<T>(t, a, phi, weight_decay, wanted_of(t));
    Tensor J = scalar(x, static_cast<T>(g.amount.J));
    const auto parameters = parameters_of(in_order, g, momentum_buffer, {});
    sgd_update(parameters.data(), const_data<SgdHyper>(hyper), in_order.count, g.amount.scale, clip_norm, nesterov);
    return J;
  });
}

Tensor objective_adam_(const Tensor& x, const Tensor& y, const MaybeTensor& row_weight, const Tensor& w1,
                   const MaybeTensor& b1, const Tensor& w2, const MaybeTensor& b2, const MaybeTensor& class_weight,
                   int64_t activation, int64_t loss, double label_smoothing, int64_t ignore_index, bool mean,
                   double weight_decay, const Tensors& exp_avg, const Tensors& exp_avg_sq, const Tensors& step,
                   const Tensor& hyper, double clip_norm, bool decoupled) {
  constexpr const char* op = "objective_adam_";
  const NetTensors t{x, w1, w2, b1, b2};
  const LossArguments a{y, row_weight, class_weight, loss, label_smoothing, ignore_index, mean, 0};
  const Activation phi = check_step_and_labels(op, t, a, activation);
  const InOrder in_order(t);
  check_hyper(op, hyper, in_order.count, kHyperColumns<AdamHyper>);
  in_order.check(op, "exp_avg", exp_avg);
  in_order.check(op, "exp_avg_sq", exp_avg_sq);
  check_steps(op, step, in_order.count, x);
  return with_wide_type(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const Gradient<T> g = gradient_of<T>(t, a, phi, weight_decay, wanted_of(t));
    Tensor J = scalar(x, static_cast<T>(g.amount.J));
    auto parameters = parameters_of(in_order, g, exp_avg, exp_avg_sq);
    for (int64_t i = 0; i < in_order.count; ++i) {
      parameters[i].steps = *const_data<float>(step[i]) + 1;
    }
    adam_update(parameters.data(), const_data<AdamHyper>(hyper), in_order.count, g.amount.scale, clip_norm, decoupled);
    for (int64_t i = 0; i < in_order.count; ++i) {
      *data<float>(step[i]) = static_cast<float>(parameters[i].steps);
    }
    return J;
  });
}

}  // namespace tmb

STABLE_TORCH_LIBRARY_IMPL(torch_manual_bp, CPU, m) {
  m.impl("fits_one_call", TORCH_BOX(&tmb::fits_one_call));
  m.impl("scratch_bytes", TORCH_BOX(&tmb::scratch_bytes));
  m.impl("mlp_forward", TORCH_BOX(&tmb::mlp_forward));
  m.impl("objective_gradient_", TORCH_BOX(&tmb::objective_gradient_));
  m.impl("objective_sgd_", TORCH_BOX(&tmb::objective_sgd_));
  m.impl("objective_adam_", TORCH_BOX(&tmb::objective_adam_));
}
