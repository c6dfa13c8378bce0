// A small net's gradient, and its whole training step, one call each: one kernel for the gradient (small_net.cuh), one
// for the update, and one between them where the norm is clipped. Parameters are written by the last alone.
#include "one_call.cuh"

#include "small_net.cuh"
#include "update.cuh"

namespace tmb::cuda {
namespace {

// The bytes of shared memory that a block may have on the tensor's device.
int64_t most_shared_bytes(const Tensor& t) {
  int bytes = 0;
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin,
                                        static_cast<int>(std::max(0, int(t.get_device_index())))));
  return bytes;
}

bool fits_one_call(Tensor x, int64_t h, int64_t q) {
  const bool is_float = x.scalar_type() == ScalarType::Float;
  if (x.dim() != 2 || !(is_float || x.scalar_type() == ScalarType::Double)) {
    return false;
  }
  const int64_t d = x.size(1), most = is_float ? kMostWidth<float> : kMostWidth<double>;
  if (std::min({d, h, q}) < 1 || std::max({d, h, q}) > most) {
    return false;
  }
  const Layout layout(static_cast<int>(d), static_cast<int>(h), static_cast<int>(q));
  return layout.size * (is_float ? 4 : 8) <= most_shared_bytes(x);
}

void check_fits(const char* op, const NetTensors& t) {
  STD_TORCH_CHECK(fits_one_call(t.x, t.w1.size(0), t.w2.size(0)), op,
                  ": the net must be small enough for one kernel, got d, h, q = ", t.w1.size(1), ", ", t.w1.size(0),
                  ", ", t.w2.size(0));
}

// The gradient by chunks, in memory that goes with it.
template <typename T>
struct Gradient {
  Tensor sums, of_rows;
  int64_t stride, at[4];
  RowSums rows;

  const T* sums_of(int place) const { return const_data<T>(sums) + at[place]; }
};

template <typename T, int P>
void run_gradient_rows(const SmallNet<T>& net, const SmallLoss<T>& loss, const ChunkSums<T>& out, unsigned chunks,
                       cudaStream_t stream) {
  const size_t bytes = Layout(net.d, net.h, net.q).size * sizeof(T);
  if (bytes > 48 * 1024) {  // more has to be asked for
    STD_CUDA_CHECK(cudaFuncSetAttribute(gradient_rows<T, P>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        static_cast<int>(bytes)));
  }
  run(gradient_rows<T, P>, chunks, kThreads, bytes, stream, net, loss, out);
}

// All that the passes of a call need, allocated before the first of them is launched.
template <typename T>
Gradient<T> prepared(const NetTensors& t, const LossArguments& a, double weight_decay) {
  const int64_t d = t.w1.size(1), h = t.w1.size(0), q = t.w2.size(0), B = t.x.size(0);
  Gradient<T> g{};
  const int64_t sizes[] = {h * d, h, q * h, q};
  for (int i = 0; i < 4; ++i) {
    g.at[i] = g.stride;
    g.stride += ceil_div(sizes[i], 8) * 8;  // whole octets
  }
  const int64_t chunks = std::clamp<int64_t>(ceil_div(B, kTileRows), 1, kMostChunks);
  g.sums = new_tensor(t.x, {chunks, g.stride}, t.x.scalar_type());
  g.of_rows = new_tensor(t.x, {3, chunks}, ScalarType::Double);
  double* const of_rows = data<double>(g.of_rows);
  g.rows = {of_rows, of_rows + chunks, of_rows + 2 * chunks, static_cast<int>(chunks), a.mean, a.normalizer,
            a.is(LossKind::cross_entropy) ? 1.0 : static_cast<double>(q), a.is(LossKind::mse) ? 2.0 : 1.0,
            weight_decay};
  return g;
}

template <typename T>
void launch_gradient(const Gradient<T>& g, const NetTensors& t, const LossArguments& a, Activation activation,
                     cudaStream_t stream) {
  const bool labels = a.is(LossKind::cross_entropy);
  const SmallNet<T> net{const_data<T>(t.x),  const_data<T>(t.w1), const_data<T>(t.b1), const_data<T>(t.w2),
                        const_data<T>(t.b2), t.x.size(0),         int(t.w1.size(1)),   int(t.w1.size(0)),
                        int(t.w2.size(0)),   activation};
  const SmallLoss<T> loss{static_cast<LossKind>(a.kind), labels ? const_data<int64_t>(a.y) : nullptr,
                          labels ? nullptr : const_data<T>(a.y), const_data<T>(a.row_weight),
                          const_data<T>(a.class_weight), a.smoothing, a.ignore_index};
  double* const of_rows = data<double>(g.of_rows);
  const int chunks = g.rows.chunks;
  const ChunkSums<T> out{data<T>(g.sums), g.stride, {g.at[0], g.at[1], g.at[2], g.at[3]}, of_rows, of_rows + chunks,
                         of_rows + 2 * chunks, g.rows.weight_decay != 0};
  if constexpr (sizeof(T) == 4) {
    if (std::max({net.d, net.h, net.q}) > 4 * kSide) {
      return run_gradient_rows<T, 8>(net, loss, out, chunks, stream);
    }
  }
  run_gradient_rows<T, 4>(net, loss, out, chunks, stream);
}

// One launch for all parameters; fill(i, slot, numbers) for the i-th of those that there are.
template <typename T, typename Rule>
Update<T, Rule> update_of(const Gradient<T>& g, const Rule& rule, const Tensor& J) {
  Update<T, Rule> u{rule};
  u.chunks = g.rows.chunks;
  u.stride = g.stride;
  u.rows = g.rows;
  u.J = data<T>(J);
  return u;
}

template <typename T, typename Rule, typename Fill>
void launch_update(const Gradient<T>& g, const InOrder& in_order, const Tensors& first, const Tensors& second,
                   const Rule& rule, double clip_norm, const Tensor& J, cudaStream_t stream, const Fill& fill) {
  std::vector<Update<T, Rule>> groups{update_of(g, rule, J)};
  Update<T, Rule>& u = groups[0];
  for (int64_t i = 0; i < in_order.count; ++i) {
    Slot<T>& slot = u.slots[u.count];
    slot = slot_of<T>(*in_order.parameters[i], g.sums_of(in_order.places[i]), g.stride,
                      first.empty() ? nullptr : &first[i], second.empty() ? nullptr : &second[i]);
    fill(i, slot, u.numbers[u.count]);
    ++u.count;
  }
  run_updates(groups, clip_norm, J, stream);
}

Tensor objective_gradient_(Tensor x, Tensor y, MaybeTensor row_weight, Tensor w1, MaybeTensor b1, Tensor w2,
                           MaybeTensor b2, MaybeTensor class_weight, int64_t activation, int64_t loss,
                           double label_smoothing, int64_t ignore_index, bool mean, double weight_decay,
                           double grad_scale, double normalizer, bool add, MaybeTensor dw1, MaybeTensor db1,
                           MaybeTensor dw2, MaybeTensor db2) {
  constexpr const char* op = "objective_gradient_";
  const NetTensors t{x, w1, w2, b1, b2};
  const LossArguments a{y, row_weight, class_weight, loss, label_smoothing, ignore_index, mean, normalizer};
  const Activation phi = check_step(op, t, a, activation);
  check_fits(op, t);
  check_gradients(op, t, dw1, db1, dw2, db2);
  const OnDeviceOf device(x);
  return with_wide_type(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    Tensor J = new_tensor(x, {}, x.scalar_type());
    const Gradient<T> g = prepared<T>(t, a, weight_decay);
    launch_gradient(g, t, a, phi, device.stream());
    std::vector<Update<T, Write<T>>> groups{update_of(g, Write<T>{add, grad_scale}, J)};
    const MaybeTensor* const wanted[] = {&dw1, &db1, &dw2, &db2};
    const MaybeTensor given_w1 = w1, given_w2 = w2;
    const MaybeTensor* const given[] = {&given_w1, &b1, &given_w2, &b2};
    for (int i = 0; i < 4; ++i) {
      if (wanted[i]->has_value()) {
        const Tensor& p = given[i]->has_value() ? **given[i] : **wanted[i];
        Update<T, Write<T>>& u = groups[0];
        u.slots[u.count] = slot_of<T>(p, g.sums_of(i), g.stride, &**wanted[i], nullptr);
        u.numbers[u.count++] = {static_cast<T>(i % 2 == 0 ? weight_decay : 0)};
      }
    }
    run_updates(groups, std::numeric_limits<double>::infinity(), J, device.stream());
    return J;
  });
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
  const Activation phi = check_step(op, t, a, activation);
  check_fits(op, t);
  const InOrder in_order(t);
  check_hyper(op, hyper, in_order.count, kHyperColumns<SgdHyper>);
  if (!momentum_buffer.empty()) {
    in_order.check(op, "momentum_buffer", momentum_buffer);
  }
  const OnDeviceOf device(x);
  const auto* const now = const_data<SgdHyper>(hyper);
  return with_wide_type(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    Tensor J = new_tensor(x, {}, x.scalar_type());
    const Gradient<T> g = prepared<T>(t, a, weight_decay);
    launch_gradient(g, t, a, phi, device.stream());
    launch_update<T>(g, in_order, momentum_buffer, {}, Sgd<T>{nesterov}, clip_norm, J, device.stream(),
                     [&](int64_t i, Slot<T>&, auto& numbers) { numbers = sgd_numbers<T>(now[i]); });
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
  const Activation phi = check_step(op, t, a, activation);
  check_fits(op, t);
  const InOrder in_order(t);
  check_hyper(op, hyper, in_order.count, kHyperColumns<AdamHyper>);
  in_order.check(op, "exp_avg", exp_avg);
  in_order.check(op, "exp_avg_sq", exp_avg_sq);
  check_steps(op, step, in_order.count, w1);
  const OnDeviceOf device(x);
  const StepCounters counters(op, step, device.stream());
  const auto* const now = const_data<AdamHyper>(hyper);
  const Tensor J = with_wide_type(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    Tensor J = new_tensor(x, {}, x.scalar_type());
    const Gradient<T> g = prepared<T>(t, a, weight_decay);
    launch_gradient(g, t, a, phi, device.stream());
    counters.advance_on_device();
    launch_update<T>(g, in_order, exp_avg, exp_avg_sq, Adam<T>{}, clip_norm, J, device.stream(),
                     [&](int64_t i, Slot<T>& slot, auto& numbers) {
                       numbers = adam_numbers<T>(now[i], decoupled);
                       counters.put<T>(i, now[i], slot, numbers);
                     });
    return J;
  });
  counters.advance_on_host();
  return J;
}

}  // namespace tmb::cuda

STABLE_TORCH_LIBRARY_IMPL(torch_manual_bp, CUDA, m) {
  m.impl("fits_one_call", TORCH_BOX(&tmb::cuda::fits_one_call));
  m.impl("objective_gradient_", TORCH_BOX(&tmb::cuda::objective_gradient_));
  m.impl("objective_sgd_", TORCH_BOX(&tmb::cuda::objective_sgd_));
  m.impl("objective_adam_", TORCH_BOX(&tmb::cuda::objective_adam_));
}
