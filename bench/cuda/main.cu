// The program of bench/gpu: checks every kernel against float64 and times all of them on this GPU.
#include <cuda_runtime.h>
#include <dlfcn.h>

#include <cstdio>
#include <ctime>

#include "kernels/cuda/attention_checks.h"
#include "kernels/cuda/cross_entropy_checks.h"
#include "kernels/cuda/embedding_checks.h"
#include "kernels/cuda/glu_checks.h"
#include "kernels/cuda/matrix_scan_checks.h"
#include "kernels/cuda/norm_checks.h"
#include "kernels/cuda/optimizer_checks.h"
#include "kernels/cuda/packed_linear_checks.h"
#include "kernels/cuda/rotate_checks.h"
#include "kernels/cuda/subjects.h"

namespace formwork::cuda {
namespace {

void expect(cudaError_t status) {
  if (status != cudaSuccess) throw std::runtime_error(cudaGetErrorString(status));
}

}  // namespace

void* device_allocate(size_t bytes) {
  void* memory = nullptr;
  expect(cudaMalloc(&memory, bytes));
  return memory;
}
void device_free(void* memory) {
  cudaFree(memory);
}
void copy_to_device(void* to, const void* from, size_t bytes) {
  expect(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice));
}
void copy_from_device(void* to, const void* from, size_t bytes) {
  expect(cudaDeviceSynchronize());
  expect(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost));
}

namespace {

/// Milliseconds of one run: the median of several, and the least.
struct Times {
  double median, least;
};

Times times_of(const std::function<Status()>& run) {
  constexpr int kFirst = 3, kRuns = 21;
  cudaEvent_t start, stop;
  expect(cudaEventCreate(&start));
  expect(cudaEventCreate(&stop));
  std::vector<float> times;
  for (int i = 0; i < kFirst + kRuns; ++i) {
    expect(cudaEventRecord(start));
    succeed(run());
    expect(cudaEventRecord(stop));
    expect(cudaEventSynchronize(stop));
    float time = 0.0f;
    expect(cudaEventElapsedTime(&time, start, stop));
    if (i >= kFirst) times.push_back(time);
  }
  expect(cudaEventDestroy(start));
  expect(cudaEventDestroy(stop));
  std::sort(times.begin(), times.end());
  return {times[kRuns / 2], times[0]};
}

__global__ void copy_kernel(uint4* to, const uint4* from, int64_t count) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) to[i] = from[i];
}

/// Bytes a second that a copy reads and writes.
double copy_rate() {
  constexpr int64_t bytes = int64_t{1} << 30, count = bytes / 16, threads = 256;
  Arrays arrays;
  auto* from = static_cast<uint4*>(arrays.numbers(Element::float32, bytes / 4));
  auto* to = static_cast<uint4*>(arrays.numbers(Element::float32, bytes / 4));
  const Times times = times_of([&]() -> Status {
    copy_kernel<<<count / threads, threads>>>(to, from, count);
    return cudaGetLastError();
  });
  return 2.0 * bytes / (times.median * 1e-3);
}

/// Operations a second of a large bfloat16 product by cuBLAS; 0 where it cannot be loaded.
double product_rate() {
  void* library = nullptr;
  for (const char* name : {"libcublas.so", "libcublas.so.13", "libcublas.so.12"})
    if (!library) library = dlopen(name, RTLD_NOW);
  if (!library) return 0.0;
  using Create = int (*)(void**);
  using Multiply = int (*)(void*, int, int, int, int, int, const void*, const void*, int, int,
                           const void*, int, int, const void*, void*, int, int, int, int);
  const auto create = reinterpret_cast<Create>(dlsym(library, "cublasCreate_v2"));
  const auto multiply = reinterpret_cast<Multiply>(dlsym(library, "cublasGemmEx"));
  void* handle = nullptr;
  if (!create || !multiply || create(&handle) != 0) return 0.0;
  constexpr int n = 8192, kFloatSums = 68, kAnyAlgorithm = -1;
  Arrays arrays;
  const void* a = arrays.numbers(Element::bfloat16, int64_t{n} * n);
  const void* b = arrays.numbers(Element::bfloat16, int64_t{n} * n);
  void* c = arrays.numbers(Element::bfloat16, int64_t{n} * n);
  const float one = 1.0f, zero = 0.0f;
  const Times times = times_of([&]() -> Status {
    return multiply(handle, 0, 0, n, n, n, &one, a, CUDA_R_16BF, n, b, CUDA_R_16BF, n, &zero, c,
                    CUDA_R_16BF, n, kFloatSums, kAnyAlgorithm);
  });
  return 2.0 * n * n * n / (times.median * 1e-3);
}

/// Prints what is outside its limit; whether nothing is.
bool check_all() {
  Report report;
  for (const auto check : {static_cast<void (*)(Report&)>(check_attention), check_norms,
                           check_cross_entropy, check_optimizer, check_glu, check_rotations,
                           check_packed_linear, check_segment_sums, check_matrix_scan})
    check(report);
  size_t bad = 0;
  for (const Finding& finding : report.findings) {
    if (finding.good()) continue;
    ++bad;
    std::printf("- %s: error %.3g, limit %.3g\n", finding.what.c_str(), finding.error,
                finding.limit);
  }
  std::printf("%zu comparisons with float64, %zu outside their limits.\n\n", report.findings.size(),
              bad);
  return bad == 0;
}

void print_table(const cudaDeviceProp& gpu) {
  const double copy = copy_rate(), product = product_rate();
  char date[32];
  const std::time_t now = std::time(nullptr);
  std::strftime(date, sizeof(date), "%Y-%m-%d", std::localtime(&now));
  std::printf("%s, %s, CUDA %d.%d. A copy of 1 GiB moves %.0f GB/s", gpu.name, date,
              CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10, copy * 1e-9);
  if (product > 0.0)
    std::printf("; cuBLAS multiplies bfloat16 8192x8192x8192 at %.0f TFLOP/s", product * 1e-12);
  std::printf(".\n\n| operator | size | ms, median | least | GB/s | of the copy | TFLOP/s |%s\n",
              product > 0.0 ? " of cuBLAS bfloat16 |" : "");
  std::printf("| --- | --- | --- | --- | --- | --- | --- |%s\n", product > 0.0 ? " --- |" : "");
  for (const auto& make : subjects()) {
    const Subject s = make(1);
    const Times times = times_of(s.run);
    const double seconds = times.median * 1e-3;
    std::printf("| %s | %s | %.3f | %.3f | %.0f | %.2f | ", s.name.c_str(), s.size.c_str(),
                times.median, times.least, s.bytes / seconds * 1e-9, s.bytes / seconds / copy);
    if (s.operations > 0.0) std::printf("%.1f", s.operations / seconds * 1e-12);
    std::printf(" |");
    if (product > 0.0 && s.operations > 0.0)
      std::printf(" %.2f |", s.operations / seconds / product);
    else if (product > 0.0)
      std::printf(" |");
    std::printf("\n");
    std::fflush(stdout);
  }
}

}  // namespace
}  // namespace formwork::cuda

int main() {
  using namespace formwork::cuda;
  cudaDeviceProp gpu;
  if (cudaGetDeviceProperties(&gpu, 0) != cudaSuccess) {
    std::fprintf(stderr, "bench/gpu: CUDA finds no GPU on this machine.\n");
    return 2;
  }
  try {
    const bool good = check_all();
    print_table(gpu);
    return good ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench/gpu: %s\n", error.what());
    return 1;
  }
}
