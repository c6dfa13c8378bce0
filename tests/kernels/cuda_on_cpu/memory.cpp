// Which bytes the kernels may touch. They are compiled with -fsanitize=kernel-address, which calls a function of ours
// before each load and store, and -fsanitize=bounds and its like, whose reports come here.
#include <algorithm>
#include <map>
#include <sstream>

#include "emulator.h"

namespace emulator {
namespace {

struct Range {
  uintptr_t begin = 0, end = 0;
  bool writable = false;
  int op = 0;

  bool holds(uintptr_t at, size_t bytes) const { return at >= begin && at + bytes <= end; }
};

std::map<uintptr_t, Range> tensors;  // by their ends
Range last_used[4];
unsigned turn = 0;
int op = 0;
Range arguments;

[[gnu::noinline]] std::string place_among_tensors(uintptr_t at) {
  std::ostringstream s;
  s << "outside of every tensor";
  const auto after = tensors.upper_bound(at);
  if (after != tensors.begin() && at < std::prev(after)->second.end + 4096) {
    const Range& r = std::prev(after)->second;
    s << ", " << at - r.end << " bytes beyond one of " << r.end - r.begin;
  } else if (after != tensors.end()) {
    const Range& r = after->second;
    s << (at >= r.begin ? ", across the end of one of " : ", before one of ") << r.end - r.begin;
  }
  return s.str();
}

// What is wrong with this access; "" if nothing is.
std::string trouble_with(uintptr_t at, size_t bytes, Access access, size_t alignment) {
  const bool write = access != Access::read;
  if (in_shared(at)) {
    return trouble_in_shared(at, bytes, access);
  }
  if (on_own_stack(at) || (!write && (arguments.holds(at, bytes) || in_image(at)))) {
    return "";
  }
  const auto found = tensors.upper_bound(at);
  if (found == tensors.end() || !found->second.holds(at, bytes)) {
    return place_among_tensors(at);
  }
  if (write && !found->second.writable) {
    return "of a tensor that is only to be read";
  }
  if (at % alignment != 0) {
    return "that are not aligned";
  }
  last_used[turn++ % 4] = found->second;
  return "";
}

void check(const void* address, size_t bytes, Access access, size_t alignment) {
  if (!in_thread) {
    return;
  }
  const auto at = reinterpret_cast<uintptr_t>(address);
  if (in_shared(at)) {
    if (use_shared(at, bytes, access)) {
      return;
    }
  } else {
    for (const Range& r : last_used) {
      if (r.holds(at, bytes) && (r.writable || access == Access::read) && at % alignment == 0) {
        return;
      }
    }
  }
  const std::string trouble = trouble_with(at, bytes, access, alignment);
  if (!trouble.empty()) {
    const char* verb = access == Access::read ? "reads " : access == Access::write ? "writes " : "updates ";
    fail(cudaErrorLaunchFailure, verb + std::to_string(bytes) + " bytes " + trouble);
  }
}

void undefined(const char* file, unsigned line, const char* what) {
  fail(cudaErrorLaunchFailure, std::string(what) + " at " + base_name(file) + ':' + std::to_string(line));
}

}  // namespace

void check_atomic(const void* at, size_t bytes) { check(at, bytes, Access::atomic, bytes); }

void allow_arguments(const void* address, size_t bytes) {
  const auto at = reinterpret_cast<uintptr_t>(address);
  arguments = {at, at + bytes};
}

void allow_tensor(const void* address, size_t bytes, bool writable) {
  if (bytes == 0) {
    return;
  }
  const auto at = reinterpret_cast<uintptr_t>(address);
  Range r{at, at + bytes, writable, op};
  const auto known = tensors.find(r.end);
  if (known != tensors.end() && known->second.begin == r.begin && known->second.op == op) {
    r.writable |= known->second.writable;
  }
  for (auto it = tensors.upper_bound(r.begin); it != tensors.end() && it->second.begin < r.end;) {
    it = tensors.erase(it);  // of a tensor that is no more
  }
  tensors[r.end] = r;
  std::fill(std::begin(last_used), std::end(last_used), Range());
}

void next_op() { ++op; }

cudaError_t check_range(const void* address, size_t bytes, bool write) {
  const auto at = reinterpret_cast<uintptr_t>(address);
  const auto found = tensors.upper_bound(at);
  if (bytes > 0 && (found == tensors.end() || !found->second.holds(at, bytes))) {
    return fail(cudaErrorInvalidValue, std::to_string(bytes) + " bytes " + place_among_tensors(at));
  }
  if (bytes > 0 && write && !found->second.writable) {
    return fail(cudaErrorInvalidValue, "writes to a tensor that is only to be read");
  }
  return cudaSuccess;
}

}  // namespace emulator

using emulator::Access;
using emulator::check;

extern "C" {

#define ACCESS(bytes)                                                                          \
  void __asan_load##bytes##_noabort(const void* at) { check(at, bytes, Access::read, bytes); } \
  void __asan_store##bytes##_noabort(const void* at) { check(at, bytes, Access::write, bytes); }
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)
#undef ACCESS

// Of other sizes, those that are powers of two are vectors, which a GPU moves 16 bytes at a time.
static size_t alignment_of(size_t bytes) { return bytes >= 16 && (bytes & (bytes - 1)) == 0 ? 16 : 1; }

void __asan_loadN_noabort(const void* at, size_t bytes) { check(at, bytes, Access::read, alignment_of(bytes)); }
void __asan_storeN_noabort(const void* at, size_t bytes) { check(at, bytes, Access::write, alignment_of(bytes)); }
void __asan_handle_no_return() {}
void __asan_before_dynamic_init(const char*) {}
void __asan_after_dynamic_init() {}

struct Place {  // how each of the reports begins
  const char* file;
  uint32_t line, column;
};

#define REPORT(name, what) \
  void __ubsan_handle_##name(const Place* place) { emulator::undefined(place->file, place->line, what); }
REPORT(out_of_bounds, "an index beyond its array")
REPORT(shift_out_of_bounds, "a shift by more bits than there are")
REPORT(divrem_overflow, "a division by zero")
REPORT(add_overflow, "an integer overflow")
REPORT(sub_overflow, "an integer overflow")
REPORT(mul_overflow, "an integer overflow")
REPORT(negate_overflow, "an integer overflow")
#undef REPORT

// A pointer of which the type says more than its address holds: the compiler may then read its members one by one.
void __ubsan_handle_type_mismatch_v1(const Place* place, uintptr_t) {
  emulator::undefined(place->file, place->line, "a pointer to what is not aligned");
}
}
