// A small net's gradient and whole training step, one call each: objective_gradient_, objective_sgd_, objective_adam_.
// Two launches, three with clipping: the sums of each chunk of rows (and the norm), then what is written, by the last.
#include "one_call.cuh"

#include "small_net.cuh"

namespace tmb::cuda {
namespace {

constexpr size_t kFewBytes = 48 * 1024;  // of shared memory, that a block has without asking
constexpr size_t kOwnBytes = 512;        // at most what the kernel has beside it, for its reductions

// The widest layers that gradient_rows has registers for.
constexpr int64_t most_columns(ScalarType type) { return type == ScalarType::Double ? 64 : kMostColumns; }

size_t shared_bytes(ScalarType type, int64_t d, int64_t h, int64_t q) {
  return type == ScalarType::Double ? Resident<double>::bytes(d, h, q) : Resident<float>::bytes(d, h, q);
}

bool fits(const Tensor& x, int64_t h, int64_t q) {
  const int64_t d = x.size(1), most = most_columns(x.scalar_type());
  if (d < 1 || h < 1 || q < 1 || d > most || h > most || q > most) {
    return false;
  }
  int bytes = 0;
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, x.get_device_index()));
  return shared_bytes(x.scalar_type(), d, h, q) + kOwnBytes <= static_cast<size_t>(bytes);
}

bool fits_one_call(Tensor x, int64_t hidden, int64_t outputs) {
  const bool is_wide = x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::Double;
  return x.dim() == 2 && is_wide && fits(x, hidden, outputs);
}

Activation check_small_step(const char* op, const NetTensors& t, const LossArguments& a, int64_t activation) {
  const Activation phi = check_step(op, t, a, activation);
  const int64_t most = most_columns(t.x.scalar_type());
  STD_TORCH_CHECK(fits(t.x, t.w1.size(0), t.w2.size(0)), op, ": layers must be 1 to ", most,
                  " wide and their weights fit in a block's shared memory, got ", t.x.size(1), ", ", t.w1.size(0),
                  " and ", t.w2.size(0));
  return phi;
}

// The pass, ready to be launched: all that can fail has been done.
template <typename T>
class SmallPass {
 public:
  SmallPass(const NetTensors& t, const LossArguments& a, Activation activation, double weight_decay, Wanted wanted) {
    const int64_t B = t.x.size(0), d = t.w1.size(1), h = t.w1.size(0), q = t.w2.size(0);
    const auto aligned = [](int64_t n) { return ceil_div(n, 16) * 16; };
    const int64_t db1 = aligned(h * d), dw2 = db1 + aligned(h), db2 = dw2 + aligned(q * h);
    chunks_.stride = db2 + aligned(q);
    chunks_.count = std::max<int64_t>(1, std::min<int64_t>(kMostChunks, ceil_div(B, kSide)));
    sums_ = new_tensor(t.x, {chunks_.count, chunks_.stride}, t.x.scalar_type());
    row_sums_ = new_tensor(t.x, {chunks_.count, int64_t(sizeof(RowSums) / sizeof(double))}, ScalarType::Double);
    J_ = new_tensor(t.x, {}, t.x.scalar_type());
    chunks_.rows = const_data<RowSums>(row_sums_);
    chunks_.rows_count = chunks_.count;
    chunks_.reduction = Reduction(t, a, weight_decay);
    arguments_ = {const_data<T>(t.x), const_data<T>(t.w1), const_data<T>(t.b1), const_data<T>(t.w2),
                  const_data<T>(t.b2), a.y.const_data_ptr(), const_data<T>(a.row_weight),
                  const_data<T>(a.class_weight), B, static_cast<int>(d), static_cast<int>(h), static_cast<int>(q),
                  activation, static_cast<LossKind>(a.kind), a.smoothing, a.ignore_index, wanted, weight_decay != 0,
                  data<RowSums>(row_sums_), data<T>(sums_), chunks_.stride, db1, dw2, db2};
    shared_ = Resident<T>::bytes(d, h, q);
    kernel_ = kernel_for(std::max(d, h), q);
    if (shared_ > kFewBytes) {
      STD_CUDA_CHECK(cudaFuncSetAttribute(kernel_, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                          static_cast<int>(shared_)));
    }
  }

  void launch(cudaStream_t stream) const {
    run(kernel_, static_cast<unsigned>(chunks_.count), kThreads, shared_, stream, arguments_);
  }

  const Chunks& chunks() const { return chunks_; }
  T* dw1() const { return arguments_.sums; }
  T* db1() const { return arguments_.sums + arguments_.db1; }
  T* dw2() const { return arguments_.sums + arguments_.dw2; }
  T* db2() const { return arguments_.sums + arguments_.db2; }
  const Tensor& J() const { return J_; }

 private:
  using Kernel = void (*)(const RowPass<T>);

  // A thread's part of each product is as small as the widths allow: a head of few classes has its own kernel.
  static Kernel kernel_for(int64_t width, int64_t q) {
    if constexpr (sizeof(T) == sizeof(double)) {
      return q <= kSide ? &gradient_rows<T, 4, 1> : &gradient_rows<T, 4, 4>;
    } else if (width <= 4 * kSide && q <= 4 * kSide) {
      return q <= kSide ? &gradient_rows<T, 4, 1> : &gradient_rows<T, 4, 4>;
    } else {
      return q <= kSide ? &gradient_rows<T, 8, 1> : &gradient_rows<T, 8, 8>;
    }
  }

  Tensor sums_, row_sums_, J_;
  Chunks chunks_;
  RowPass<T> arguments_;
  size_t shared_;
  Kernel kernel_;
};

// Where no gradient is wanted.
template <typename T>
__global__ void __launch_bounds__(kThreads) write_value(const Chunks chunks, T* J) {
  const Amount amount = chunks.amount();
  if (threadIdx.x == 0) {
    *J = static_cast<T>(amount.J);
  }
}

// Each parameter there is, with the first chunk of its sums and its states.
template <typename T>
std::vector<Updated<T>> all_updated(const InOrder& in_order, const SmallPass<T>& pass, const Tensors& first,
                                    const Tensors& second) {
  const auto sums = in_order.of(pass.dw1(), pass.db1(), pass.dw2(), pass.db2());
  std::vector<Updated<T>> all(in_order.count);
  for (int64_t i = 0; i < in_order.count; ++i) {
    const Tensor& p = *in_order.parameters[i];
    all[i] = {data<T>(p), sums[i], first.empty() ? nullptr : data<T>(first[i]),
              second.empty() ? nullptr : data<T>(second[i]), p.numel()};
  }
  return all;
}

Tensor objective_gradient_(const Tensor& x, const Tensor& y, const MaybeTensor& row_weight, const Tensor& w1,
                           const MaybeTensor& b1, const Tensor& w2, const MaybeTensor& b2,
                           const MaybeTensor& class_weight, int64_t activation, int64_t loss, double label_smoothing,
                           int64_t ignore_index, bool mean, double weight_decay, double grad_scale, double normalizer,
                           bool add, const MaybeTensor& dw1, const MaybeTensor& db1, const MaybeTensor& dw2,
                           const MaybeTensor& db2) {
  constexpr const char* op = "objective_gradient_";
  const NetTensors t{x, w1, w2, b1, b2};
  const LossArguments a{y, row_weight, class_weight, loss, label_smoothing, ignore_index, mean, normalizer};
  const Activation phi = check_small_step(op, t, a, activation);
  const GradientTensors to{dw1, db1, dw2, db2};
  to.check(op, t);
  const OnDeviceOf device(x);
  return with_wide_type(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const SmallPass<T> pass(t, a, phi, weight_decay, to.wanted());
    std::vector<Updated<T>> all;
    std::vector<GradientHyper> hyper;
    const auto want = [&](const MaybeTensor& dX, T* sum, const Tensor* weight) {
      if (dX.has_value()) {
        all.push_back({weight == nullptr ? nullptr : const_cast<T*>(const_data<T>(*weight)), sum, data<T>(*dX), nullptr,
                       dX->numel()});
        hyper.push_back({weight == nullptr ? 0 : weight_decay});
      }
    };
    want(dw1, pass.dw1(), &w1);
    want(db1, pass.db1(), nullptr);
    want(dw2, pass.dw2(), &w2);
    want(db2, pass.db2(), nullptr);
    pass.launch(device.stream());
    if (all.empty()) {
      run(write_value<T>, 1, kThreads, 0, device.stream(), pass.chunks(), data<T>(pass.J()));
    } else {
      update<1, T>(all, hyper, WriteGradient{grad_scale, add}, pass.chunks(), std::numeric_limits<double>::infinity(),
                   data<T>(pass.J()), x, device.stream(), [] {});
    }
    return pass.J();
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
  const Activation phi = check_small_step(op, t, a, activation);
  const InOrder in_order(t);
  check_hyper(op, hyper, in_order.count, kHyperColumns<SgdHyper>);
  if (!momentum_buffer.empty()) {
    in_order.check(op, "momentum_buffer", momentum_buffer);
  }
  const OnDeviceOf device(x);
  return with_wide_type(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const auto* const rows = const_data<SgdHyper>(hyper);
    const SmallPass<T> pass(t, a, phi, weight_decay, wanted_of(t));
    const auto all = all_updated(in_order, pass, momentum_buffer, {});
    pass.launch(device.stream());
    update<1, T>(all, {rows, rows + in_order.count}, Sgd{nesterov}, pass.chunks(), clip_norm, data<T>(pass.J()), x,
                 device.stream(), [] {});
    return pass.J();
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
  const Activation phi = check_small_step(op, t, a, activation);
  const InOrder in_order(t);
  check_hyper(op, hyper, in_order.count, kHyperColumns<AdamHyper>);
  in_order.check(op, "exp_avg", exp_avg);
  in_order.check(op, "exp_avg_sq", exp_avg_sq);
  check_steps(op, step, in_order.count, x);
  const OnDeviceOf device(x);
  const AdamSteps steps(step, hyper, x);
  const Tensor J = with_wide_type(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const SmallPass<T> pass(t, a, phi, weight_decay, wanted_of(t));
    const auto all = all_updated(in_order, pass, exp_avg, exp_avg_sq);
    pass.launch(device.stream());
    update<1, T>(all, steps.states(), Adam{decoupled}, pass.chunks(), clip_norm, data<T>(pass.J()), x, device.stream(),
                 [&] { steps.count_on_device(device.stream()); });
    return pass.J();
  });
  steps.count_on_host();
  return J;
}

}  // namespace tmb::cuda

STABLE_TORCH_LIBRARY_IMPL(torch_manual_bp, CUDA, m) {
  m.impl("fits_one_call", TORCH_BOX(&tmb::cuda::fits_one_call));
  m.impl("objective_gradient_", TORCH_BOX(&tmb::cuda::objective_gradient_));
  m.impl("objective_sgd_", TORCH_BOX(&tmb::cuda::objective_sgd_));
  m.impl("objective_adam_", TORCH_BOX(&tmb::cuda::objective_adam_));
}
