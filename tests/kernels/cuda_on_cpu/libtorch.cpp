// Those functions of libtorch that would need a GPU, and those from which the kernels have their memory. The linker puts
// them before libtorch's own (--wrap).
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>
#include <torch/csrc/stable/c/shim.h>

#include <cstdlib>
#include <cstring>

#include "emulator.h"

namespace {

int guards = 0;  // that live
char stream;

AOTITorchError allow(AtenTensorHandle tensor, const void* at, bool writable, bool fill) {
  int64_t count = 0;
  int32_t type = 0;
  aoti_torch_get_numel(tensor, &count);
  aoti_torch_get_dtype(tensor, &type);
  const size_t bytes = size_t(count) * aoti_torch_dtype_element_size(type);
  emulator::allow_tensor(at, bytes, writable);
  if (fill && bytes > 0) {
    std::memset(const_cast<void*>(at), 0xff, bytes);
  }
  return 0;
}

}  // namespace

namespace emulator {

cudaError_t check_stream(cudaStream_t given) {
  if (guards == 0) {
    return fail(cudaErrorInvalidValue, "the device of the tensors is not the current one: no DeviceGuard lives");
  }
  if (static_cast<void*>(given) != &stream) {
    return fail(cudaErrorInvalidValue, "not on the current stream");
  }
  return cudaSuccess;
}

}  // namespace emulator

#define REAL(name) extern "C" AOTITorchError __real_##name
#define WRAP(name) extern "C" AOTITorchError __wrap_##name

REAL(aoti_torch_empty_strided)
(int64_t, const int64_t*, const int64_t*, int32_t, int32_t, int32_t, AtenTensorHandle*);
REAL(torch_get_mutable_data_ptr)(AtenTensorHandle, void**);
REAL(torch_get_const_data_ptr)(AtenTensorHandle, const void**);

// What a kernel does not write in a new tensor is NaN.
WRAP(aoti_torch_empty_strided)
(int64_t dims, const int64_t* sizes, const int64_t* strides, int32_t type, int32_t device_type, int32_t device,
 AtenTensorHandle* tensor) {
  void* at = nullptr;
  const auto error = __real_aoti_torch_empty_strided(dims, sizes, strides, type, device_type, device, tensor);
  return error || __real_torch_get_mutable_data_ptr(*tensor, &at) || allow(*tensor, at, true, true);
}

WRAP(torch_get_mutable_data_ptr)(AtenTensorHandle tensor, void** at) {
  return __real_torch_get_mutable_data_ptr(tensor, at) || allow(tensor, *at, true, false);
}

WRAP(torch_get_const_data_ptr)(AtenTensorHandle tensor, const void** at) {
  return __real_torch_get_const_data_ptr(tensor, at) || allow(tensor, *at, false, false);
}

WRAP(aoti_torch_create_device_guard)(int32_t, DeviceGuardHandle* guard) {
  *guard = reinterpret_cast<DeviceGuardHandle>(&++guards);
  return 0;
}

WRAP(aoti_torch_delete_device_guard)(DeviceGuardHandle) {
  if (--guards == 0) {
    emulator::next_op();
  }
  return 0;
}

WRAP(aoti_torch_get_current_cuda_stream)(int32_t, void** current) {
  *current = &stream;
  return 0;
}

WRAP(aoti_torch_cuda_addmm_out)
(AtenTensorHandle out, AtenTensorHandle self, AtenTensorHandle a, AtenTensorHandle b, double beta, double alpha) {
  return aoti_torch_cpu_addmm_out(out, self, a, b, beta, alpha);
}

WRAP(torch_c10_cuda_check_msg)
(int32_t code, const char* file, const char*, uint32_t line, bool, char** message) {
  if (code != cudaSuccess) {
    const std::string text = "CUDA error " + std::to_string(code) + " at " + emulator::base_name(file) + ':' +
                             std::to_string(line) + ": " + emulator::take_trouble();
    *message = strdup(text.c_str());
  }
  return 0;
}

extern "C" void __wrap_torch_c10_cuda_free_error_msg(char* message) { std::free(message); }

// (of CUDA_KERNEL_ASSERT)
extern "C" void __wrap___assert_fail(const char* assertion, const char* file, unsigned line, const char*) {
  emulator::fail(cudaErrorAssert, std::string("device-side assert: ") + assertion + " at " +
                                      emulator::base_name(file) + ':' + std::to_string(line));
  std::abort();  // in the host's code
}
