// Memory for temporaries.
#pragma once

#include "../tensors.h"
#include "products.h"

namespace tmb {

// One tensor, so that the allocator's records show it, aligned to whole vectors.
template <typename T>
class Scratch {
 public:
  static int64_t bytes(int64_t elements) { return (elements + kVectorLanes<T>) * static_cast<int64_t>(sizeof(T)); }

  Scratch(int64_t elements, const Tensor& like)
      : tensor_(new_tensor(like, {elements + kVectorLanes<T>}, like.scalar_type())) {
    const auto address = reinterpret_cast<uintptr_t>(data<T>(tensor_));
    start_ = reinterpret_cast<T*>((address + kVectorBytes - 1) / kVectorBytes * kVectorBytes);
  }

  T* start() const { return start_; }
  const Tensor& tensor() const { return tensor_; }

 private:
  Tensor tensor_;
  T* start_;
};

}  // namespace tmb
