#pragma once

#include <cstdint>

namespace tmb {

// The first row whose label is neither in [0, classes) nor ignore_index, or −1.
int64_t first_bad_label(const int64_t* target, int64_t rows, int64_t classes, int64_t ignore_index);

}  // namespace tmb
