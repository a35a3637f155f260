// SPDX-License-Identifier: Apache-2.0
#include "flexgen/format/zip.h"

#include "support/errors.h"
#include "support/memory_file.h"
#include "support/zip_writer.h"

using namespace flexgen;
using namespace flexgen::testing;

namespace {

const std::vector<ZipItem> kTwo{{.name = "m/data.pkl", .data = "pickle", .padding = 11}, {.name = "m/data/0", .data = std::string(100, 'x')}};

size_t walk(const File& file) { return ZipArchive(file).entries().size(); }

}  // namespace

TEST_CASE("archives of every form are walked", "[format]") {
  auto sixty_four = kTwo;
  for (ZipItem& i : sixty_four) i.zip64 = true;
  auto plain = kTwo;
  for (ZipItem& i : plain) i.flags = 0;
  auto empty = kTwo;
  empty.push_back({.name = "m/data/empty", .data = ""});
  empty.push_back({.name = "m/data/empty2", .data = "", .descriptor = ""});
  auto marked = kTwo;  // every signature inside the data
  marked.push_back({.name = "m/data/1", .data = cat("PK\5\6PK\1\2PK\3\4PK\6\6PK\6\7", std::string(64, 'P'))});

  for (const auto& [items, form] : std::vector<std::pair<std::vector<ZipItem>, ZipForm>>{
           {kTwo, {}}, {kTwo, {.zip64 = true}}, {sixty_four, {.zip64 = true}}, {plain, {}}, {empty, {}}, {marked, {.zip64 = true}}, {{}, {}}}) {
    const File file = memory_file(zip_file(items, form));
    const ZipArchive zip(file);
    REQUIRE(zip.entries().size() == items.size());
    for (const ZipItem& i : items) {
      const ZipEntry* e = zip.find(i.name);
      REQUIRE(e != nullptr);
      CHECK(zip.read(*e, 1000) == i.data);
    }
    CHECK(zip.find("m") == nullptr);
  }
}

TEST_CASE("an archive that can be read in two ways is refused", "[format]") {
  const std::string good = zip_file(kTwo), good64 = zip_file(kTwo, {.zip64 = true});
  const auto with = [](ZipItem second) { return zip_file({kTwo[0], std::move(second)}); };
  const ZipItem x = kTwo[1];
  const auto changed = [&](auto change) {
    ZipItem i = x;
    change(i);
    return with(i);
  };
  const size_t central = place_of(good, "PK\1\2"), end = good.size() - 22;
  struct Case {
    std::string bytes, message;
  };
  const Case cases[] = {
      {"PK\3\4", "model.bin: not a complete zip archive: the end record is missing (truncated download?). Download it again"},
      {good.substr(0, good.size() - 1), "zip archive: bytes or a comment after the end record"},
      {good.substr(0, end), "not a complete zip archive: the end record is missing"},
      {good.substr(0, good.size() / 2), "not a complete zip archive: the end record is missing"},
      {good + "junk", "zip archive: bytes or a comment after the end record; refusing an ambiguous archive"},
      {zip_file(kTwo, {.comment = "hello"}), "zip archive: bytes or a comment after the end record"},
      {patched(good, good.size() - 2, u16(9)), "zip archive: the comment of 9 bytes is missing"},
      {good + good, "zip archive: the directory takes 110 bytes from byte 231, which does not end at its end record"},
      {zip_file(kTwo, {.before = "#!/bin/sh\n"}), "zip archive: 10 bytes at byte 0 belong to no entry; refusing an ambiguous archive"},
      {zip_file(kTwo, {.between = "junk"}), "zip archive: 20 bytes at byte 215, after entry 'm/data/0', belong to no entry"},
      {patched(good, end + 4, u16(1)), "zip archive: found a part of an archive on several disks"},
      {patched(good, end + 8, u16(1)), "zip archive: found a part of an archive on several disks"},
      {patched(patched(good, end + 8, u16(3)), end + 10, u16(3)), "zip archive: found a directory of 110 bytes, too few for 3 entries"},
      {patched(patched(good, end + 8, u16(1)), end + 10, u16(1)), "zip archive: 54 bytes of the directory belong to no entry"},
      {patched(good, central, "PK\1\3"), "zip archive: entry at byte 0 of the directory: found no header"},
      {patched(good, central + 28, u16(60000)), "zip archive: entry at byte 0 of the directory: name, extra and comment of 60000 bytes pass its end"},
      {changed([](ZipItem& i) { i.method = 8; }), "entry 'm/data/0' is compressed (method 8); PyTorch stores weights uncompressed."},
      {changed([](ZipItem& i) { i.flags = 0x0809; }), "entry 'm/data/0' is encrypted"},
      {changed([](ZipItem& i) { i.flags = 0x0848; }), "entry 'm/data/0': flags: found 0x0848, allowed 0x0808"},
      {patched(good, central + 34, u16(7)), "entry 'm/data.pkl': found on disk 7, allowed an archive of one"},
      {with(kTwo[0]), "entry 'm/data.pkl' appears twice (capitals count as small letters); refusing an ambiguous archive"},
      {changed([](ZipItem& i) { i.name = "M/Data.PKL"; }), "entry 'M/Data.PKL' appears twice (capitals count as small letters)"},
      {changed([](ZipItem& i) { i.name = "./m/data.pkl"; }), "entry './m/data.pkl': name has an empty part, '.' or '..'"},
      {changed([](ZipItem& i) { i.name = "m/../data"; }), "entry 'm/../data': name has an empty part, '.' or '..'"},
      {changed([](ZipItem& i) { i.name = "m//data"; }), "entry 'm//data': name has an empty part, '.' or '..'"},
      {changed([](ZipItem& i) { i.name = "/etc/passwd"; }), "entry '/etc/passwd': name is absolute"},
      {changed([](ZipItem& i) { i.name = "C:x"; }), "entry 'C:x': name is absolute"},
      {changed([](ZipItem& i) { i.name = "m\\data"; }), "entry 'm\\data': name has a backslash or a zero byte"},
      {changed([](ZipItem& i) { i.name = std::string("m\0\x1b[31m", 7); }), "entry 'm\\x00\\x1b[31m': name has a backslash or a zero byte"},
      {changed([](ZipItem& i) { i.name = ""; }), "entry '': name is empty"},
      {changed([](ZipItem& i) { i.name = std::string(60000, 'n'); }), "...': name is longer than 1024 bytes"},
      {changed([](ZipItem& i) { i.local_name = "m/evil/0"; }), "entry 'm/data/0': its local header says 'm/evil/0'"},
      {changed([](ZipItem& i) { i.local_name = "m/data/00"; }), "entry 'm/data/0': its local header says 'm/data/0"},
      {changed([](ZipItem& i) { i.local_flags = 0; }),
       "entry 'm/data/0': its local header has flags 0x0000 and method 0, the directory 0x0808 and 0"},
      {changed([](ZipItem& i) { i.flags = 0, i.central_size = 90; }), "entry 'm/data/0': its local header says 100 bytes"},
      {changed([](ZipItem& i) { i.central_size = 90; }), "zip archive: 26 bytes at byte 205, after entry 'm/data/0', belong to no entry"},
      {changed([](ZipItem& i) { i.central_size = 4000000; }), "entry 'm/data/0': 4000000 bytes at byte 77 pass the end of the file"},
      {changed([](ZipItem& i) { i.central_size = 200; }), "entry 'm/data/0' overlaps the directory at byte 231"},
      {zip_file({{.name = "m/data.pkl", .data = "pickle", .central_size = 50}, x}), "entries 'm/data.pkl' and 'm/data/0' overlap at byte 62"},
      {patched(good, central + 56 + 42, u32(0)), "entries 'm/data.pkl' and 'm/data/0' overlap at byte 0"},
      {patched(good, place_of(good, "PK\3\4", 1), "QK"), "entry 'm/data/0': found no local header at byte 77"},
      {changed([](ZipItem& i) { i.descriptor = cat("PK\7\10", u32(1), u32(100), u32(100)); }),
       "entry 'm/data/0': the descriptor after its data disagrees with the directory"},
      {changed([](ZipItem& i) { i.descriptor = ""; }), "zip archive: 0 bytes at byte 215, after entry 'm/data/0', belong to no entry"},
      {changed([](ZipItem& i) { i.central_size = 0xFFFFFFFF; }), "entry 'm/data/0': its zip64 size is missing"},
      {changed([](ZipItem& i) { i.central_size = 0xFFFFFFFF, i.central_extra = cat(u16(1), u16(8), u64(100)); }),
       "entry 'm/data/0': its zip64 stored size is missing"},
      {changed([](ZipItem& i) { i.central_size = 0xFFFFFFFF, i.central_extra = cat(u16(1), u16(16), u64(100), u64(99)); }),
       "entry 'm/data/0': found 99 stored bytes of 100"},
      {changed([](ZipItem& i) { i.central_extra = cat(u16(1), u16(8), "abc"); }), "entry 'm/data/0': its extra fields pass their end"},
      {changed([](ZipItem& i) { i.zip64 = true, i.central_extra = cat(u16(1), u16(0)); }), "entry 'm/data/0': found two zip64 fields, allowed one"},
      {patched(good, end + 16, u32(0xFFFFFFFF)), "zip archive: the end record refers to a zip64 record, which is missing"},
      {patched(good64, place_of(good64, "PK\6\7") + 8, u64(1ull << 60)),
       "zip archive: zip64 record: found at byte 1152921504606846976, allowed up to"},
      {patched(good64, place_of(good64, "PK\6\6") + 4, u64(43)), "zip archive: zip64 record: found none at byte"},
      {patched(good64, place_of(good64, "PK\6\6") + 16, u32(1)), "zip archive: found a part of an archive on several disks"},
      {patched(good64, place_of(good64, "PK\6\7") + 16, u32(2)), "zip archive: found a part of an archive on several disks"},
      {patched(good64, good64.size() - 10, u32(1)), "zip archive: end record and zip64 record disagree about the directory"},
      {patched(good64, place_of(good64, "PK\6\6") + 48, u64(UINT64_MAX)), "which does not end at its end record"},
  };
  for (const Case& c : cases) {
    INFO(c.message);
    const File file = memory_file(c.bytes);
    CHECK_FAULT(walk(file), Fault::checkpoint, c.message);
  }
}

TEST_CASE("too many entries are refused before they are read", "[format]") {
  std::string b = zip_file(kTwo, {.zip64 = true, .n_entries = 0xFFFF});
  b = patched(b, place_of(b, "PK\6\6") + 24, cat(u64(10'000'000), u64(10'000'000)));
  CHECK_FAULT(walk(memory_file(b)), Fault::checkpoint, "zip archive: found 10,000,000 entries, allowed 1,000,000");
}

TEST_CASE("the CRC of what is read is checked, where there is one", "[format]") {
  auto damaged = kTwo;
  damaged[1].crc = 0x99887766;
  const File file = memory_file(zip_file(damaged));
  const ZipArchive zip(file);
  CHECK_FAULT(zip.read(*zip.find("m/data/0"), 1000), Fault::checkpoint, "entry 'm/data/0' is damaged: CRC ");
  CHECK_FAULT(zip.read(*zip.find("m/data/0"), 1000), Fault::checkpoint, ", expected 99887766. Download or copy the file again");
  CHECK_FAULT(zip.read(*zip.find("m/data/0"), 99), Fault::checkpoint, "entry 'm/data/0': found 100 bytes, allowed 99");
  damaged[1].crc = 0;  // PyTorch was told not to compute it
  const File none = memory_file(zip_file(damaged));
  const ZipArchive without(none);
  CHECK(without.read(*without.find("m/data/0"), 1000) == damaged[1].data);
}

TEST_CASE("every truncation of an archive is noticed", "[format]") {
  for (const bool zip64 : {false, true}) {
    const std::string good = zip_file(kTwo, {.zip64 = zip64});
    for (size_t n = 0; n < good.size(); ++n) {
      INFO(n);
      CHECK_FAULT(walk(memory_file(good.substr(0, n))), Fault::checkpoint, "zip archive");
    }
  }
}
