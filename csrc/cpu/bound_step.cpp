// Steps whose arguments were given once. To pass twenty of them takes as long as the arithmetic of a small net.
#include <torch/csrc/stable/library.h>

#include <functional>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "ops.h"

namespace tmb {
namespace {

using Call = std::function<Tensor(const Tensor& x, const Tensor& y)>;

// The steps by number, from bind to unbind. They hold their tensors.
class Steps {
 public:
  int64_t add(Call call) {
    const std::lock_guard<std::mutex> lock(mutex_);
    calls_.emplace(++last_, std::make_shared<const Call>(std::move(call)));
    return last_;
  }

  std::shared_ptr<const Call> find(int64_t number) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = calls_.find(number);
    STD_TORCH_CHECK(found != calls_.end(), "step_bound_: no step was bound by the number ", number);
    return found->second;
  }

  void remove(int64_t number) {
    const std::lock_guard<std::mutex> lock(mutex_);
    calls_.erase(number);
  }

 private:
  std::mutex mutex_;
  std::unordered_map<int64_t, std::shared_ptr<const Call>> calls_;
  int64_t last_ = 0;
};

Steps& steps() {
  static Steps& all = *new Steps;  // never destroyed: at exit torch may be gone before it
  return all;
}

int64_t bind_sgd(Tensor w1, MaybeTensor b1, Tensor w2, MaybeTensor b2, MaybeTensor class_weight, int64_t activation,
                 int64_t loss, double label_smoothing, int64_t ignore_index, bool mean, double weight_decay,
                 std::vector<Tensor> momentum_buffer, Tensor hyper, double clip_norm, bool nesterov) {
  return steps().add([=](const Tensor& x, const Tensor& y) {
    return objective_sgd_(x, y, std::nullopt, w1, b1, w2, b2, class_weight, activation, loss, label_smoothing,
                          ignore_index, mean, weight_decay, momentum_buffer, hyper, clip_norm, nesterov);
  });
}

int64_t bind_adam(Tensor w1, MaybeTensor b1, Tensor w2, MaybeTensor b2, MaybeTensor class_weight, int64_t activation,
                  int64_t loss, double label_smoothing, int64_t ignore_index, bool mean, double weight_decay,
                  std::vector<Tensor> exp_avg, std::vector<Tensor> exp_avg_sq, std::vector<Tensor> step, Tensor hyper,
                  double clip_norm, bool decoupled) {
  return steps().add([=](const Tensor& x, const Tensor& y) {
    return objective_adam_(x, y, std::nullopt, w1, b1, w2, b2, class_weight, activation, loss, label_smoothing,
                           ignore_index, mean, weight_decay, exp_avg, exp_avg_sq, step, hyper, clip_norm, decoupled);
  });
}

Tensor step_bound_(Tensor x, Tensor y, int64_t number) { return (*steps().find(number))(x, y); }

void unbind(int64_t number) { steps().remove(number); }

}  // namespace
}  // namespace tmb

STABLE_TORCH_LIBRARY_IMPL(torch_manual_bp, CPU, m) {
  m.impl("bind_sgd", TORCH_BOX(&tmb::bind_sgd));
  m.impl("bind_adam", TORCH_BOX(&tmb::bind_adam));
  m.impl("step_bound_", TORCH_BOX(&tmb::step_bound_));
}

STABLE_TORCH_LIBRARY_IMPL(torch_manual_bp, CompositeExplicitAutograd, m) { m.impl("unbind", TORCH_BOX(&tmb::unbind)); }
