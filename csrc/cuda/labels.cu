// Labels that are no class.
#include "labels.cuh"

#include "launch.cuh"

namespace tmb {
namespace {

// first ← min(first, the first bad row), as unsigned numbers, of which −1 is the largest.
__global__ void __launch_bounds__(kThreads)
    find_bad_rows(const int64_t* target, int64_t rows, int64_t classes, int64_t ignore_index, int64_t* first) {
  const int64_t row = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (row < rows && is_bad(target[row], classes, ignore_index)) {
    atomicMin(reinterpret_cast<unsigned long long*>(first), static_cast<unsigned long long>(row));
  }
}

Tensor find_bad_label(Tensor target, int64_t classes, int64_t ignore_index) {
  check_labels("find_bad_label", target);
  const OnDeviceOf device(target);
  Tensor first = new_tensor(target, {}, ScalarType::Long);
  STD_CUDA_CHECK(cudaMemsetAsync(data<int64_t>(first), 0xff, sizeof(int64_t), device.stream()));  // −1
  const int64_t rows = target.size(0);
  if (rows > 0) {
    run(find_bad_rows, blocks(rows, kThreads), kThreads, 0, device.stream(), const_data<int64_t>(target), rows, classes,
        ignore_index, data<int64_t>(first));
  }
  return first;
}

}  // namespace
}  // namespace tmb

STABLE_TORCH_LIBRARY_IMPL(torch_manual_bp, CUDA, m) { m.impl("find_bad_label", TORCH_BOX(&tmb::find_bad_label)); }
