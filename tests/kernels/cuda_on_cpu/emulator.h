// What the emulator's parts know of each other.
#pragma once

#include <cstring>
#include <string>

#include "cuda_runtime.h"

namespace emulator {

constexpr int kMaxThreads = 1024;
constexpr int kSharedBytes = 48 << 10, kOptInSharedBytes = 227 << 10;  // a block's, as on an H100

inline const char* base_name(const char* file) {
  const char* slash = std::strrchr(file, '/');
  return slash != nullptr ? slash + 1 : file;
}

// ---- emulator.cpp: threads, and the order in which they run ---------------------------------------------------------

extern bool in_thread;                               // whether a thread of a kernel has its turn; else the host
extern int current;                                  // that thread's number in its block
extern uint64_t barrier_time;                        // barriers met, of all blocks there were
extern uint64_t warp_times[kMaxThreads / warpSize];  // ops met by each of the block's warps
bool on_own_stack(uintptr_t at);

// Keeps what went wrong first. In a thread it does not return: the launch ends there.
cudaError_t fail(cudaError_t code, const std::string& what);
std::string take_trouble();

// ---- device.cpp: limits ---------------------------------------------------------------------------------------------

cudaError_t check_launch(const cudaLaunchConfig_t& how, const void* kernel);

// ---- memory.cpp: what may be read and written -----------------------------------------------------------------------

enum class Access { read, write, atomic };

void allow_arguments(const void* at, size_t bytes);  // of the kernel that is launched

// A tensor's bytes: the kernels may touch no others, and write only where a mutable pointer was asked for.
void allow_tensor(const void* at, size_t bytes, bool writable);
void next_op();

// Whether the host may do it for a kernel: cudaMemsetAsync and its kin.
cudaError_t check_range(const void* at, size_t bytes, bool write);

// ---- shared_memory.cpp ----------------------------------------------------------------------------------------------

void find_shared();                        // before a launch
void poison_shared(size_t dynamic_bytes);  // before a block
bool in_shared(uintptr_t at);
bool in_image(uintptr_t at);  // among the library's own constants
bool use_shared(uintptr_t at, size_t bytes, Access access);  // whether the thread that has its turn may do it
std::string trouble_in_shared(uintptr_t at, size_t bytes, Access access);  // why not

// ---- libtorch.cpp ---------------------------------------------------------------------------------------------------

// Work goes to the current stream of a device that a guard has made the current one.
cudaError_t check_stream(cudaStream_t stream);

}  // namespace emulator
