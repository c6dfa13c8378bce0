// Runs a grid: its blocks one after the other, a block's threads as coroutines, each as far as the next barrier.
//
// A warp runs on alone until all its lanes wait at a barrier of the block, so that nothing but a barrier orders two
// warps; every other launch takes blocks, warps and lanes from the last to the first. Shared memory is full of NaN when
// a block starts. What a GPU leaves undefined is an error: a barrier that some thread of the block does not reach, a
// lane that its mask names and that does not come, or comes from elsewhere in the program, a value of a lane that brings
// none.
#include "emulator.h"

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <map>
#include <memory>
#include <sstream>
#include <vector>

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace emulator {
namespace {

constexpr int kStackBytes = 256 << 10, kPage = 4096;

enum class State { ready, at_warp_op, at_barrier, returned };

struct Site {
  const char* op;
  const char* file;
  int line;

  // (of a name in a template each file has its own copy)
  bool operator==(const Site& s) const {
    return line == s.line && std::strcmp(op, s.op) == 0 && std::strcmp(file, s.file) == 0;
  }
};

// The part of a thread that outlives its turn.
struct Coroutine {
  State state;
  Site site;
  Exchange exchange;
  bool predicate;
  jmp_buf at;      // where it waits
  int stack = -1;  // on which; -1: it has not begun, or returned
};

// A stack that runs one thread after the other. Switched to by setjmp and longjmp once ucontext has set it up: they
// leave the signal mask alone, and a switch costs no system call.
struct Stack {
  ucontext_t context;
  jmp_buf idle;
  bool set_up = false;
};

std::vector<Coroutine> threads(kMaxThreads);
std::vector<Stack> stacks(kMaxThreads);
std::vector<int> idle_stacks;
char* stack_memory = nullptr;
jmp_buf scheduler;
int barrier_count = 0;
Thread body;
void* body_arguments;
bool descending = false;
std::string trouble;
cudaError_t trouble_code = cudaSuccess;
std::map<const void*, int> allowed_shared;

void run_threads(int stack) {
  for (;;) {
    in_thread = true;
    body(body_arguments);
    in_thread = false;
    threads[current].state = State::returned;
    threads[current].stack = -1;
    idle_stacks.push_back(stack);
    if (_setjmp(stacks[stack].idle) == 0) {
      _longjmp(scheduler, 1);
    }
  }
}

void reset_stacks() {
  if (stack_memory == nullptr) {
    constexpr size_t bytes = size_t(kMaxThreads) * kStackBytes;
    void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    stack_memory = static_cast<char*>(at);
    for (int i = 0; i < kMaxThreads; ++i) {  // a stack that overflows meets a page that nobody may touch
      mprotect(stack_memory + size_t(i) * kStackBytes, kPage, PROT_NONE);
    }
  }
  idle_stacks.clear();
  for (int i = kMaxThreads - 1; i >= 0; --i) {
    stacks[i].set_up = false;
    idle_stacks.push_back(i);
  }
}

// Lets a thread run until it waits, or returns.
void resume(int thread) {
  current = thread;
  const unsigned rest = thread / blockDim.x;
  threadIdx = {thread % blockDim.x, rest % blockDim.y, rest / blockDim.y};
  Coroutine& c = threads[thread];
  if (_setjmp(scheduler) != 0) {
    return;
  }
  if (c.stack >= 0) {
    in_thread = true;
    _longjmp(c.at, 1);
  }
  c.stack = idle_stacks.back();
  idle_stacks.pop_back();
  Stack& s = stacks[c.stack];
  if (s.set_up) {
    _longjmp(s.idle, 1);
  }
  s.set_up = true;
  getcontext(&s.context);
  s.context.uc_stack.ss_sp = stack_memory + size_t(c.stack) * kStackBytes;
  s.context.uc_stack.ss_size = kStackBytes;
  s.context.uc_link = nullptr;
  makecontext(&s.context, reinterpret_cast<void (*)()>(run_threads), 1, c.stack);
  setcontext(&s.context);
}

void wait(State state, const Site& site) {
  in_thread = false;
  Coroutine& c = threads[current];
  c.state = state;
  c.site = site;
  touch_shared();
  if (_setjmp(c.at) == 0) {
    _longjmp(scheduler, 1);
  }
}

std::string text(const Site& site) {
  std::ostringstream s;
  s << site.op << " at " << base_name(site.file) << ':' << site.line;
  return s.str();
}

// The lanes of the mask have come together: each takes what it wants.
void complete(Coroutine* warp, unsigned mask, int lanes) {
  unsigned votes = 0;
  uint64_t values[warpSize];
  for (int i = 0; i < lanes; ++i) {
    if (mask >> i & 1) {
      votes |= unsigned(warp[i].exchange.predicate) << i;
      values[i] = warp[i].exchange.value;
    }
  }
  for (int i = 0; i < lanes; ++i) {
    if (mask >> i & 1) {
      Coroutine& c = warp[i];
      const int source = c.exchange.source;
      if (source >= 0 && !(mask >> source & 1)) {
        std::ostringstream s;
        s << text(c.site) << ": lane " << i << " takes a value from lane " << source << ", which brings none";
        fail(cudaErrorLaunchFailure, s.str());
        return;
      }
      c.exchange.value = source >= 0 ? values[source] : 0;
      c.exchange.votes = votes;
      c.state = State::ready;
    }
  }
}

// Releases the lanes that wait for none but each other; whether there were any.
bool complete_some(Coroutine* warp, int lanes) {
  for (int i = 0; i < lanes; ++i) {
    if (warp[i].state != State::at_warp_op) {
      continue;
    }
    const unsigned mask = warp[i].exchange.mask;
    unsigned present = 0;  // those that have returned, or never were, are not waited for
    bool all = true;
    for (int j = 0; j < lanes && all; ++j) {
      if ((mask >> j & 1) && warp[j].state != State::returned) {
        all = warp[j].state == State::at_warp_op && warp[j].exchange.mask == mask && warp[j].site == warp[i].site;
        present |= 1u << j;
      }
    }
    if (all) {
      complete(warp, present, lanes);
      ++warp_times[(warp - threads.data()) / warpSize];
      return true;
    }
  }
  return false;
}

void run_warp(int first, int lanes) {
  do {
    for (int i = 0; i < lanes && trouble_code == cudaSuccess; ++i) {
      const int thread = first + (descending ? lanes - 1 - i : i);
      if (threads[thread].state == State::ready) {
        resume(thread);
      }
    }
  } while (trouble_code == cudaSuccess && complete_some(&threads[first], lanes));
}

// All threads wait or have returned. True if all have; false if they go on from a barrier, or never will.
bool finish_phase(int count) {
  int returned = 0, at_barrier = 0;
  barrier_count = 0;
  const Coroutine* waits = nullptr;
  for (int i = 0; i < count; ++i) {
    const Coroutine& c = threads[i];
    returned += c.state == State::returned;
    at_barrier += c.state == State::at_barrier;
    barrier_count += c.state == State::at_barrier && c.predicate;
    if (c.state != State::returned && (waits == nullptr || c.state == State::at_warp_op)) {
      waits = &c;
    }
  }
  if (returned == count) {
    return true;
  }
  std::ostringstream s;
  s << text(waits->site) << ": ";
  if (waits->state == State::at_warp_op) {
    s << "a lane of its mask does not come";
    return fail(cudaErrorLaunchFailure, s.str()), false;
  }
  if (at_barrier < count) {
    s << at_barrier << " of the block's " << count << " threads wait, " << returned << " have returned";
    return fail(cudaErrorLaunchFailure, s.str()), false;
  }
  for (int i = 0; i < count; ++i) {
    if (!(threads[i].site == waits->site)) {
      s << "some of the block's threads wait for " << text(threads[i].site);
      return fail(cudaErrorLaunchFailure, s.str()), false;
    }
    threads[i].state = State::ready;
  }
  ++barrier_time;
  return false;
}

void run_block(int count, size_t dynamic_bytes) {
  for (int i = 0; i < count; ++i) {
    threads[i].state = State::ready;
    threads[i].stack = -1;
  }
  poison_shared(dynamic_bytes);
  ++barrier_time;
  do {
    const int warps = (count + warpSize - 1) / warpSize;
    for (int i = 0; i < warps && trouble_code == cudaSuccess; ++i) {
      const int first = (descending ? warps - 1 - i : i) * warpSize;
      run_warp(first, std::min(warpSize, count - first));
    }
  } while (trouble_code == cudaSuccess && !finish_phase(count));
}

cudaError_t check(const cudaLaunchConfig_t& how, const void* kernel) {
  const dim3 &g = how.gridDim, &b = how.blockDim;
  std::ostringstream s;
  if (g.count() == 0 || g.x > 0x7fffffffu || g.y > 65535 || g.z > 65535) {
    s << "a grid of " << g.x << " x " << g.y << " x " << g.z << " blocks";
    return fail(cudaErrorInvalidConfiguration, s.str());
  }
  if (b.count() == 0 || b.count() > kMaxThreads || b.z > 64) {
    s << "a block of " << b.x << " x " << b.y << " x " << b.z << " threads";
    return fail(cudaErrorInvalidConfiguration, s.str());
  }
  const auto allowed = allowed_shared.find(kernel);
  const int limit = allowed != allowed_shared.end() ? allowed->second : kSharedBytes;
  if (how.dynamicSmemBytes > size_t(limit)) {
    s << how.dynamicSmemBytes << " bytes of shared memory, where " << limit << " are allowed";
    return fail(cudaErrorInvalidValue, s.str());
  }
  if (how.numAttrs > 0) {
    return fail(cudaErrorNotSupported, "launch attributes are not emulated");
  }
  return check_stream(how.stream);
}

}  // namespace

bool in_thread = false;
int current = 0;
uint64_t barrier_time = 0, warp_times[kMaxThreads / warpSize];

bool on_own_stack(uintptr_t at) {
  const uintptr_t begin = reinterpret_cast<uintptr_t>(stack_memory) + size_t(threads[current].stack) * kStackBytes;
  return at >= begin && at < begin + kStackBytes;
}

int lane() { return current % warpSize; }

int barrier(bool predicate, const char* op, const char* file, int line) {
  threads[current].predicate = predicate;
  wait(State::at_barrier, {op, file, line});
  return barrier_count;
}

void exchange(Exchange& e, const char* op, const char* file, int line) {
  if (!(e.mask >> lane() & 1)) {
    fail(cudaErrorLaunchFailure, text({op, file, line}) + ": a lane is not in the mask that it names");
  }
  threads[current].exchange = e;
  wait(State::at_warp_op, {op, file, line});
  e = threads[current].exchange;
}

cudaError_t launch(const cudaLaunchConfig_t& how, const void* kernel, Thread thread, void* arguments, size_t bytes) {
  static bool forwards = false;
  if (const cudaError_t error = check(how, kernel); error != cudaSuccess) {
    return error;
  }
  body = thread;
  body_arguments = arguments;
  allow_arguments(arguments, bytes);
  find_shared();
  gridDim = how.gridDim;
  blockDim = how.blockDim;
  forwards = !forwards;
  descending = !forwards;
  if (idle_stacks.size() < kMaxThreads) {
    reset_stacks();
  }
  const uint64_t blocks = gridDim.count();
  for (uint64_t i = 0; i < blocks && trouble_code == cudaSuccess; ++i) {
    const uint64_t block = descending ? blocks - 1 - i : i, rest = block / gridDim.x;
    blockIdx = {unsigned(block % gridDim.x), unsigned(rest % gridDim.y), unsigned(rest / gridDim.y)};
    run_block(int(blockDim.count()), how.dynamicSmemBytes);
  }
  return trouble_code;
}

cudaError_t fail(cudaError_t code, const std::string& what) {
  const bool thread_failed = std::exchange(in_thread, false);
  if (trouble_code == cudaSuccess) {
    trouble_code = code;
    std::ostringstream s;
    s << what;
    if (thread_failed) {
      s << " (block " << blockIdx.x << ' ' << blockIdx.y << ' ' << blockIdx.z << ", thread " << threadIdx.x << ' '
        << threadIdx.y << ' ' << threadIdx.z << ')';
    }
    trouble = s.str();
  }
  if (thread_failed) {
    _longjmp(scheduler, 1);
  }
  return code;
}

std::string take_trouble() {
  trouble_code = cudaSuccess;
  return std::move(trouble);
}

cudaError_t allow_shared(const void* kernel, int bytes) {
  if (bytes < 0 || bytes > kOptInSharedBytes) {
    return fail(cudaErrorInvalidValue, "cudaFuncSetAttribute: more shared memory than a block can have");
  }
  allowed_shared[kernel] = bytes;
  return cudaSuccess;
}

cudaError_t set(void* to, int value, size_t bytes, cudaStream_t stream) {
  if (check_stream(stream) != cudaSuccess || check_range(to, bytes, true) != cudaSuccess) {
    return cudaErrorInvalidValue;
  }
  std::memset(to, value, bytes);
  return cudaSuccess;
}

cudaError_t copy(void* to, const void* from, size_t bytes, cudaStream_t stream) {
  if (check_stream(stream) != cudaSuccess || check_range(from, bytes, false) != cudaSuccess ||
      check_range(to, bytes, true) != cudaSuccess) {
    return cudaErrorInvalidValue;
  }
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}

}  // namespace emulator

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = 4;  // few, so that grids of this size have blocks that do more than one piece of work
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = emulator::kSharedBytes;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = emulator::kOptInSharedBytes;
      return cudaSuccess;
  }
  return cudaErrorInvalidValue;
}
