// How a kernel is launched: on the tensor's device, on its current stream, checked.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>

#include <algorithm>
#include <tuple>
#include <utility>

#include "../tensors.h"

// Before a loop over an array in registers, where the compiler might not see by itself that it must unroll.
#if defined(__NVCC__)
#define TMB_UNROLL _Pragma("unroll")
#else
#define TMB_UNROLL
#endif

namespace tmb {

constexpr int kWarp = 32;
constexpr int kThreads = 256;  // of a block, where nothing else is said

// Makes the tensor's device the current one while it lives.
class OnDeviceOf {
 public:
  explicit OnDeviceOf(const Tensor& t) : guard_(t.get_device_index()) {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }
  cudaStream_t stream() const { return stream_; }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
};

// ⌈a / b⌉. As a grid in x, 2³¹ − 1 blocks at most, it covers every tensor that fits in memory.
inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline unsigned blocks(int64_t items, int64_t items_per_block) {
  return static_cast<unsigned>(ceil_div(items, items_per_block));
}

// Calls f with std::true_type or std::false_type.
template <typename F>
void with_bool(bool condition, F&& f) {
  condition ? f(std::true_type()) : f(std::false_type());
}

// kernel<<<grid, block, shared bytes, stream>>>(arguments…), checked.
template <typename... Parameters, typename... Arguments>
void run(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared, cudaStream_t stream,
         Arguments&&... arguments) {
  const cudaLaunchConfig_t how{grid, block, shared, stream, nullptr, 0};
  STD_CUDA_CHECK(cudaLaunchKernelEx(&how, kernel, std::forward<Arguments>(arguments)...));
}

}  // namespace tmb
