#include "kernels/cuda/emulation.h"

#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

namespace formwork::emulated {

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace {

constexpr int kLanes = 32, kMostThreads = 1024;
constexpr size_t kStack = size_t{1} << 17, kGuard = 64;
constexpr int kMostTurns = 1 << 24;      // of a warp between two barriers of its block
constexpr unsigned char kPoison = 0xff;  // not a number, in every element type

struct Copy {
  void* to;
  const void* from;
  int group;
};

struct Fiber {
  std::unique_ptr<unsigned char[]> stack;
  ucontext_t start;
  void* resume[5];  // as __builtin_setjmp wants it
  bool started = false, ended = true;
  int barrier = 0;  // how many barriers of the block it has reached
  std::vector<Copy> copies;
  int copy_group = 0;
};

struct Warp {
  int arrived = 0, round = 0;
  Together what = Together::barrier;
  unsigned char slots[2][kLanes * kSlot];
};

/// The block that runs.
struct Block {
  Order order = Order::ascending;
  int threads = 0, current = 0;
  int passed = 0, arrived = 0;  // barriers that all have passed; threads at the next one
  std::vector<Fiber> fibers{kMostThreads};
  std::vector<Warp> warps{kMostThreads / kLanes};
  std::vector<unsigned char> shared;
  const std::function<void()>* thread = nullptr;
  void* scheduler[5];
} block;

[[noreturn]] void stop(const char* why) {
  std::fprintf(stderr, "emulated kernel, block (%u,%u,%u) thread %d: %s\n", blockIdx.x, blockIdx.y,
               blockIdx.z, block.current, why);
  std::abort();
}

// Between a fiber's waiting and its going on others use every register, so a caller must not rely
// on what it can see of these functions (as GCC does of registers in functions of the same file).
#ifdef __clang__
#define FORMWORK_SWITCHES_FIBERS __attribute__((noinline))
#else
#define FORMWORK_SWITCHES_FIBERS __attribute__((noipa))
#endif

[[noreturn]] FORMWORK_SWITCHES_FIBERS void to_scheduler() {
  __builtin_longjmp(block.scheduler, 1);
}

FORMWORK_SWITCHES_FIBERS void yield() {
  const int self = block.current;
  if (__builtin_setjmp(block.fibers[self].resume) == 0) to_scheduler();
}

void run_thread() {
  (*block.thread)();
  Fiber& fiber = block.fibers[block.current];
  fiber.ended = true;
  if (!fiber.copies.empty()) stop("ended with copies that nobody awaited");
  to_scheduler();
}

[[noreturn]] FORMWORK_SWITCHES_FIBERS void enter(Fiber& fiber) {
  if (fiber.started) __builtin_longjmp(fiber.resume, 1);
  fiber.started = true;
  setcontext(&fiber.start);
  stop("cannot start");
}

/// Runs a fiber until it waits or ends.
FORMWORK_SWITCHES_FIBERS void run_fiber(int index) {
  block.current = index;
  threadIdx = dim3(index);
  if (__builtin_setjmp(block.scheduler) == 0) enter(block.fibers[index]);
}

bool waits_for_block(const Fiber& fiber) {
  return fiber.barrier > block.passed;
}

/// Every lane that can move moves once; whether any could.
bool run_lanes(int first) {
  bool moved = false;
  for (int i = 0; i < kLanes; ++i) {
    const int index = first + (block.order == Order::ascending ? i : kLanes - 1 - i);
    if (index >= block.threads) continue;
    const Fiber& fiber = block.fibers[index];
    if (fiber.ended || waits_for_block(fiber)) continue;
    run_fiber(index);
    moved = true;
  }
  return moved;
}

void pass_barrier_if_all_wait() {
  int live = 0, waiting = 0;
  for (int i = 0; i < block.threads; ++i) {
    const Fiber& fiber = block.fibers[i];
    live += fiber.ended ? 0 : 1;
    waiting += !fiber.ended && waits_for_block(fiber) ? 1 : 0;
  }
  if (waiting < live) stop("some threads wait for a warp that will not come");
  if (waiting < block.threads && waiting > 0) stop("a barrier that not all threads reach");
  if (waiting > 0) ++block.passed;
}

bool all_ended() {
  return std::all_of(block.fibers.begin(), block.fibers.begin() + block.threads,
                     [](const Fiber& fiber) { return fiber.ended; });
}

void prepare(Fiber& fiber) {
  if (!fiber.stack) fiber.stack.reset(new unsigned char[kStack]);
  getcontext(&fiber.start);
  fiber.start.uc_stack.ss_sp = fiber.stack.get();
  fiber.start.uc_stack.ss_size = kStack;
  fiber.start.uc_link = nullptr;
  makecontext(&fiber.start, run_thread, 0);
  fiber.started = fiber.ended = false;
  fiber.barrier = fiber.copy_group = 0;
}

void run_block(const Launch& how) {
  block.threads = how.threads;
  block.passed = 0;
  block.shared.assign(how.shared_bytes + kGuard, kPoison);
  for (int i = 0; i < how.threads; ++i) prepare(block.fibers[i]);
  for (Warp& warp : block.warps) warp.arrived = warp.round = 0;
  const int warps = (how.threads + kLanes - 1) / kLanes;
  while (!all_ended()) {
    for (int w = 0; w < warps; ++w) {
      const int first = (block.order == Order::ascending ? w : warps - 1 - w) * kLanes;
      // A lane that waits for its warp asks again in the next turn.
      for (int turns = 0; run_lanes(first); ++turns)
        if (turns > kMostTurns) stop("lanes of one warp wait for each other in different places");
    }
    pass_barrier_if_all_wait();
  }
  for (size_t i = how.shared_bytes; i < block.shared.size(); ++i)
    if (block.shared[i] != kPoison) stop("wrote behind its shared memory");
}

uint16_t half_of(uint32_t pair, int which) {
  return static_cast<uint16_t>(which ? pair >> 16 : pair);
}
float widened(uint16_t bits) {
  return __uint_as_float(static_cast<uint32_t>(bits) << 16);
}

}  // namespace

void run_in_order(Order order) {
  block.order = order;
}

void run_blocks(const Launch& how, const std::function<void()>& thread) {
  if (how.threads < 1 || how.threads > kMostThreads) stop("no such number of threads");
  gridDim = how.blocks;
  blockDim = dim3(how.threads);
  block.thread = &thread;
  const int64_t count = int64_t{1} * how.blocks.x * how.blocks.y * how.blocks.z;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t at = block.order == Order::ascending ? i : count - 1 - i;
    blockIdx.x = static_cast<unsigned>(at % how.blocks.x);
    blockIdx.y = static_cast<unsigned>(at / how.blocks.x % how.blocks.y);
    blockIdx.z = static_cast<unsigned>(at / how.blocks.x / how.blocks.y);
    run_block(how);
  }
}

unsigned char* shared_memory() {
  return block.shared.data();
}

void __syncthreads() {
  ++block.fibers[block.current].barrier;
  yield();
}

const unsigned char* exchange(Together what, const void* mine, size_t bytes) {
  const int self = block.current, first = self / kLanes * kLanes;
  Warp& warp = block.warps[self / kLanes];
  if (warp.arrived == 0) warp.what = what;
  if (warp.what != what) stop("lanes of one warp do different things together");
  const int round = warp.round;
  unsigned char* slots = warp.slots[round % 2];
  if (bytes > kSlot) stop("more than a slot holds");
  if (bytes > 0) std::memcpy(slots + (self - first) * kSlot, mine, bytes);
  if (++warp.arrived == std::min(kLanes, block.threads - first)) {
    warp.arrived = 0;
    ++warp.round;
  }
  while (warp.round == round) {
    for (int i = first; i < std::min(first + kLanes, block.threads); ++i)
      if (block.fibers[i].ended) stop("a lane ended before what its warp does together");
    yield();
  }
  return slots;
}

void multiply_16x8x16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const uint32_t mine[6] = {a[0], a[1], a[2], a[3], b0, b1};
  const unsigned char* slots = exchange(Together::multiply, mine, sizeof(mine));
  const int lane = block.current % kLanes, g = lane / 4, t = lane % 4;
  for (int e = 0; e < 4; ++e) {
    const int column = 2 * t + e % 2;
    double sum = 0.0;
    for (int k = 0; k < 16; ++k) {
      const int owner = k % 8 / 2, half = k % 2, upper = k / 8;
      uint32_t left, right;
      std::memcpy(&left, slots + (g * 4 + owner) * kSlot + 4 * (e / 2 + 2 * upper), 4);
      std::memcpy(&right, slots + (column * 4 + owner) * kSlot + 4 * (4 + upper), 4);
      sum += static_cast<double>(widened(half_of(left, half))) *
             static_cast<double>(widened(half_of(right, half)));
    }
    c[e] = static_cast<float>(static_cast<double>(c[e]) + sum);
  }
}

void load_matrices(uint32_t (&to)[4], const void* row) {
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0) stop("a matrix row that is not aligned");
  const unsigned char* slots = exchange(Together::load, &row, sizeof(row));
  const int lane = block.current % kLanes;
  for (int m = 0; m < 4; ++m) {
    const auto* from = slot_of<const unsigned char*>(slots, m * 8 + lane / 4);
    std::memcpy(&to[m], from + lane % 4 * 4, 4);
  }
}

void load_matrices_across(uint32_t (&to)[4], const void* row) {
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0) stop("a matrix row that is not aligned");
  const unsigned char* slots = exchange(Together::load, &row, sizeof(row));
  const int lane = block.current % kLanes;
  for (int m = 0; m < 4; ++m) {
    uint16_t pair[2];
    for (int i = 0; i < 2; ++i) {
      const auto* from = slot_of<const unsigned char*>(slots, m * 8 + lane % 4 * 2 + i);
      std::memcpy(&pair[i], from + lane / 4 * 2, 2);
    }
    to[m] = static_cast<uint32_t>(pair[0]) | static_cast<uint32_t>(pair[1]) << 16;
  }
}

void copy_ahead(void* to, const void* from) {
  const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  if (!aligned(to) || !aligned(from)) stop("a copy ahead that is not aligned");
  if (block.order == Order::descending) {
    std::memcpy(to, from, 16);
    return;
  }
  Fiber& fiber = block.fibers[block.current];
  fiber.copies.push_back({to, from, fiber.copy_group});
}

void end_copies() {
  ++block.fibers[block.current].copy_group;
}

void await_groups(int left) {
  Fiber& fiber = block.fibers[block.current];
  std::erase_if(fiber.copies, [&](const Copy& copy) {
    if (copy.group >= fiber.copy_group - left) return false;
    std::memcpy(copy.to, copy.from, 16);
    return true;
  });
}

}  // namespace formwork::emulated
