// sgd_ and adam_; and Adam's counters of steps.
#include "update.cuh"

namespace tmb {
namespace {

struct Counters {
  float* step[kMostUpdated];
  int count = 0;
};

__global__ void count_steps(const Counters counters) {
  if (threadIdx.x < counters.count) {
    *counters.step[threadIdx.x] += 1;
  }
}

template <typename T>
std::vector<Updated<T>> all_updated(const Tensors& p, const Tensors& g, const Tensors& first, const Tensors& second) {
  std::vector<Updated<T>> all(p.size());
  for (size_t i = 0; i < p.size(); ++i) {
    // g is read alone: it comes in one chunk
    all[i] = {data<T>(p[i]), const_cast<T*>(const_data<T>(g[i])), first.empty() ? nullptr : data<T>(first[i]),
              second.empty() ? nullptr : data<T>(second[i]), p[i].numel()};
  }
  return all;
}

void sgd_(Tensors p, Tensors g, Tensors momentum_buffer, Tensor hyper, double clip_norm, bool nesterov) {
  check_sgd_update(p, g, momentum_buffer, hyper);
  const OnDeviceOf device(p[0]);
  with_wide_type(p[0].scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const auto* const rows = const_data<SgdHyper>(hyper);
    update<16 / sizeof(T), T>(all_updated<T>(p, g, momentum_buffer, {}), {rows, rows + p.size()}, Sgd{nesterov}, {},
                              clip_norm, nullptr, p[0], device.stream(), [] {});
  });
}

void adam_(Tensors p, Tensors g, Tensors exp_avg, Tensors exp_avg_sq, Tensors step, Tensor hyper, double clip_norm,
           bool decoupled) {
  check_adam_update(p, g, exp_avg, exp_avg_sq, step, hyper);
  const OnDeviceOf device(p[0]);
  const AdamSteps steps(step, hyper, p[0]);
  with_wide_type(p[0].scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    update<16 / sizeof(T), T>(all_updated<T>(p, g, exp_avg, exp_avg_sq), steps.states(), Adam{decoupled}, {}, clip_norm,
                              nullptr, p[0], device.stream(), [&] { steps.count_on_device(device.stream()); });
  });
  steps.count_on_host();
}

}  // namespace

AdamSteps::AdamSteps(const Tensors& step, const Tensor& hyper, const Tensor& p) {
  const auto* const rows = const_data<AdamHyper>(hyper);
  for (size_t i = 0; i < step.size(); ++i) {
    float* const counter = data<float>(step[i]);
    if (step[i].device() == p.device()) {
      on_device_.push_back(counter);
      states_.push_back({rows[i], {}, counter});
    } else {
      on_host_.push_back(counter);
      states_.push_back({rows[i], adam_corrections(rows[i], *counter + 1.0), nullptr});
    }
  }
}

void AdamSteps::count_on_device(cudaStream_t stream) const {
  for (size_t i = 0; i < on_device_.size(); i += kMostUpdated) {
    Counters counters;
    while (counters.count < kMostUpdated && i + counters.count < on_device_.size()) {
      counters.step[counters.count] = on_device_[i + counters.count];
      ++counters.count;
    }
    run(count_steps, 1, kWarp, 0, stream, counters);
  }
}

void AdamSteps::count_on_host() const {
  for (float* const step : on_host_) {
    *step += 1;
  }
}

}  // namespace tmb

STABLE_TORCH_LIBRARY_IMPL(torch_manual_bp, CUDA, m) {
  m.impl("sgd_", TORCH_BOX(&tmb::sgd_));
  m.impl("adam_", TORCH_BOX(&tmb::adam_));
}
