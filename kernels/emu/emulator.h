// SPDX-License-Identifier: Apache-2.0
// CUDA kernels on a CPU, to prove them without a card. A kernel is compiled by g++ with kernels/cuda/core/vocab.h, every CUDA thread
// of a block runs as a fiber, and the emulator picks who runs next, when asynchronous copies land, and what unwritten memory holds:
// always something that a card may do too, chosen to hurt. In race mode, which needs a kernel compiled with -fsanitize=thread but
// linked without its library, it also sees every plain load and store: races, uninitialised shared memory, accesses out of bounds.
//
// A test opens a Session, registers its global buffers, launches through flexgen::cuda::launch, and compares results. Anything that
// a kernel may not do ends the launch with an emu::Error that names kernel, block, thread, line and what to do.
//
// What it does not show:
// - Memory is sequentially consistent. A missing __threadfence between blocks goes unseen, and so does a race between blocks on
//   global memory unless it changes a result. Within a block, shared memory is checked by happens-before, not by luck.
// - Blocks of a launch run to completion, each on one thread of the CPU. A kernel that waits for another block hangs on a card with
//   few multiprocessors and is reported as a deadlock here only if it waits in a barrier; a spin on global memory hangs.
// - mma adds 16 products in fp32 in k order to the accumulator; a card rounds otherwise, so equal bits need exact inputs.
// - No time. Counters (ldmatrix conflicts, and in race mode bank conflicts and sectors a request) stand in for measurements. g++ may
//   split a plain load of float4 into four; cuda::load, cuda::store and __ldg count as one request, as on a card.
// - Inline copies that g++ compiles to a call of memcpy or memset are not seen in race mode. Kernels assign.
// - A barrier or warp operation is known by its line: two on one line look like one, and threads of a block that meet in one barrier
//   from two lines, which a card allows, are reported. Both are rules worth keeping in kernels.
// - TMA copies boxes of matrices, with 128-byte swizzle or none; wgmma takes both operands from shared memory with that swizzle, k next to
//   each other. Clusters, multicast, im2col and other layouts are not there. Each warp of a group does its part of a wgmma alone: that
//   all four warps take part is checked when the block ends.
// - Registers are not modelled: an uninitialised local variable is the compiler's warning, spills are ptxas's report.
// - A thread has 128 KiB of stack, with a guard page behind: more ends the process with a segmentation fault.
// - What a kernel owns when it is stopped by an error is not destroyed; kernels own nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/emu/location.h"

namespace flexgen::emu {

enum class Order {
  fifo,      // lowest warp and lane first
  lifo,      // highest first: one warp sprints ahead of all others
  random,    // any ready thread after every meeting
  priority,  // warps have random priorities that change now and then (after "A randomized scheduler with probabilistic guarantees", ASPLOS 2010)
};
enum class Async {
  late,    // bytes land when they are waited for
  early,   // bytes land when the copy is issued
  random,  // each copy one or the other
};

struct Options {
  Order order = Order::random;
  Async async = Async::random;
  uint64_t seed = 1;   // repeats a run exactly, with one OS thread or many
  int os_threads = 1;  // blocks of a launch are spread over this many
  bool poison = true;  // shared memory starts as 0xFF bytes (NaN in every float type), and so does the target of a copy until it lands
  bool race = false;   // check every access; the kernel must be compiled with -fsanitize=thread
  bool count = false;  // in race mode: also count requests, bank conflicts and sectors
  int sm = 90;         // 75, 80, 86, 89, 90: which instructions exist and how much shared memory a block may have
};

// Sums over all blocks of all launches of a session
struct Statistics {
  uint64_t blocks = 0;
  uint64_t switches = 0;  // from one CUDA thread to another
  uint64_t barriers = 0;  // completed __syncthreads and named barriers
  uint64_t meetings = 0;  // completed warp operations
  uint64_t mma = 0;
  uint64_t ldmatrix = 0;            // warp instructions
  uint64_t ldmatrix_conflicts = 0;  // rows of an 8x8 matrix that share banks with an earlier row of it: extra passes
  uint64_t async_copies = 0;        // a thread's cp.async
  uint64_t tma_copies = 0;          // boxes loaded and stored
  uint64_t mbarrier_phases = 0;     // completed
  uint64_t wgmma = 0;               // instructions of a warp: four for a group
  // With Options::count. A request is what a warp's lanes do in one load, store or atomic; ldmatrix has its own counters above.
  uint64_t shared_requests = 0;
  uint64_t shared_conflicts = 0;  // passes through the banks beyond those that the bytes need
  uint64_t global_requests = 0;
  uint64_t global_sectors = 0;  // of 32 bytes

  Statistics& operator+=(const Statistics& other);
};

// With Options::count: what kernels did to one global buffer. Sectors of 32 bytes; fully used ones mean sectors * 32 == bytes.
struct Traffic {
  uint64_t reads = 0, sectors_read = 0, bytes_read = 0;
  uint64_t writes = 0, sectors_written = 0, bytes_written = 0;  // atomics too

  Traffic& operator+=(const Traffic& other);
};

enum class Problem {
  race,           // shared memory touched without an order between the threads
  in_flight,      // memory touched while an asynchronous copy or matrix instruction still uses it
  unfenced,       // an asynchronous engine touches what ordinary code wrote, without the fence between the two
  uninitialised,  // shared memory read before anybody wrote it
  out_of_bounds,  // shared or global memory outside every array
  alignment,      // an address that the instruction cannot take
  deadlock,       // no thread can go on
  divergence,     // a barrier or warp operation that not all threads reach alike
  launch,         // a grid, block or shared memory that no card takes
  unsupported,    // an instruction that the card of Options::sm lacks
};

class Error : public std::runtime_error {
 public:
  Error(Problem what, const std::string& message, std::string kernel_name, Location location)
      : std::runtime_error(message), problem(what), kernel(std::move(kernel_name)), where(location) {}

  Problem problem;
  std::string kernel;
  Location where;  // file nullptr where a plain access could not be resolved to a line
};

// What launches use while it lives; without one, launches run with Options{}. One at a time in a process, any thread may launch.
// In race mode every global buffer that a kernel touches must be registered.
class Session {
 public:
  explicit Session(Options options = {});
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  const Options& options() const { return options_; }
  Statistics statistics() const;
  Traffic traffic(const std::string& buffer) const;  // zeros for a name that no kernel touched

  template <typename T>
  void add(const std::vector<T>& buffer, std::string name = "buffer") {
    add(buffer.data(), buffer.size() * sizeof(T), std::move(name));
  }
  void add(const void* data, size_t bytes, std::string name);

 private:
  Options options_;
};

// Global memory by hand, for device allocators of tests. A registered range must not overlap another.
void register_global(const void* data, size_t bytes, std::string name);
void unregister_global(const void* data);

}  // namespace flexgen::emu
