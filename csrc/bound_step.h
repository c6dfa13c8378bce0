// Steps whose arguments were given once. To pass twenty of them takes as long as the arithmetic of a small net.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "net_arguments.h"

namespace tmb {

using BoundCall = std::function<Tensor(const Tensor& x, const Tensor& y)>;

// The steps by number, from bind to unbind. They hold their tensors.
class BoundSteps {
 public:
  static BoundSteps& all() {
    static BoundSteps& steps = *new BoundSteps;  // never destroyed: at exit torch may be gone before it
    return steps;
  }

  int64_t add(BoundCall call) {
    const std::lock_guard<std::mutex> lock(mutex_);
    calls_.emplace(++last_, std::make_shared<const BoundCall>(std::move(call)));
    return last_;
  }

  std::shared_ptr<const BoundCall> find(int64_t number) {
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
  std::unordered_map<int64_t, std::shared_ptr<const BoundCall>> calls_;
  int64_t last_ = reinterpret_cast<intptr_t>(this);  // so that numbers of two libraries in a process never meet
};

template <auto objective_sgd>
int64_t bind_sgd(Tensor w1, MaybeTensor b1, Tensor w2, MaybeTensor b2, MaybeTensor class_weight, int64_t activation,
                 int64_t loss, double label_smoothing, int64_t ignore_index, bool mean, double weight_decay,
                 Tensors momentum_buffer, Tensor hyper, double clip_norm, bool nesterov) {
  return BoundSteps::all().add([=](const Tensor& x, const Tensor& y) {
    return objective_sgd(x, y, std::nullopt, w1, b1, w2, b2, class_weight, activation, loss, label_smoothing,
                         ignore_index, mean, weight_decay, momentum_buffer, hyper, clip_norm, nesterov);
  });
}

template <auto objective_adam>
int64_t bind_adam(Tensor w1, MaybeTensor b1, Tensor w2, MaybeTensor b2, MaybeTensor class_weight, int64_t activation,
                  int64_t loss, double label_smoothing, int64_t ignore_index, bool mean, double weight_decay,
                  Tensors exp_avg, Tensors exp_avg_sq, Tensors step, Tensor hyper, double clip_norm, bool decoupled) {
  return BoundSteps::all().add([=](const Tensor& x, const Tensor& y) {
    return objective_adam(x, y, std::nullopt, w1, b1, w2, b2, class_weight, activation, loss, label_smoothing,
                          ignore_index, mean, weight_decay, exp_avg, exp_avg_sq, step, hyper, clip_norm, decoupled);
  });
}

inline Tensor step_bound_(Tensor x, Tensor y, int64_t number) { return (*BoundSteps::all().find(number))(x, y); }

}  // namespace tmb
