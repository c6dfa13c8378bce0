// Which bytes the kernels may touch. They are compiled with -fsanitize=kernel-address, which calls a function of ours
// at each load and store, and -fsanitize=bounds and some more, whose reports come here.
#include <link.h>

#include <algorithm>
#include <map>
#include <sstream>

#include "emulator.h"

namespace emulator {

// What `extern __shared__ … shared[];` names in the kernels' namespace, the unnamed one in tmb.
alignas(16) thread_local unsigned char dynamic_shared[kOptInSharedBytes] asm("_ZN3tmb12_GLOBAL__N_16sharedE");

namespace {

struct Range {
  uintptr_t begin, end;
  bool writable;
  int op;

  bool holds(uintptr_t at, size_t bytes) const { return at >= begin && at + bytes <= end; }
};

std::map<uintptr_t, Range> tensors;  // by their ends
Range last_used[4];
unsigned turn = 0;
int op = 0;

Range constants[2];  // the kernel's arguments, and what the library holds: tables
Range shared{};  // the library's thread-local segment, on this thread of the system
size_t dynamic_bytes = 0;
bool shared_is_clean = false;

int find_segment(dl_phdr_info* object, size_t, void* here) {
  bool own = false;
  Range image{UINTPTR_MAX, 0, false, 0};
  size_t bytes = 0;
  for (int i = 0; i < object->dlpi_phnum; ++i) {
    const ElfW(Phdr)& segment = object->dlpi_phdr[i];
    const uintptr_t begin = object->dlpi_addr + segment.p_vaddr, at = reinterpret_cast<uintptr_t>(here);
    if (segment.p_type == PT_LOAD) {
      own |= at >= begin && at < begin + segment.p_memsz;
      image.begin = std::min(image.begin, begin);
      image.end = std::max(image.end, begin + segment.p_memsz);
    }
    bytes = segment.p_type == PT_TLS ? segment.p_memsz : bytes;
  }
  if (own) {
    const auto begin = reinterpret_cast<uintptr_t>(object->dlpi_tls_data);
    constants[1] = image;
    shared_is_clean &= begin == shared.begin;
    shared = {begin, begin + bytes, true, 0};
  }
  return own;
}

// The bytes lie in a tensor, in shared memory, or among the thread's own variables.
void check(const void* address, size_t bytes, bool write, size_t alignment) {
  if (!in_thread) {
    return;
  }
  const auto at = reinterpret_cast<uintptr_t>(address);
  const auto refuse = [&](const std::string& where) {
    std::ostringstream s;
    s << (write ? "writes " : "reads ") << bytes << " bytes " << where;
    fail(cudaErrorLaunchFailure, s.str());
  };
  for (const Range& r : last_used) {
    if (r.holds(at, bytes) && (r.writable || !write) && at % alignment == 0) {
      return;
    }
  }
  if (at >= shared.begin && at < shared.end) {
    const auto dynamic = reinterpret_cast<uintptr_t>(dynamic_shared);
    if (at + bytes > dynamic + dynamic_bytes && at < dynamic + kOptInSharedBytes) {
      refuse("beyond the dynamic shared memory");
    }
    return;
  }
  if (on_own_stack(at) || (!write && (constants[0].holds(at, bytes) || constants[1].holds(at, bytes)))) {
    return;
  }
  const auto after = tensors.upper_bound(at);
  if (after != tensors.end() && after->second.holds(at, bytes)) {
    if (write && !after->second.writable) {
      refuse("of a tensor that is only to be read");
    }
    if (at % alignment != 0) {
      refuse("that are not aligned");
    }
    last_used[turn++ % 4] = after->second;
    return;
  }
  std::ostringstream s;
  s << "outside of every tensor";
  if (after != tensors.begin() && at < std::prev(after)->first + 4096) {
    const Range& before = std::prev(after)->second;
    s << ", " << at - before.end << " bytes after one of " << before.end - before.begin;
  } else if (after != tensors.end() && at + 4096 > after->second.begin) {
    s << ", " << after->second.begin - at << " bytes before one of " << after->second.end - after->second.begin;
  }
  refuse(s.str());
}

void undefined(const char* file, unsigned line, const char* what) {
  std::ostringstream s;
  s << what << " at " << base_name(file) << ':' << line;
  fail(cudaErrorLaunchFailure, s.str());
}

}  // namespace

void start_kernel(const void* arguments, size_t bytes) {
  const auto at = reinterpret_cast<uintptr_t>(arguments);
  constants[0] = {at, at + bytes, false, 0};
  dynamic_shared[0] = 0xff;  // there is a segment from now on
  dl_iterate_phdr(find_segment, reinterpret_cast<void*>(&touch_shared));
}

void poison_shared(size_t dynamic) {
  dynamic_bytes = dynamic;
  if (!shared_is_clean) {
    std::memset(reinterpret_cast<void*>(shared.begin), 0xff, shared.end - shared.begin);  // NaN in every floating type
    shared_is_clean = true;
  }
}

void touch_shared() { shared_is_clean = false; }

void allow(const void* at, size_t bytes, bool writable) {
  if (bytes == 0) {
    return;
  }
  Range r{reinterpret_cast<uintptr_t>(at), reinterpret_cast<uintptr_t>(at) + bytes, writable, op};
  const auto known = tensors.find(r.end);
  if (known != tensors.end() && known->second.begin == r.begin && known->second.op == op) {
    r.writable |= known->second.writable;
  }
  for (auto it = tensors.upper_bound(r.begin); it != tensors.end() && it->second.begin < r.end;) {
    it = tensors.erase(it);  // of a tensor that is no more
  }
  tensors[r.end] = r;
  std::fill(std::begin(last_used), std::end(last_used), Range{});
}

void next_op() { ++op; }

cudaError_t check_range(const void* address, size_t bytes, bool write) {
  const auto at = reinterpret_cast<uintptr_t>(address);
  const auto after = tensors.upper_bound(at);
  const bool good = after != tensors.end() && after->second.holds(at, bytes) && (after->second.writable || !write);
  return good || bytes == 0 ? cudaSuccess : fail(cudaErrorInvalidValue, "bytes outside of every tensor");
}

}  // namespace emulator

using emulator::check;

extern "C" {

#define ACCESS(bytes)                                                                              \
  void __asan_load##bytes##_noabort(const void* at) { check(at, bytes, false, bytes); }            \
  void __asan_store##bytes##_noabort(const void* at) { check(at, bytes, true, bytes); }
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)
#undef ACCESS

// Of these some are vectors, which a GPU moves 16 bytes at a time: all whose size is a power of two.
static size_t alignment_of(size_t bytes) { return bytes >= 16 && (bytes & (bytes - 1)) == 0 ? 16 : 1; }
void __asan_loadN_noabort(const void* at, size_t bytes) { check(at, bytes, false, alignment_of(bytes)); }
void __asan_storeN_noabort(const void* at, size_t bytes) { check(at, bytes, true, alignment_of(bytes)); }
void __asan_handle_no_return() {}
void __asan_before_dynamic_init(const char*) {}
void __asan_after_dynamic_init() {}

struct Place {  // how each of the reports begins
  const char* file;
  uint32_t line, column;
};

#define REPORT(name, what)                                                                       \
  void __ubsan_handle_##name(const Place* place) { emulator::undefined(place->file, place->line, what); }
REPORT(out_of_bounds, "an index beyond its array")
REPORT(shift_out_of_bounds, "a shift by more bits than there are")
REPORT(divrem_overflow, "a division by zero")
REPORT(add_overflow, "an integer overflow")
REPORT(sub_overflow, "an integer overflow")
REPORT(mul_overflow, "an integer overflow")
REPORT(negate_overflow, "an integer overflow")
#undef REPORT
}
