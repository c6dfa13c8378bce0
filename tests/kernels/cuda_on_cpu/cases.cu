// Kernels for the emulator's own tests: x (n,) → a new tensor (n,), by blocks of kBlock threads. First those that are
// right, then those with one mistake each, which a GPU may well let pass.
#include "../../../csrc/cuda/reduce.cuh"
#include "../../../csrc/cuda/vectors.cuh"

namespace tmb {
namespace {

constexpr int kBlock = 128;
constexpr unsigned kAll = 0xffffffffu;

struct Case {
  const float* x;
  float* out;
  int64_t n, i;    // the thread's element: i < n
  unsigned t;      // the thread in its block
};

using Kernel = void (*)(const Case&);

// ---- Right -----------------------------------------------------------------------------------------------------------

// Each block backwards.
__device__ void reversed(const Case& c) {
  __shared__ float part[kBlock];
  part[c.t] = c.x[c.i];
  __syncthreads();
  c.out[c.i] = part[kBlock - 1 - c.t];
}

__device__ void reversed_in_dynamic_memory(const Case& c) {
  extern __shared__ __align__(16) unsigned char shared[];
  auto* const part = reinterpret_cast<float*>(shared);
  part[c.t] = c.x[c.i];
  __syncthreads();
  c.out[c.i] = part[kBlock - 1 - c.t];
}

// Each warp rotated by a lane, in halves, and shifted to both sides: x₍ᵢ₊₁₎ + 10 x₍ᵢ xor 1₎ + 100 xᵢ₋₂ + 1000 xᵢ₊₂
__device__ void shuffles(const Case& c) {
  const float x = c.x[c.i];
  c.out[c.i] = __shfl_sync(kAll, x, int(c.t) + 1, 16) + 10 * __shfl_xor_sync(kAll, x, 1) +
               100 * __shfl_up_sync(kAll, x, 2) + 1000 * __shfl_down_sync(kAll, x, 2, 8);
}

// The even lanes and the odd ones, each by themselves: how many of them are positive, whether all and any are.
__device__ void votes(const Case& c) {
  const unsigned mask = c.t % 2 == 0 ? 0x55555555u : 0xaaaaaaaau;
  const bool positive = c.x[c.i] > 0;
  const int count = __builtin_popcount(__ballot_sync(mask, positive));
  c.out[c.i] = float(count + 100 * __all_sync(mask, positive) + 1000 * __any_sync(mask, positive));
}

// The block's counts: of positive numbers, by an atomic sum and by the barrier; and which element is the largest.
__device__ void counts(const Case& c) {
  __shared__ int sum;
  if (c.t == 0) {
    sum = 0;
  }
  const int positive = __syncthreads_count(c.x[c.i] > 0);
  if (c.x[c.i] > 0) {
    atomicAdd(&sum, 1);
  }
  const int all = __syncthreads_and(c.x[c.i] > 0), any = __syncthreads_or(c.x[c.i] > 0);
  c.out[c.i] = float(sum + 1000 * positive + 1000000 * (all + 2 * any));
}

// Two sums in the same shared memory: the barrier at the end of reduce is needed.
__device__ void two_sums(const Case& c) {
  const float a = reduce<kBlock>(c.x[c.i], Sum()), b = reduce<kBlock>(2 * c.x[c.i], Sum());
  c.out[c.i] = b - a;
}

// ---- Mistakes --------------------------------------------------------------------------------------------------------

__device__ void no_barrier(const Case& c) {
  __shared__ float part[kBlock];
  part[c.t] = c.x[c.i];
  c.out[c.i] = part[kBlock - 1 - c.t];
}

// The next round's writes meet this round's reads.
__device__ void one_barrier_too_few(const Case& c) {
  __shared__ float part[kBlock];
  for (int round = 0; round < 2; ++round) {
    part[c.t] = c.x[c.i];
    __syncthreads();
    c.out[c.i] = part[kBlock - 1 - c.t];
  }
}

__device__ void no_syncwarp(const Case& c) {
  __shared__ float part[kBlock];
  part[c.t] = c.x[c.i];
  c.out[c.i] = part[c.t ^ 1];
}

__device__ void barrier_for_some(const Case& c) {
  if (c.t < kBlock / 2) {
    __syncthreads();
  }
  c.out[c.i] = c.x[c.i];
}

__device__ void barrier_after_return(const Case& c) {
  if (c.t == 5) {
    return;
  }
  __syncthreads();
  c.out[c.i] = c.x[c.i];
}

__device__ void two_barriers(const Case& c) {
  if (c.t < kBlock / 2) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  c.out[c.i] = c.x[c.i];
}

__device__ void absent_lane(const Case& c) {
  float x = c.x[c.i];
  if (c.t % kWarp < 16) {
    x += __shfl_xor_sync(kAll, x, 1);
  } else {
    __syncthreads();
  }
  c.out[c.i] = x;
}

__device__ void value_of_a_lane_that_returned(const Case& c) {
  const float x = c.x[c.i];
  if (c.t % kWarp < 16) {
    c.out[c.i] = __shfl_xor_sync(kAll, x, 16);
  }
}

__device__ void lane_outside_its_mask(const Case& c) { c.out[c.i] = __shfl_sync(0xffffu, c.x[c.i], 0); }

// Right if memory happens to be zero.
__device__ void unwritten_shared(const Case& c) {
  __shared__ float sum[kBlock];
  sum[c.t] += c.x[c.i];
  c.out[c.i] = sum[c.t];
}

__device__ void unwritten_output(const Case& c) {
  if (c.i > 0) {
    c.out[c.i] = c.x[c.i];
  }
}

__device__ void reads_beyond(const Case& c) { c.out[c.i] = c.x[c.i] + c.x[c.i + 1]; }

__device__ void reads_before(const Case& c) { c.out[c.i] = c.x[c.i] + c.x[c.i - 1]; }

__device__ void writes_beyond(const Case& c) { c.out[c.i + 1] = c.x[c.i]; }

__device__ void writes_what_is_read_only(const Case& c) {
  const_cast<float*>(c.x)[c.i] = 0;
  c.out[c.i] = c.x[c.i];
}

__device__ void misaligned(const Case& c) {
  float v[4] = {};
  if (c.i + 4 < c.n) {
    load(c.x + c.i + 1, v);
  }
  c.out[c.i] = v[0];
}

__device__ void index_beyond_its_array(const Case& c) {
  __shared__ float part[kBlock + 1];
  part[c.t] = c.x[c.i];
  c.out[c.i] = part[c.t + 2 * (c.t / (kBlock - 1))];
}

__device__ void beyond_dynamic_memory(const Case& c) {
  extern __shared__ __align__(16) unsigned char shared[];
  reinterpret_cast<float*>(shared)[c.t + 1] = c.x[c.i];
  c.out[c.i] = 0;
}

__device__ void overflow(const Case& c) {
  const int many = int(c.i) + (1 << 30);
  c.out[c.i] = float(many * 4);
}

__device__ void assertion(const Case& c) {
  CUDA_KERNEL_ASSERT(c.i != 7 && "7 is refused");
  c.out[c.i] = 0;
}

// ---- Launches --------------------------------------------------------------------------------------------------------

template <Kernel kernel>
__global__ void __launch_bounds__(kBlock) run_case(const float* x, float* out, int64_t n) {
  const int64_t i = int64_t(blockIdx.x) * kBlock + threadIdx.x;
  kernel({x, out, n, i, threadIdx.x});
}

// x must hold whole blocks.
template <Kernel kernel>
Tensor launch(Tensor x) {
  const OnDeviceOf device(x);
  Tensor out = new_tensor(x, {x.size(0)}, ScalarType::Float);
  run(run_case<kernel>, blocks(x.size(0), kBlock), kBlock, kBlock * sizeof(float), device.stream(), const_data<float>(x),
      data<float>(out), x.size(0));
  return out;
}

template <Kernel kernel = reversed>
Tensor launch_as(const Tensor& x, dim3 grid, dim3 block, size_t shared, cudaStream_t stream) {
  Tensor out = new_tensor(x, {x.size(0)}, ScalarType::Float);
  run(run_case<kernel>, grid, block, shared, stream, const_data<float>(x), data<float>(out), x.size(0));
  return out;
}

Tensor no_blocks(Tensor x) { const OnDeviceOf device(x); return launch_as(x, 0, kBlock, 0, device.stream()); }

Tensor too_many_rows_of_blocks(Tensor x) {
  const OnDeviceOf device(x);
  return launch_as(x, dim3(1, 1 << 16), kBlock, 0, device.stream());
}

Tensor too_many_threads(Tensor x) {
  const OnDeviceOf device(x);
  return launch_as(x, 1, dim3(33, 32), 0, device.stream());
}

Tensor too_much_shared_memory(Tensor x) {
  const OnDeviceOf device(x);
  return launch_as<two_sums>(x, 1, kBlock, (48 << 10) + 1, device.stream());
}

Tensor more_shared_memory_on_demand(Tensor x) {
  const OnDeviceOf device(x);
  STD_CUDA_CHECK(cudaFuncSetAttribute(run_case<reversed>, cudaFuncAttributeMaxDynamicSharedMemorySize, 64 << 10));
  return launch_as(x, blocks(x.size(0), kBlock), kBlock, 64 << 10, device.stream());
}

Tensor another_stream(Tensor x) { const OnDeviceOf device(x); return launch_as(x, 1, kBlock, 0, nullptr); }

Tensor no_guard(Tensor x) { return launch_as(x, 1, kBlock, 0, nullptr); }

}  // namespace
}  // namespace tmb

#define KERNELS(X)                                                                                              \
  X(reversed) X(reversed_in_dynamic_memory) X(shuffles) X(votes) X(counts) X(two_sums) X(no_barrier)            \
  X(one_barrier_too_few) X(no_syncwarp) X(barrier_for_some) X(barrier_after_return) X(two_barriers)             \
  X(absent_lane) X(value_of_a_lane_that_returned) X(lane_outside_its_mask) X(unwritten_shared)                  \
  X(unwritten_output) X(reads_beyond) X(reads_before) X(writes_beyond) X(writes_what_is_read_only)              \
  X(misaligned) X(index_beyond_its_array) X(beyond_dynamic_memory) X(overflow) X(assertion)
#define LAUNCHES(X)                                                                                             \
  X(no_blocks) X(too_many_rows_of_blocks) X(too_many_threads) X(too_much_shared_memory)                         \
  X(more_shared_memory_on_demand) X(another_stream) X(no_guard)

STABLE_TORCH_LIBRARY(torch_manual_bp_cases, m) {
#define DEFINE(name) m.def(#name "(Tensor x) -> Tensor");
  KERNELS(DEFINE)
  LAUNCHES(DEFINE)
}

STABLE_TORCH_LIBRARY_IMPL(torch_manual_bp_cases, CUDA, m) {
#define RUN_CASE(name) m.impl(#name, TORCH_BOX(&tmb::launch<tmb::name>));
#define LAUNCH(name) m.impl(#name, TORCH_BOX(&tmb::name));
  KERNELS(RUN_CASE)
  LAUNCHES(LAUNCH)
}
