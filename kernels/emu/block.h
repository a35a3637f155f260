// SPDX-License-Identifier: Apache-2.0
// One block that runs: its threads, who of them may go on, the barriers and warp operations in which they meet. Internal to the
// emulator: kernels see kernels/emu/device.h, tests see emulator.h.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kernels/emu/async_copy.h"
#include "kernels/emu/emulator.h"
#include "kernels/emu/fiber.h"
#include "kernels/emu/global_memory.h"
#include "kernels/emu/mbarrier.h"
#include "kernels/emu/place.h"
#include "kernels/emu/race.h"
#include "kernels/emu/requests.h"
#include "kernels/emu/shared_memory.h"
#include "kernels/emu/warp.h"
#include "kernels/emu/wgmma.h"

namespace flexgen::emu {

// TMA stores of one thread
struct TensorStores {
  struct Store {
    BoxCopy copy;
    Clocks::Time time;  // of the warp's store engine
    bool landed = false;
  };
  std::vector<Store> open;
  std::deque<std::vector<Store>> groups;
};

struct Thread {
  Fiber fiber;
  Place* place = nullptr;  // on its stack, where race mode does not look
  AsyncCopies copies;
  TensorStores stores;
};

// Lanes of one warp that come together for one operation
struct Meeting {
  uint32_t wanted = 0;  // lanes of the mask that the kernel gave
  uint32_t present = 0;
  WarpOperation operation = WarpOperation::sync;
  int variant = 0;
  Location where;
};

struct Warp {
  uint32_t exist = 0;  // a block of 40 threads has 8 in its second warp
  uint32_t live = 0;   // did not return from the kernel
  uint32_t ready = 0;  // can go on
  uint64_t priority = 0;
  std::array<Meeting, 8> meetings;
  std::array<void*, 32> arguments{};
  WarpgroupQueue products;
  Clocks::Time stores = 0;  // TMA stores issued by its threads
};

struct Barrier {
  uint32_t arrived = 0;
  uint32_t wanted = 0;  // 0: all threads that live
  uint32_t true_predicates = 0;
  int result = 0;
  BarrierOperation operation = BarrierOperation::sync;
  Location where;
  std::vector<uint32_t> waiting;  // a mask of lanes for each warp
  std::vector<uint32_t> present;  // ... who arrived, whether they wait or not
  std::vector<uint32_t> members;  // ... the same as indices of threads
};

// What all blocks of a launch share
struct Launch {
  LaunchShape shape;
  KernelBody body = nullptr;
  void* body_context = nullptr;
  const void* kernel = nullptr;
  Options options;
  std::shared_ptr<const GlobalBuffers> buffers;
};

class Block {
 public:
  static constexpr uint32_t kMaxThreads = 1024;
  static constexpr size_t kStackBytes = size_t{128} << 10;
  static constexpr uint32_t kBarriers = 16;  // bar.sync 0 to 15
  static constexpr uint32_t kMaxWarps = kMaxThreads / 32;

  Block();
  ~Block();
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;

  // Runs block number `index` of the launch to its end. Throws emu::Error.
  void run(const Launch& launch, uint64_t index);

  // For code on fibers: the calling thread
  Thread& thread() { return threads_[current_]; }
  uint32_t thread_index() const { return current_; }
  Warp& warp() { return warps_[current_ / 32]; }
  uint32_t lane_bit() const { return 1u << (current_ % 32); }

  void meet(WarpOperation operation, int variant, uint32_t mask, void* argument, MeetingBody body, Location where);
  int barrier(uint32_t id, uint32_t threads, BarrierOperation operation, int predicate, Location where);
  void sleep() { yield(); }  // until wake()
  void wake(uint32_t thread) { warps_[thread / 32].ready |= 1u << (thread % 32); }
  [[noreturn]] void stop(Problem problem, const Site& site, const std::string& message);

  // In race mode: a plain access of the calling thread, to whatever memory
  void access(const void* p, size_t bytes, Access kind, const Site& site);
  // ... known to be to shared memory
  void access_shared(const void* p, size_t bytes, Access kind, const Site& site);
  void report(const Conflict& conflict, Access kind, size_t bytes, const Site& site);

  // Who reads and writes shared memory for threads, as actors of the race checker: the copy engine of an mbarrier, and for each warp one
  // for TMA stores and one for wgmma
  Clocks::Actor engine(uint32_t mbarrier) const { return n_threads_ + mbarrier; }
  Clocks::Actor store_engine() const { return n_threads_ + static_cast<uint32_t>(MBarriers::kMost) + current_ / 32; }
  Clocks::Actor matrix_engine() const { return store_engine() + kMaxWarps; }
  static constexpr uint32_t kEngines = static_cast<uint32_t>(MBarriers::kMost) + 2 * kMaxWarps;

  const Launch& launch() const { return *launch_; }
  const Options& options() const { return launch_->options; }
  bool race() const { return launch_->options.race; }
  uint32_t random(uint32_t n);
  bool lands_early();
  std::string name_of(uint32_t thread) const;  // "thread (3,0,0)"

  SharedMemory shared;
  RaceChecker races;
  RequestCounter requests;
  MBarriers mbarriers{*this};
  Statistics statistics;
  bool inside = false;  // the emulator's own code runs: its loads and stores are not the kernel's

 private:
  static void entry();
  void prepare(uint64_t index);
  std::optional<uint32_t> pick();
  std::optional<uint32_t> next();
  uint32_t pick_lane(uint32_t ready);
  void yield();
  void go_to(Fiber& from, uint32_t thread);
  void leave_kernel();
  void complete(Barrier& barrier);
  void complete(Warp& warp, uint32_t warp_index, Meeting& meeting, MeetingBody body);
  void make_ready(const Barrier& barrier);
  std::string who_waits() const;
  void check_end() const;
  bool is_local(uintptr_t p) const;

  struct Stop {
    Problem problem;
    Site site;
    std::string message;
    std::string thread;
  };
  [[noreturn]] void raise(const Stop& stop) const;

  const Launch* launch_ = nullptr;
  uint3 index_{};
  std::byte* stacks_ = nullptr;
  Fiber scheduler_;
  uint32_t current_ = 0;
  uint32_t n_threads_ = 0;
  uint32_t live_ = 0;
  uint64_t random_state_ = 0;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  std::array<Barrier, kBarriers> barriers_;
  std::optional<Stop> stopped_;
  std::exception_ptr thrown_;  // by a kernel, which must not
};

// The block whose thread runs on this thread of the CPU; nullptr outside of kernels
Block* running_block();

// While one lives, the calling thread is in the emulator. Every function that kernels call begins with one: the linker may give the
// emulator a function of the standard library that was compiled, with hooks, for a kernel's file. Threads switch only inside.
class Inside {
 public:
  Inside() : block(*running_block()), before_(block.inside) { block.inside = true; }
  ~Inside() { block.inside = before_; }
  Inside(const Inside&) = delete;
  Inside& operator=(const Inside&) = delete;

  Block& block;

 private:
  bool before_;
};

}  // namespace flexgen::emu
