#pragma once

#include <cstdint>

namespace tmb {

// Whether a label is neither in [0, classes) nor ignore_index.
__device__ __forceinline__ bool is_bad(int64_t label, int64_t classes, int64_t ignore_index) {
  return (label < 0 || label >= classes) && label != ignore_index;
}

}  // namespace tmb
