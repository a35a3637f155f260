// SPDX-License-Identifier: Apache-2.0
// Launches, and the session that says how they run. See emulator.h and warp.h.
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <map>
#include <mutex>
#include <numeric>
#include <thread>

#include "kernels/emu/block.h"
#include "kernels/emu/emulator.h"
#include "kernels/emu/launcher.h"
#include "kernels/emu/symbols.h"

namespace flexgen::emu {
namespace {

struct Active {
  std::mutex mutex;
  bool open = false;
  Options options;
  Statistics statistics;
  std::map<std::string, Traffic> traffic;
  std::vector<const void*> buffers;  // to unregister
};
Active& active() {
  static Active a;
  return a;
}

struct Launches {
  std::mutex mutex;
  std::shared_ptr<const GiveLaunch> give;
};
Launches& launches() {
  static Launches l;
  return l;
}

// PTX ISA and CUDA programming guide, "Technical specifications per compute capability"
size_t shared_limit(int sm) {
  switch (sm) {
    case 75:
      return size_t{64} << 10;
    case 80:
      return size_t{163} << 10;
    case 86:
    case 89:
      return size_t{99} << 10;
    case 90:
      return size_t{227} << 10;
    default:
      return 0;
  }
}

void check(const Launch& launch) {
  const LaunchShape& s = launch.shape;
  const auto refuse = [&](const std::string& what) {
    const std::string kernel = symbol_of(launch.kernel).function;
    throw Error(Problem::launch, fmt::format("kernel {}: {}", kernel, what), kernel, {});
  };
  const size_t limit = shared_limit(launch.options.sm);
  if (limit == 0) refuse(fmt::format("sm_{}: found, allowed 75, 80, 86, 89, 90", launch.options.sm));
  const uint64_t threads = uint64_t{s.block.x} * s.block.y * s.block.z;
  if (threads == 0 || threads > Block::kMaxThreads) refuse(fmt::format("block of {} threads: allowed 1 to {}", threads, Block::kMaxThreads));
  if (s.block.z > 64) refuse(fmt::format("block of {} threads in z: allowed up to 64", s.block.z));
  if (s.grid.x == 0 || s.grid.y == 0 || s.grid.z == 0 || s.grid.x > 2147483647u || s.grid.y > 65535 || s.grid.z > 65535)
    refuse(fmt::format("grid of {} x {} x {} blocks: allowed 1 to 2147483647 x 65535 x 65535", s.grid.x, s.grid.y, s.grid.z));
  if (s.dynamic_bytes > limit)
    refuse(fmt::format("{} bytes of dynamic shared memory: sm_{} has {} for a block", s.dynamic_bytes, launch.options.sm, limit));
}

// Any order is one that a card may take
std::vector<uint64_t> block_order(const Options& options, uint64_t n) {
  std::vector<uint64_t> order(n);
  std::iota(order.begin(), order.end(), uint64_t{0});
  if (options.order == Order::lifo) std::reverse(order.begin(), order.end());
  if (options.order == Order::random || options.order == Order::priority) {
    uint64_t state = options.seed * 0x9E3779B97F4A7C15u + 1;
    for (uint64_t i = n; i > 1; --i) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      std::swap(order[i - 1], order[(state >> 33) % i]);
    }
  }
  return order;
}

Block& block_of_this_thread() {
  static thread_local Block block;
  return block;
}

}  // namespace

Statistics& Statistics::operator+=(const Statistics& o) {
  blocks += o.blocks;
  switches += o.switches;
  barriers += o.barriers;
  meetings += o.meetings;
  mma += o.mma;
  ldmatrix += o.ldmatrix;
  ldmatrix_conflicts += o.ldmatrix_conflicts;
  async_copies += o.async_copies;
  tma_copies += o.tma_copies;
  mbarrier_phases += o.mbarrier_phases;
  wgmma += o.wgmma;
  shared_requests += o.shared_requests;
  shared_conflicts += o.shared_conflicts;
  global_requests += o.global_requests;
  global_sectors += o.global_sectors;
  return *this;
}

Traffic& Traffic::operator+=(const Traffic& o) {
  reads += o.reads;
  sectors_read += o.sectors_read;
  bytes_read += o.bytes_read;
  writes += o.writes;
  sectors_written += o.sectors_written;
  bytes_written += o.bytes_written;
  return *this;
}

Session::Session(Options options) : options_(options) {
  Active& a = active();
  const std::lock_guard lock(a.mutex);
  if (a.open) throw std::logic_error("emu::Session: another one is open. End it first");
  a.open = true;
  a.options = options;
  a.statistics = {};
  a.traffic.clear();
}

Session::~Session() {
  Active& a = active();
  const std::lock_guard lock(a.mutex);
  for (const void* p : a.buffers) unregister_global(p);
  a.buffers.clear();
  a.options = {};
  a.open = false;
}

Statistics Session::statistics() const {
  Active& a = active();
  const std::lock_guard lock(a.mutex);
  return a.statistics;
}

Traffic Session::traffic(const std::string& buffer) const {
  Active& a = active();
  const std::lock_guard lock(a.mutex);
  const auto found = a.traffic.find(buffer);
  return found == a.traffic.end() ? Traffic{} : found->second;
}

void Session::add(const void* data, size_t bytes, std::string name) {
  register_global(data, bytes, std::move(name));
  Active& a = active();
  const std::lock_guard lock(a.mutex);
  a.buffers.push_back(data);
}

Launcher::Launcher(GiveLaunch give) {
  const std::lock_guard lock(launches().mutex);
  if (launches().give) throw std::logic_error("emu::Launcher: another one gets the launches. End it first");
  launches().give = std::make_shared<const GiveLaunch>(std::move(give));
}

Launcher::~Launcher() {
  const std::lock_guard lock(launches().mutex);
  launches().give = nullptr;
}

void launch(void* stream, std::function<void()> kernel) {
  std::shared_ptr<const GiveLaunch> give;
  {
    const std::lock_guard lock(launches().mutex);
    give = launches().give;
  }
  if (give) return (*give)(stream, std::move(kernel));
  kernel();
}

void run(const LaunchShape& shape, KernelBody body, void* context, const void* kernel, bool hooked) {
  Launch launch{shape, body, context, kernel, {}, global_buffers()};
  {
    const std::lock_guard lock(active().mutex);
    launch.options = active().options;
  }
  check(launch);
  if ((launch.options.race || launch.options.count) && !(launch.options.race && hooked)) {
    const std::string name = symbol_of(kernel).function;
    throw Error(Problem::launch,
                fmt::format("kernel {}: {}", name,
                            launch.options.race ? "race mode would not see its loads and stores. Compile it with -fsanitize=thread"
                                                : "counts need race mode. Set Options::race too"),
                name, {});
  }
  const auto order = block_order(launch.options, uint64_t{shape.grid.x} * shape.grid.y * shape.grid.z);
  std::atomic<size_t> next{0};
  std::mutex mutex;
  std::exception_ptr error;
  Statistics sum;
  std::vector<Traffic> traffic(launch.buffers->size());
  const auto work = [&] {
    Statistics own;
    std::vector<Traffic> own_traffic(traffic.size());
    try {
      Block& block = block_of_this_thread();
      for (size_t i = 0; (i = next.fetch_add(1)) < order.size();) {
        block.run(launch, order[i]);
        if (launch.options.count) block.requests.finish(block.statistics, own_traffic);
        own += block.statistics;
      }
    } catch (...) {
      next = order.size();
      const std::lock_guard lock(mutex);
      if (!error) error = std::current_exception();
    }
    const std::lock_guard lock(mutex);
    sum += own;
    for (size_t i = 0; i < traffic.size(); ++i) traffic[i] += own_traffic[i];
  };
  const auto workers = std::min<size_t>(static_cast<size_t>(std::max(launch.options.os_threads, 1)), order.size());
  if (workers <= 1) {
    work();
  } else {
    std::vector<std::jthread> threads;
    for (size_t i = 0; i < workers; ++i) threads.emplace_back(work);
  }
  {
    const std::lock_guard lock(active().mutex);
    active().statistics += sum;
    if (launch.options.count)
      for (size_t i = 0; i < traffic.size(); ++i) active().traffic[(*launch.buffers)[i].name] += traffic[i];
  }
  if (error) std::rethrow_exception(error);
}

void meet(WarpOperation operation, int variant, uint32_t mask, void* argument, MeetingBody body, Location where) {
  const Inside inside;
  inside.block.meet(operation, variant, mask, argument, body, where);
}

int barrier(uint32_t id, uint32_t threads, BarrierOperation operation, int predicate, Location where) {
  const Inside inside;
  return inside.block.barrier(id, threads, operation, predicate, where);
}

void* static_shared(const void* key, const char* name, size_t bytes, size_t alignment, Location where) {
  const Inside inside;
  Block& b = inside.block;
  const size_t limit = std::max(shared_limit(b.options().sm), b.launch().shape.dynamic_bytes);
  void* p = b.shared.static_array(key, name, bytes, alignment, limit);
  if (p == nullptr)
    b.stop(Problem::launch, {where},
           fmt::format("{} of {} bytes does not fit the {} bytes of shared memory that a block has on sm_{}", name, bytes, limit, b.options().sm));
  return p;
}

void* dynamic_shared() { return running_block()->shared.dynamic_array(); }

const Place& place() { return *running_block()->thread().place; }

}  // namespace flexgen::emu
