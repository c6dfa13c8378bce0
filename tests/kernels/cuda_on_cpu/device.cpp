// The device: what it allows, and what the host asks of it beside launches.
#include <map>
#include <sstream>

#include "emulator.h"

namespace emulator {
namespace {

std::map<const void*, int> allowed_shared;  // bytes of dynamic shared memory, where a kernel may have more than usual

}  // namespace

cudaError_t check_launch(const cudaLaunchConfig_t& how, const void* kernel) {
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
