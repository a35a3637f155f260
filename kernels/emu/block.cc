// SPDX-License-Identifier: Apache-2.0
// The life of a block, and how it ends when a kernel does what it may not. See block.h.
#include "kernels/emu/block.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <new>

#include "kernels/emu/symbols.h"

extern "C" const char __executable_start, _end;  // of the program's code and data, set by the linker

namespace flexgen::emu {
namespace {

constexpr size_t kGuardBytes = 4096;
constexpr size_t kStackStride = Block::kStackBytes + kGuardBytes;
constexpr size_t kPlaceBytes = 128;  // at the top of a stack
static_assert(sizeof(Place) <= kPlaceBytes);

thread_local Block* running = nullptr;

}  // namespace

Block* running_block() { return running; }

Block::Block() {
  constexpr size_t kBytes = kStackStride * kMaxThreads;
  void* p = mmap(nullptr, kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  stacks_ = static_cast<std::byte*>(p);
}

Block::~Block() { munmap(stacks_, kStackStride * kMaxThreads); }

void Block::prepare(uint64_t index) {
  const LaunchShape& shape = launch_->shape;
  const dim3 g = shape.grid, b = shape.block;
  index_ = {static_cast<unsigned>(index % g.x), static_cast<unsigned>(index / g.x % g.y), static_cast<unsigned>(index / (uint64_t{g.x} * g.y))};
  n_threads_ = live_ = b.x * b.y * b.z;
  random_state_ = (options().seed * 0x9E3779B97F4A7C15u) ^ ((index + 1) * 0xD1B54A32D192ED03u);
  if (random_state_ == 0) random_state_ = 1;
  stopped_.reset();
  thrown_ = nullptr;
  statistics = {};
  statistics.blocks = 1;
  shared.begin_block(shape.dynamic_bytes, options().poison);
  if (race()) races.begin_block(n_threads_, kEngines);
  requests.begin_block();
  mbarriers.begin_block();

  const uint32_t n_warps = (n_threads_ + 31) / 32;
  warps_.assign(n_warps, Warp{});
  for (Barrier& barrier : barriers_) {
    barrier = Barrier{};
    barrier.waiting.assign(n_warps, 0);
    barrier.present.assign(n_warps, 0);
  }
  while (threads_.size() < n_threads_) {  // one guard page below each stack; the stacks stay for the next block
    std::byte* stack = stacks_ + kStackStride * threads_.size() + kGuardBytes;
    if (mprotect(stack, kStackBytes, PROT_READ | PROT_WRITE) != 0) throw std::bad_alloc();
    Thread& t = threads_.emplace_back();
    t.place = new (stack + kStackBytes - kPlaceBytes) Place;
  }
  for (uint32_t i = 0; i < n_threads_; ++i) {
    Thread& t = threads_[i];
    *t.place = {{i % b.x, i / b.x % b.y, i / (b.x * b.y)}, index_, b, g, i % 32, i / 32};
    t.copies.begin_block();
    t.stores = {};
    prepare_fiber(t.fiber, stacks_ + kStackStride * i + kGuardBytes, kStackBytes - kPlaceBytes, entry);
    warps_[i / 32].exist |= 1u << (i % 32);
  }
  for (Warp& w : warps_) {
    w.live = w.ready = w.exist;
    w.priority = random(1u << 30);
  }
}

void Block::entry() {
  Block& b = *running;
  b.inside = false;
  try {
    b.launch_->body(b.launch_->body_context);
  } catch (...) {
    b.inside = true;
    b.thrown_ = std::current_exception();
    switch_fiber(b.thread().fiber, b.scheduler_);
  }
  b.inside = true;
  b.leave_kernel();
  std::abort();  // a thread that left is never resumed
}

void Block::run(const Launch& launch, uint64_t index) {
  launch_ = &launch;
  prepare(index);
  inside = true;
  const auto first = pick();
  running = this;
  go_to(scheduler_, *first);  // comes back when nobody is ready: all left, all wait, or one stopped the block
  running = nullptr;
  if (thrown_) std::rethrow_exception(thrown_);
  if (stopped_) raise(*stopped_);
  if (live_ > 0) {
    Location where = mbarriers.where();
    for (const Warp& w : warps_)
      for (const Meeting& m : w.meetings)
        if (m.present != 0) where = m.where;
    for (const Barrier& barrier : barriers_)
      if (barrier.arrived > 0) where = barrier.where;
    raise({Problem::deadlock,
           {where},
           fmt::format("no thread can go on{}. Every thread that is waited for must come", who_waits()),
           fmt::format("{} of {} threads left", live_, n_threads_)});
  }
  check_end();
}

std::string Block::name_of(uint32_t thread) const {
  if (thread >= n_threads_) {
    const uint32_t engine = thread - n_threads_, first_store = MBarriers::kMost, first_matrix = first_store + kMaxWarps;
    if (engine < first_store) return "a TMA load";
    return engine < first_matrix ? fmt::format("a TMA store of warp {}", engine - first_store)
                                 : fmt::format("a wgmma of warp {}", engine - first_matrix);
  }
  const uint3 t = threads_[thread].place->thread;
  return fmt::format("thread ({},{},{})", t.x, t.y, t.z);
}

// What a block may not leave behind
void Block::check_end() const {
  const auto refuse = [&](Problem problem, const std::string& message, Location where = {}) {
    raise({problem, {where}, message, "all threads done"});
  };
  if (!mbarriers.idle()) refuse(Problem::in_flight, mbarriers.what_flies() + " when the block ends. Wait for their mbarrier", mbarriers.where());
  for (uint32_t i = 0; i < n_threads_; ++i) {
    const TensorStores& s = threads_[i].stores;
    if (s.open.empty() && s.groups.empty()) continue;
    const auto& stores = s.open.empty() ? s.groups.front() : s.open;
    refuse(Problem::in_flight, fmt::format("{} returned while its TMA stores read shared memory. Commit and wait for them", name_of(i)),
           stores.empty() ? Location{} : stores.front().copy.where);
  }
  int registers = 0;
  for (size_t i = 0; i < warps_.size(); i += 4) {
    for (size_t j = i; j < std::min(i + 4, warps_.size()); ++j) {
      const WarpgroupQueue &first = warps_[i].products, &other = warps_[j].products;
      if (other.issued != first.issued || other.registers != first.registers)
        refuse(Problem::divergence,
               fmt::format(
                   "warps {} and {} of one group executed {} and {} wgmma and have {} and {} registers. All four warps of a group must do the same",
                   i, j, first.issued, other.issued, first.registers, other.registers));
      if (other.issued != other.finished)
        refuse(Problem::in_flight, fmt::format("warp {} returned while wgmma is in flight. Commit and wait for it", j),
               other.open.empty() ? other.groups.back().back().where : other.open.front().where);
    }
    constexpr int kRegisterFile = 65536;
    const int launched = kRegisterFile / static_cast<int>((n_threads_ + 127) / 128 * 128) / 8 * 8;
    registers += warps_[i].products.registers != 0 ? warps_[i].products.registers : std::min(launched, 255);
  }
  constexpr int kOfAGroup = 65536 / 128;
  const bool changed = std::any_of(warps_.begin(), warps_.end(), [](const Warp& w) { return w.products.registers != 0; });
  if (changed && registers > kOfAGroup)
    refuse(Problem::launch,
           fmt::format("setmaxnreg gives the groups of four warps {} registers a thread in all: there are {}. Let the producer give up more",
                       registers, kOfAGroup));
}

// By a switch, not by an exception: the hooks that the compiler calls for loads and stores are declared not to throw
void Block::stop(Problem problem, const Site& site, const std::string& message) {
  stopped_ = Stop{problem, site, message, name_of(current_)};
  switch_fiber(thread().fiber, scheduler_);
  std::abort();  // a block that stopped is never resumed
}

void Block::raise(const Stop& stop) const {
  std::string kernel = symbol_of(launch_->kernel).function;
  if (kernel.empty()) kernel = "(unknown)";
  Location where = stop.site.where;
  const std::string line = line_text(where, stop.site.pc);
  const std::string message =
      fmt::format("{}: kernel {}, block ({},{},{}), {}: {}", line, kernel, index_.x, index_.y, index_.z, stop.thread, stop.message);
  if (where.file == nullptr && stop.site.pc != nullptr) where.line = symbol_of(static_cast<const char*>(stop.site.pc) - 1).line;
  throw Error(stop.problem, message, kernel, where);
}

bool Block::lands_early() {
  switch (options().async) {
    case Async::late:
      return false;
    case Async::early:
      return true;
    case Async::random:
      return random(2) == 1;
  }
  return false;
}

// Own stacks and the program's own constants and variables
bool Block::is_local(uintptr_t p) const {
  return p - reinterpret_cast<uintptr_t>(stacks_) < kStackStride * kMaxThreads ||
         p - reinterpret_cast<uintptr_t>(&__executable_start) < static_cast<size_t>(&_end - &__executable_start);
}

void Block::access(const void* p, size_t bytes, Access kind, const Site& site) {
  if (shared.contains(p)) {
    access_shared(p, bytes, kind, site);
    if (options().count) requests.shared(current_, site.key(), kind != Access::read, shared.offset(p), bytes);
    return;
  }
  const auto at = reinterpret_cast<uintptr_t>(p);
  if (is_local(at)) return;
  const GlobalBuffer* buffer = buffer_of(*launch_->buffers, at, bytes);
  if (buffer == nullptr)
    stop(Problem::out_of_bounds, site,
         fmt::format("{} {}. Guard the access; a buffer that the kernel may touch must be registered", kind == Access::read ? "reads" : "writes",
                     describe_global(*launch_->buffers, at, bytes)));
  if (options().count) requests.global(current_, site.key(), kind != Access::read, static_cast<size_t>(buffer - launch_->buffers->data()), at, bytes);
}

void Block::access_shared(const void* p, size_t bytes, Access kind, const Site& site) {
  const size_t at = shared.offset(p);
  if (shared.array_of(at, bytes) == nullptr)
    stop(Problem::out_of_bounds, site,
         fmt::format("{} {}. Check the index, and the bytes that the launch asks for", kind == Access::read ? "reads" : "writes",
                     shared.describe(at, bytes)));
  report(races.access(current_, at, bytes, kind, site), kind, bytes, site);
}

void Block::report(const Conflict& conflict, Access kind, size_t bytes, const Site& site) {
  if (conflict.kind == Conflict::Kind::none) return;
  const char* does = kind == Access::read ? "reads" : kind == Access::write ? "writes" : "changes atomically";
  const std::string what = shared.describe(conflict.offset, bytes);
  const std::string there = line_text(conflict.others_site.where, conflict.others_site.pc);
  switch (conflict.kind) {
    case Conflict::Kind::unfenced:
      stop(Problem::unfenced, site,
           fmt::format(
               "{} {} by an asynchronous engine, which {} wrote at {} without a fence. The writer calls fence_async_proxy() before the threads meet",
               does, what, name_of(conflict.other), there));
    case Conflict::Kind::uninitialised:
      stop(Problem::uninitialised, site, fmt::format("{} {}, of which nobody wrote all. Write them first", does, what));
    case Conflict::Kind::in_flight:
      stop(Problem::in_flight, site,
           fmt::format("{} {}, while the copy that {} issued at {} is in flight. Wait for it first, then let the threads meet in a barrier", does,
                       what, name_of(conflict.other), there));
    default:
      stop(Problem::race, site,
           fmt::format("{} {}, which {} {} at {}, without an order between them. Put a barrier between", does, what, name_of(conflict.other),
                       conflict.others_access == Access::read ? "reads" : "writes", there));
  }
}

}  // namespace flexgen::emu
