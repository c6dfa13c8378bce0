// Shared memory: poisoned when a block starts, and watched. Two threads that touch the same word, of which one writes,
// must have a barrier between them, of the block or, within a warp, of the warp.
#include <link.h>

#include <algorithm>
#include <sstream>
#include <vector>

#include "emulator.h"

namespace emulator {

// Every `extern __shared__ …[]` of the kernels is this, by the linker's --defsym.
alignas(16) thread_local unsigned char dynamic_shared[kOptInSharedBytes] asm("emulator_dynamic_shared");

namespace {

constexpr size_t kWord = 4, kPage = 4096;

// Who touched a word since the block's last barrier. Times count barriers of all blocks; of a warp, all its ops.
struct Touch {
  uint64_t time = 0, warp_time = 0;
  int thread = 0;
  bool by_another_lane = false, by_another_warp = false;  // as well

  // Whether this thread has been ordered after all of them.
  bool before(int now_thread) const {
    if (time != barrier_time || (thread == now_thread && !by_another_lane && !by_another_warp)) {
      return true;
    }
    return !by_another_warp && thread / warpSize == now_thread / warpSize && warp_time < warp_times[thread / warpSize];
  }

  void add(int now_thread) {
    const uint64_t now = warp_times[now_thread / warpSize];
    const bool same_warp = thread / warpSize == now_thread / warpSize;
    const bool recent = time == barrier_time;
    by_another_warp = recent && (by_another_warp || !same_warp);
    by_another_lane = recent && ((by_another_lane && warp_time == now) || (thread != now_thread && warp_time == now));
    time = barrier_time;
    warp_time = now;
    thread = now_thread;
  }
};

struct Word {
  Touch read, written;
};

struct Segment {
  uintptr_t begin = 0, end = 0;
};
Segment segment, image;  // the library's thread-local memory on this thread of the system; all it was loaded with
std::vector<Word> words;
std::vector<char> dirty;  // by pages: written since they were poisoned
size_t dynamic_bytes = 0;

bool beyond_dynamic(uintptr_t at, size_t bytes) {
  const auto dynamic = reinterpret_cast<uintptr_t>(dynamic_shared);
  return at < dynamic + kOptInSharedBytes && at + bytes > dynamic + dynamic_bytes;
}

size_t word_of(uintptr_t at) { return (at - segment.begin) / kWord; }

// Another thread's use of the word that this one's could come before or after; null if there is none.
const Touch* in_the_way(const Word& word, Access access) {
  if (!word.written.before(current)) {
    return &word.written;
  }
  return access == Access::write && !word.read.before(current) ? &word.read : nullptr;
}

int find_segments(dl_phdr_info* object, size_t, void* here) {
  bool own = false;
  size_t bytes = 0;
  Segment all{UINTPTR_MAX, 0};
  for (int i = 0; i < object->dlpi_phnum; ++i) {
    const ElfW(Phdr)& part = object->dlpi_phdr[i];
    const uintptr_t begin = object->dlpi_addr + part.p_vaddr, end = begin + part.p_memsz;
    const auto at = reinterpret_cast<uintptr_t>(here);
    if (part.p_type == PT_LOAD) {
      own |= at >= begin && at < end;
      all = {std::min(all.begin, begin), std::max(all.end, end)};
    } else if (part.p_type == PT_TLS) {
      bytes = part.p_memsz;
    }
  }
  if (own) {
    const auto begin = reinterpret_cast<uintptr_t>(object->dlpi_tls_data);
    image = all;
    if (begin != segment.begin) {  // the first launch, or the first on another thread of the system
      segment = {begin, begin + bytes};
      words.assign(bytes / kWord + 1, Word());
      dirty.assign(bytes / kPage + 1, true);
    }
  }
  return own;
}

}  // namespace

void find_shared() {
  dynamic_shared[0] = 0xff;  // from now on there is a segment
  dl_iterate_phdr(find_segments, reinterpret_cast<void*>(&find_shared));
}

void poison_shared(size_t dynamic) {
  dynamic_bytes = dynamic;
  for (size_t i = 0; i < dirty.size(); ++i) {
    if (dirty[i]) {
      const uintptr_t begin = segment.begin + i * kPage, end = std::min(begin + kPage, segment.end);
      std::memset(reinterpret_cast<void*>(begin), 0xff, end - begin);  // NaN in every floating type
      dirty[i] = false;
    }
  }
}

bool in_image(uintptr_t at) { return at >= image.begin && at < image.end; }

bool in_shared(uintptr_t at) { return at >= segment.begin && at < segment.end; }

bool use_shared(uintptr_t at, size_t bytes, Access access) {
  if (beyond_dynamic(at, bytes)) {
    return false;
  }
  if (access != Access::read) {
    dirty[(at - segment.begin) / kPage] = dirty[(at + bytes - 1 - segment.begin) / kPage] = true;
  }
  if (access == Access::atomic) {
    return true;
  }
  for (size_t i = word_of(at), last = word_of(at + bytes - 1); i <= last; ++i) {
    if (in_the_way(words[i], access) != nullptr) {
      return false;
    }
    (access == Access::write ? words[i].written : words[i].read).add(current);
  }
  return true;
}

std::string trouble_in_shared(uintptr_t at, size_t bytes, Access access) {
  std::ostringstream s;
  if (beyond_dynamic(at, bytes)) {
    s << "of dynamic shared memory beyond its " << dynamic_bytes << " bytes";
    return s.str();
  }
  size_t i = word_of(at);
  while (in_the_way(words[i], access) == nullptr) {
    ++i;
  }
  const Touch* other = in_the_way(words[i], access);
  s << "of shared memory that thread " << other->thread << (other == &words[i].read ? " reads" : " writes")
    << " with no barrier between";
  return s.str();
}

}  // namespace emulator
