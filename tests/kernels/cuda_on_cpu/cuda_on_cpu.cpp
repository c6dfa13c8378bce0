// The scheduler of cuda_runtime.h beside it, and what else the sources of csrc/cuda link against.
#include <cuda_runtime.h>
#include <link.h>
#include <sys/mman.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>
#include <torch/csrc/stable/accelerator.h>

#include <cstdlib>
#include <memory>
#include <vector>

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace tmb {
alignas(16) __shared__ unsigned char dynamic_shared[cuda_on_cpu::kMostShared];
}

namespace cuda_on_cpu {
namespace {

constexpr size_t kStackBytes = 64 * 1024;
constexpr unsigned kMostThreads = 1024, kWarp = 32;
constexpr size_t kMostStaticShared = 48 * 1024;

enum class State { ready, at_barrier, in_warp, done };

struct Fiber {
  void* stack_pointer;
  State state;
  const char* file;  // where it waits
  int line;
  dim3 index;
};

// What the lanes of a warp hand in, in turns: nobody is two exchanges ahead of anybody, who then still has to read.
struct Warp {
  uint64_t values[2][kWarp];
  unsigned exchanges[kWarp];  // of each lane, the one in which it waits included
};

Fiber fibers[kMostThreads];
Warp warps[kMostThreads / kWarp];
unsigned current, count;
void* scheduler;  // its stack pointer
char* stacks;
Thread body;
const void* kernel_of_body;
std::string error;

// Saves what a call must preserve, and goes on where the other stack was left.
__attribute__((naked, noinline)) void switch_stacks(void** /*save*/, void* /*to*/) {
  asm volatile(
      "pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n"
      "movq %rsp, (%rdi)\n movq %rsi, %rsp\n"
      "popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n ret\n");
}

void wait(State state, const char* file, int line) {
  Fiber& fiber = fibers[current];
  fiber.state = state;
  fiber.file = file;
  fiber.line = line;
  switch_stacks(&fiber.stack_pointer, scheduler);
}

void fiber_main() {
  body(kernel_of_body);
  wait(State::done, "", 0);
  std::abort();  // nobody goes on with it
}

void start(unsigned i) {
  char* const top = stacks + (i + 1) * kStackBytes;
  void** pointer = reinterpret_cast<void**>(top);
  *--pointer = nullptr;  // as if called: the stack is 16 bytes aligned before the return address
  *--pointer = reinterpret_cast<void*>(&fiber_main);
  for (int saved = 0; saved < 6; ++saved) {
    *--pointer = nullptr;
  }
  fibers[i] = {pointer, State::ready, "", 0, dim3(i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y)};
}

void resume(unsigned i) {
  current = i;
  threadIdx = fibers[i].index;
  fibers[i].state = State::ready;
  switch_stacks(&scheduler, fibers[i].stack_pointer);
}

std::string place(const Fiber& fiber) {
  return fiber.state == State::done ? "its end" : std::string(fiber.file) + ":" + std::to_string(fiber.line);
}

// A warp until each of its lanes waits at a barrier or is done.
void run_warp(unsigned first) {
  const unsigned last = std::min(first + kWarp, count);
  const Warp& warp = warps[first / kWarp];
  for (bool going_on = true; going_on;) {
    going_on = false;
    bool moved = false;
    for (unsigned i = first; i < last; ++i) {
      if (fibers[i].state == State::ready || fibers[i].state == State::in_warp) {
        const unsigned before = warp.exchanges[i % kWarp];
        const bool fresh = fibers[i].state == State::ready;
        resume(i);
        if (!error.empty()) {
          return;
        }
        moved |= fresh || fibers[i].state != State::in_warp || warp.exchanges[i % kWarp] != before;
        going_on |= fibers[i].state == State::in_warp;
      }
    }
    if (going_on && !moved) {
      for (unsigned i = first; i < last; ++i) {
        if (fibers[i].state == State::in_warp) {
          error = "lane " + std::to_string(i % kWarp) + " waits at " + place(fibers[i]) + " for lanes that are not there";
          return;
        }
      }
    }
  }
}

void run_block(const std::string& shared) {
  for (unsigned i = 0; i < count; ++i) {
    start(i);
  }
  std::memset(warps, 0, sizeof warps);
  while (error.empty()) {
    for (unsigned first = 0; first < count && error.empty(); first += kWarp) {
      run_warp(first);
    }
    if (!error.empty() || fibers[0].state == State::done) {
      for (unsigned i = 1; i < count && error.empty(); ++i) {
        if (fibers[i].state != State::done) {
          error = "thread " + std::to_string(i) + " waits at " + place(fibers[i]) + " for thread 0, which has ended";
        }
      }
      return;
    }
    for (unsigned i = 0; i < count; ++i) {
      if (fibers[i].state != State::at_barrier || fibers[i].line != fibers[0].line || fibers[i].file != fibers[0].file) {
        error = "thread 0 waits at " + place(fibers[0]) + " for thread " + std::to_string(i) + ", which is at " + place(fibers[i]);
        return;
      }
    }
    for (unsigned i = 0; i < count; ++i) {
      fibers[i].state = State::ready;
    }
  }
}

// This library's thread-local storage, of the thread that asks: all shared memory.
struct Storage {
  char* start = nullptr;
  size_t bytes = 0;
};

Storage shared_memory() {
  Storage found;
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* data) {
        auto& storage = *static_cast<Storage*>(data);
        char* const own = reinterpret_cast<char*>(tmb::dynamic_shared);
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          char* const start = static_cast<char*>(info->dlpi_tls_data);
          const size_t bytes = info->dlpi_phdr[i].p_memsz;
          if (info->dlpi_phdr[i].p_type == PT_TLS && start != nullptr && start <= own && own < start + bytes) {
            storage = {start, bytes};
          }
        }
        return 0;
      },
      &found);
  if (found.start == nullptr) {
    throw std::runtime_error("cuda_on_cpu: shared memory is not found");
  }
  return found;
}

}  // namespace

void run(const cudaLaunchConfig_t& how, Thread thread, const void* kernel) {
  const dim3 grid = how.gridDim, block = how.blockDim;
  count = block.x * block.y * block.z;
  if (count == 0 || count > kMostThreads || block.z > 64 || grid.x == 0 || grid.y == 0 || grid.z == 0 ||
      grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535 || how.dynamicSmemBytes > kMostShared) {
    throw std::runtime_error("cuda_on_cpu: invalid configuration");
  }
  if (stacks == nullptr) {
    stacks = static_cast<char*>(mmap(nullptr, kMostThreads * kStackBytes, PROT_READ | PROT_WRITE,
                                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  }
  body = thread;
  kernel_of_body = kernel;
  gridDim = grid;
  blockDim = block;
  error.clear();
  const Storage shared = shared_memory();
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = dim3(x, y, z);
        std::memset(shared.start, 0xff, shared.bytes);
        run_block("");
        if (!error.empty()) {
          throw std::runtime_error("cuda_on_cpu: block " + std::to_string(x) + "," + std::to_string(y) + ": " + error);
        }
      }
    }
  }
}

void barrier(const char* file, int line) { wait(State::at_barrier, file, line); }

unsigned lane() { return current % kWarp; }

uint64_t exchange(unsigned mask, uint64_t value, unsigned from, const char* file, int line) {
  Warp& warp = warps[current / kWarp];
  const unsigned number = ++warp.exchanges[lane()];
  warp.values[number % 2][lane()] = value;
  for (unsigned i = 0; i < kWarp; ++i) {
    while ((mask >> i & 1u) != 0 && warp.exchanges[i] < number) {
      wait(State::in_warp, file, line);
    }
  }
  return warp.values[number % 2][from];
}

}  // namespace cuda_on_cpu

extern "C" {

// CUDA_KERNEL_ASSERT of the kernels ends here, by -D__assert_fail=…; it leaves the block.
void cuda_on_cpu_assert_fail(const char* assertion, const char*, unsigned, const char*) noexcept {
  using namespace cuda_on_cpu;
  error = std::string("device-side assert: ") + assertion;
  for (;;) {
    wait(State::done, "", 0);
  }
}

AOTITorchError aoti_torch_create_device_guard(int32_t, DeviceGuardHandle* guard) {
  *guard = nullptr;
  return 0;
}

AOTITorchError aoti_torch_delete_device_guard(DeviceGuardHandle) { return 0; }

AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = nullptr;
  return 0;
}

AOTITorchError aoti_torch_cuda_addmm_out(AtenTensorHandle out, AtenTensorHandle self, AtenTensorHandle a,
                                         AtenTensorHandle b, double beta, double alpha) {
  return aoti_torch_cpu_addmm_out(out, self, a, b, beta, alpha);
}

AOTITorchError torch_c10_cuda_check_msg(int32_t error, const char*, const char*, uint32_t, bool, char** message) {
  *message = error == cudaSuccess ? nullptr : strdup("cuda_on_cpu: an error that it does not know");
  return 0;
}

void torch_c10_cuda_free_error_msg(char* message) { std::free(message); }
}
