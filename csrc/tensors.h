// New tensors, and dtypes as template arguments.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "checks.h"

namespace tmb {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

// The type that T is computed in.
template <typename T>
struct WideOf {
  using type = float;
};
template <>
struct WideOf<double> {
  using type = double;
};
template <typename T>
using Wide = typename WideOf<T>::type;

// Calls f with a value of the C++ type of a dtype that check_matrix has let through.
template <typename F>
auto with_type(ScalarType type, F&& f) {
  switch (type) {
    case ScalarType::Double:
      return f(double{});
    case ScalarType::BFloat16:
      return f(BFloat16{});
    case ScalarType::Half:
      return f(Half{});
    default:
      return f(float{});
  }
}

// The same for an op that computes in the dtype itself: float or double.
template <typename F>
auto with_wide_type(ScalarType type, F&& f) {
  return type == ScalarType::Double ? f(double{}) : f(float{});
}

// An uninitialised contiguous tensor on the device of like. (The C shim: half the cost of a call by the dispatcher.)
inline Tensor new_tensor(const Tensor& like, std::initializer_list<int64_t> shape, ScalarType type) {
  int64_t strides[2] = {1, 1};
  const auto dims = static_cast<int64_t>(shape.size());
  if (dims == 2) {
    strides[0] = shape.begin()[1] > 0 ? shape.begin()[1] : 1;
  }
  const auto device = like.device();
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      dims, shape.begin(), strides, torch::stable::detail::to<int32_t>(torch::stable::detail::from(type)),
      torch::stable::detail::to<int32_t>(torch::stable::detail::from(device.type())), device.index(), &handle));
  return Tensor(handle);
}

// The matrix read the other way round.
inline Tensor transposed(const Tensor& matrix) {
  const int64_t sizes[2] = {matrix.size(1), matrix.size(0)}, strides[2] = {matrix.stride(1), matrix.stride(0)};
  AtenTensorHandle view = nullptr;
  TORCH_ERROR_CODE_CHECK(
      aoti_torch__reinterpret_tensor(matrix.get(), 2, sizes, strides, matrix.storage_offset(), &view));
  return Tensor(view);
}

template <typename T>
T* data(const Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

template <typename T>
const T* const_data(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}

template <typename T>
const T* const_data(const MaybeTensor& t) {
  return t.has_value() ? static_cast<const T*>(t->const_data_ptr()) : nullptr;
}

}  // namespace tmb
