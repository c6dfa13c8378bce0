// Steps whose arguments were given once. To pass twenty of them takes as long as the arithmetic of a small net.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <type_traits>
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

// The op that binds a step: it takes all of the step's arguments but x, y and the row weights, of which there are none.
template <auto step>
struct Bind;

template <typename... Rest, Tensor (*step)(const Tensor&, const Tensor&, const MaybeTensor&, Rest...)>
struct Bind<step> {
  static int64_t op(std::decay_t<Rest>... rest) {
    return BoundSteps::all().add(
        [=](const Tensor& x, const Tensor& y) { return step(x, y, std::nullopt, rest...); });
  }
};

inline Tensor step_bound_(Tensor x, Tensor y, int64_t number) { return (*BoundSteps::all().find(number))(x, y); }

}  // namespace tmb
