// SPDX-License-Identifier: Apache-2.0
// A fake card with pinned host memory behind it and a disk behind that: what a store over three tiers stands on.
#pragma once

#include "flexgen/io/device_io.h"
#include "support/fake_device.h"
#include "support/kv_cache.h"

namespace flexgen::testing {

// Host memory, pinned for as long as it lives
class PinnedBuffer {
 public:
  PinnedBuffer(Device& device, size_t bytes) : device_(device), buffer_(bytes) {
    if (bytes > 0) device_.pin(buffer_.bytes());
  }
  PinnedBuffer(const PinnedBuffer&) = delete;
  PinnedBuffer& operator=(const PinnedBuffer&) = delete;
  ~PinnedBuffer() {
    if (buffer_.size() > 0) device_.unpin(buffer_.bytes());
  }
  std::span<std::byte> bytes() const { return buffer_.bytes(); }

 private:
  Device& device_;
  Buffer buffer_;
};

struct ThreeTiersOptions {
  Lateness lateness = Lateness::late;
  uint32_t seed = 1;
  size_t unit = 4096;      // bytes of a page, or of the largest that moves at a time
  size_t device = 0, host = 0, disk = 0;  // units
  FakeFaults faults = {};  // of the disk
  int64_t fail_call = 0;   // of the card
};

struct ThreeTiers {
  explicit ThreeTiers(const ThreeTiersOptions& o)
      : card({.lateness = o.lateness, .seed = o.seed, .fail_call = o.fail_call}),
        stream(card),
        memory(card, o.device * o.unit),
        bounce(card, o.disk > 0 ? 8 * o.unit : 0),
        host(card, o.host * o.unit),
        file(spill_file(o.disk * o.unit)),
        host_offset(o.disk * o.unit),
        disk(o.seed, o.faults),
        io({.device = card,
            .compute = stream,
            .device_memory = {memory.memory()},
            .disk = o.disk > 0 ? &disk : nullptr,
            .bounce = bounce.bytes(),
            .slot_bytes = o.disk > 0 ? o.unit : 0,
            .resident = o.host > 0 ? std::vector<HostExtent>{{file.get(), host_offset, host.bytes()}} : std::vector<HostExtent>{}}) {}

  FakeDevice card;
  const DeviceStream stream;
  const DeviceMemory memory;
  const PinnedBuffer bounce, host;
  const Fd file;
  const uint64_t host_offset;
  FakeIoEngine disk;
  DeviceIoEngine io;
};

// The same for the pages of a KV store
struct KvTiers : ThreeTiers {
  explicit KvTiers(ThreeTiersOptions o) : ThreeTiers(o), n(o) {}

  KvOptions options(size_t staging, const TierShare& share, bool overlap = true, bool attend_on_host = false) {
    KvOptions o;
    o.n_layers = kLayers;
    o.layout = kLayout;
    o.frames = n.device;
    o.memory = memory.memory();
    o.device = &card;
    o.stream = stream;
    o.disk_pages = n.disk;
    o.host_pages = n.host;
    o.host_memory = host.bytes();
    o.attend_on_host = attend_on_host;
    o.staging_frames = staging;
    o.memory_share = share.device;
    o.host_share = share.host;
    o.overlap = overlap;
    o.io = &io;
    o.spill_fd = file.get();
    o.spill_name = "/spill/file";
    return o;
  }
  const ThreeTiersOptions n;
};

// A cache whose work the card does
struct CardCache : Cache {
  CardCache(KvTiers& tiers, KvOptions options) : Cache(std::move(options)) {
    launch = [&tiers](std::function<void()> w) { tiers.card.run(tiers.stream, std::move(w)); };
    finish = [&tiers] { tiers.card.synchronize_stream(tiers.stream); };
  }
};

}  // namespace flexgen::testing
