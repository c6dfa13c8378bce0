// sgd_ and adam_.
#include "update.cuh"

namespace tmb::cuda {
namespace {

__global__ void add_one(float* steps) { *steps += 1; }

}  // namespace

StepCounters::StepCounters(const char* op, const Tensors& step, cudaStream_t stream)
    : step_(step), stream_(stream), on_device_(!step.empty() && !step[0].is_cpu()) {
  if (on_device_) {
    return;
  }
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  STD_CUDA_CHECK(cudaStreamIsCapturing(stream, &status));
  STD_TORCH_CHECK(status == cudaStreamCaptureStatusNone, op,
                  ": a captured graph would repeat one step's bias correction, since the steps are counted on the CPU: "
                  "construct the optimizer with capturable=True");
}

void StepCounters::advance_on_device() const {
  for (size_t i = 0; on_device_ && i < step_.size(); ++i) {
    run(add_one, 1, 1, 0, stream_, data<float>(step_[i]));
  }
}

void StepCounters::advance_on_host() const {
  for (size_t i = 0; !on_device_ && i < step_.size(); ++i) {
    *data<float>(step_[i]) += 1;
  }
}

namespace {

// The parameters in groups of at most kMostParameters; fill(i, slot, numbers) for the i-th of them.
template <typename T, typename Rule, typename Fill>
std::vector<Update<T, Rule>> grouped(const Tensors& p, const Tensors& g, const Tensors& first, const Tensors& second,
                                     Rule rule, const Fill& fill) {
  std::vector<Update<T, Rule>> groups;
  for (size_t i = 0; i < p.size(); ++i) {
    if (i % kMostParameters == 0) {
      groups.push_back({rule});
    }
    Update<T, Rule>& u = groups.back();
    Slot<T>& slot = u.slots[u.count];
    slot = slot_of<T>(p[i], const_data<T>(g[i]), 0, first.empty() ? nullptr : &first[i],
                      second.empty() ? nullptr : &second[i]);
    fill(i, slot, u.numbers[u.count]);
    ++u.count;
  }
  return groups;
}

void sgd_(Tensors p, Tensors g, Tensors momentum_buffer, Tensor hyper, double clip_norm, bool nesterov) {
  if (momentum_buffer.empty()) {
    check_update("sgd_", p, {{"g", &g}}, hyper, kHyperColumns<SgdHyper>);
  } else {
    check_update("sgd_", p, {{"g", &g}, {"momentum_buffer", &momentum_buffer}}, hyper, kHyperColumns<SgdHyper>);
  }
  const OnDeviceOf device(p[0]);
  const auto* const now = const_data<SgdHyper>(hyper);
  with_wide_type(p[0].scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    auto groups = grouped<T>(p, g, momentum_buffer, {}, Sgd<T>{nesterov}, [&](size_t i, Slot<T>&, auto& numbers) {
      numbers = sgd_numbers<T>(now[i]);
    });
    run_updates(groups, clip_norm, p[0], device.stream());
  });
}

void adam_(Tensors p, Tensors g, Tensors exp_avg, Tensors exp_avg_sq, Tensors step, Tensor hyper, double clip_norm,
           bool decoupled) {
  check_update("adam_", p, {{"g", &g}, {"exp_avg", &exp_avg}, {"exp_avg_sq", &exp_avg_sq}}, hyper,
               kHyperColumns<AdamHyper>);
  check_steps("adam_", step, p.size(), p[0]);
  const OnDeviceOf device(p[0]);
  const StepCounters counters("adam_", step, device.stream());
  const auto* const now = const_data<AdamHyper>(hyper);
  with_wide_type(p[0].scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    auto groups = grouped<T>(p, g, exp_avg, exp_avg_sq, Adam<T>{}, [&](size_t i, Slot<T>& slot, auto& numbers) {
      numbers = adam_numbers<T>(now[i], decoupled);
      counters.put<T>(i, now[i], slot, numbers);
    });
    counters.advance_on_device();
    run_updates(groups, clip_norm, p[0], device.stream());
  });
  counters.advance_on_host();
}

}  // namespace
}  // namespace tmb::cuda

STABLE_TORCH_LIBRARY_IMPL(torch_manual_bp, CUDA, m) {
  m.impl("sgd_", TORCH_BOX(&tmb::cuda::sgd_));
  m.impl("adam_", TORCH_BOX(&tmb::cuda::adam_));
}
