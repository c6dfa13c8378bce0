// Steps whose arguments were given once. To pass twenty of them takes as long as the arithmetic of a small net.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "net_arguments.h"

namespace tmb {

using BoundCall = std::function<Tensor(const Tensor& x, const Tensor& y)>;

// The steps of all devices by number, from bind to unbind. They hold their tensors.
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
  int64_t last_ = 0;
};

// A step with all of its arguments but x, y and the row weights, of which it has none: step(x, y, nullopt, rest…).
template <typename Step, typename... Rest>
int64_t bind_call(Step* step, Rest... rest) {
  return BoundSteps::all().add(
      [=](const Tensor& x, const Tensor& y) { return step(x, y, std::nullopt, rest...); });
}

}  // namespace tmb
