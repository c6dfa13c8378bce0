// What the emulator's parts know of each other.
#pragma once

#include <cstring>
#include <string>

#include "cuda_runtime.h"

namespace emulator {

constexpr int kSharedBytes = 48 << 10, kOptInSharedBytes = 227 << 10;  // a block's, as on an H100

inline const char* base_name(const char* file) {
  const char* slash = std::strrchr(file, '/');
  return slash != nullptr ? slash + 1 : file;
}

// emulator.cpp

extern bool in_thread;  // whether a kernel's thread has its turn; else the host

// Keeps what went wrong first. In a thread it does not return: the launch ends there.
cudaError_t fail(cudaError_t code, const std::string& what);
std::string take_trouble();
bool on_own_stack(uintptr_t at);

// memory.cpp

void start_kernel(const void* arguments, size_t bytes);
void poison_shared(size_t dynamic_bytes);  // before a block
void touch_shared();                       // a thread has come to a barrier, so that the block may have used it

// A tensor's bytes: the kernels may touch no others, and write only where a mutable pointer was asked for.
void allow(const void* begin, size_t bytes, bool writable);
void next_op();

// Whether the host may touch these bytes for a kernel's sake: cudaMemsetAsync and its kin.
cudaError_t check_range(const void* at, size_t bytes, bool write);

// libtorch.cpp

// Work goes to the current stream of a device that a guard has made the current one.
cudaError_t check_stream(cudaStream_t stream);

}  // namespace emulator
