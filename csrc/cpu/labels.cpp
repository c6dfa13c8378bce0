// Labels that are no class: found before anything is written.
#include "labels.h"

#include <torch/csrc/stable/library.h>

#include "loops.h"

namespace tmb {
namespace {

TMB_INLINE bool is_bad(int64_t label, int64_t classes, int64_t ignore_index) {
  // as unsigned numbers, negative labels are larger than any class
  return static_cast<uint64_t>(label) >= static_cast<uint64_t>(classes) && label != ignore_index;
}

TMB_CLONES int64_t count_bad(const int64_t* target, int64_t rows, int64_t classes, int64_t ignore_index) {
  int64_t count = 0;
  _Pragma("omp simd reduction(+ : count)") for (int64_t b = 0; b < rows; ++b) {
    count += is_bad(target[b], classes, ignore_index) ? 1 : 0;
  }
  return count;
}

Tensor find_bad_label(Tensor target, int64_t classes, int64_t ignore_index) {
  check_labels("find_bad_label", target);
  Tensor row = new_tensor(target, {}, ScalarType::Long);
  *data<int64_t>(row) = first_bad_label(const_data<int64_t>(target), target.size(0), classes, ignore_index);
  return row;
}

}  // namespace

int64_t first_bad_label(const int64_t* target, int64_t rows, int64_t classes, int64_t ignore_index) {
  if (count_bad(target, rows, classes, ignore_index) == 0) {
    return -1;
  }
  return std::find_if(target, target + rows, [=](int64_t y) { return is_bad(y, classes, ignore_index); }) - target;
}

}  // namespace tmb

STABLE_TORCH_LIBRARY_IMPL(torch_manual_bp, CPU, m) { m.impl("find_bad_label", TORCH_BOX(&tmb::find_bad_label)); }
