// SPDX-License-Identifier: Apache-2.0
// The cache of converted folders: found again, refreshed when anything in the folder changes, safe for runs side by side. The
// converter here writes a word; test_generate.cc runs the real one through the program.
#include <sys/stat.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "support/catch.h"
#include "support/errors.h"
#include "support/temp_dir.h"
#include "tools/model_cache.h"

using namespace flexgen;
using namespace flexgen::tools;

namespace {

struct Folders {
  testing::TempDir dir;
  std::string source = std::filesystem::path(dir.write("opt tiny/config.json", "{}")).parent_path().string();
  ModelCache cache{dir / "cache/flexgen"};
  std::atomic<int> conversions{0};

  Folders() { dir.write("opt tiny/model.bin", "weights"); }

  ModelCache::Convert convert(const std::string& content = "model") {
    return [this, content](const std::string& folder, const std::string& out) {
      REQUIRE(std::filesystem::canonical(folder) == std::filesystem::canonical(source));
      std::ofstream(out, std::ios::binary) << content;
      ++conversions;
    };
  }
  ModelCache::Found get() { return cache.get(source, convert()); }
};

void set_time(const std::string& path, int64_t seconds) {
  const timespec times[2] = {{seconds, 0}, {seconds, 0}};
  REQUIRE(::utimensat(AT_FDCWD, path.c_str(), times, 0) == 0);
}

}  // namespace

TEST_CASE("a folder is converted once and found again, by any path to it") {
  Folders f;
  const auto first = f.get();
  CHECK(first.converted);
  CHECK(std::filesystem::path(first.path).parent_path().string() == f.cache.folder());
  CHECK(std::filesystem::path(first.path).filename().string().starts_with("opt_tiny-"));
  CHECK(read_text_file(first.path) == "model");
  const auto again = f.get();
  CHECK_FALSE(again.converted);
  CHECK(again.path == first.path);
  std::filesystem::create_directory_symlink(f.source, f.dir / "link");
  CHECK_FALSE(f.cache.get((f.dir / "link") + "/", f.convert()).converted);
  CHECK(f.conversions == 1);
}

TEST_CASE("any change of the folder makes the entry stale, and it is replaced in place") {
  Folders f;
  const std::string path = f.get().path;
  const auto stale = [&] {
    const auto found = f.get();
    CHECK(found.path == path);
    CHECK_FALSE(f.get().converted);
    return found.converted;
  };
  CHECK_FALSE(stale());
  f.dir.write("opt tiny/model.bin", "longer weights");
  CHECK(stale());
  set_time(f.source + "/model.bin", 1000);
  CHECK(stale());
  f.dir.write("opt tiny/config.json", "[]");  // as long as before, and with the time it had
  set_time(f.source + "/config.json", 2000);
  CHECK(stale());
  f.dir.write("opt tiny/config.json", "{}");
  set_time(f.source + "/config.json", 2000);
  CHECK(stale());
  f.dir.write("opt tiny/vocab.json", "{}");
  CHECK(stale());
  std::filesystem::rename(f.source + "/vocab.json", f.source + "/merges.txt");
  CHECK(stale());
  f.dir.write("opt tiny/.hidden", "x");
  f.dir.write("opt tiny/out.flex", "x");
  CHECK_FALSE(stale());
  CHECK(f.cache.list().size() == 1);
}

TEST_CASE("a model file or a note that was tampered with does not count") {
  Folders f;
  const std::string path = f.get().path, note = path.substr(0, path.size() - 5) + ".json";
  std::ofstream(path) << "something else";
  CHECK(f.get().converted);
  std::ofstream(note) << "{\"source\": 3";
  CHECK(f.get().converted);
  std::ofstream(note) << "{\"source\": \"x\", \"fingerprint\": 7}";
  CHECK(f.get().converted);
  std::filesystem::remove(note);
  CHECK(f.get().converted);
  std::filesystem::remove(path);
  CHECK(f.get().converted);
  CHECK_FALSE(f.get().converted);
}

TEST_CASE("a conversion that fails leaves no entry") {
  Folders f;
  f.get();
  f.dir.write("opt tiny/model.bin", "changed");
  const auto broken = [](const std::string&, const std::string&) { fail(Fault::checkpoint, "no weights"); };
  CHECK_FAULT(f.cache.get(f.source, broken), Fault::checkpoint, "no weights");
  CHECK_FAULT(f.cache.get(f.source, broken), Fault::checkpoint, "no weights");
  CHECK(f.get().converted);
}

TEST_CASE("runs side by side convert once: the others wait") {
  Folders f;
  const auto slow = [&](const std::string& folder, const std::string& out) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    f.convert()(folder, out);
  };
  std::atomic<int> converted{0}, waited{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] { converted += f.cache.get(f.source, slow, [&] { ++waited; }).converted; });
  for (auto& t : threads) t.join();
  CHECK(converted == 1);
  CHECK(f.conversions == 1);
  CHECK(waited <= 3);
}

TEST_CASE("entries are listed with source, size and last use, and removed by name, file or source") {
  Folders f;
  CHECK(f.cache.list().empty());
  CHECK_FAULT(f.cache.remove("nothing"), Fault::usage, "nothing: no such entry in " + f.cache.folder() + ". Run flexgen cache list");
  const std::string path = f.get().path;
  f.dir.write("other/config.json", "{}");
  const std::string other = f.cache.get(f.dir / "other", [&](const std::string&, const std::string& out) { std::ofstream(out) << "12"; }).path;
  set_time(path.substr(0, path.size() - 5) + ".json", 1'000'000);
  auto entries = f.cache.list();
  REQUIRE(entries.size() == 2);
  CHECK(entries[0].path == other);  // used last
  CHECK(entries[0].bytes == 2);
  CHECK(entries[1].source == std::filesystem::canonical(f.source).string());
  CHECK(entries[1].bytes == 5);
  CHECK(entries[1].last_use_s == 1'000'000);
  f.get();
  CHECK(f.cache.list()[0].last_use_s > 1'000'000);

  CHECK(f.cache.remove(entries[0].name).path == other);
  CHECK(f.cache.remove(f.source).path == path);
  CHECK(f.cache.list().empty());
  CHECK(std::filesystem::is_empty(f.cache.folder()));
  CHECK(f.cache.remove(f.get().path).path == path);
  CHECK(f.cache.remove(std::filesystem::path(f.get().path).filename().string()).path == path);
}

TEST_CASE("removing all leaves an empty folder, also of what killed runs left") {
  Folders f;
  CHECK(f.cache.remove_all().empty());
  const std::string path = f.get().path;
  f.dir.write("cache/flexgen/.dead-0123456789abcdef.flex.partial", "half");
  f.dir.write("cache/flexgen/dead-0123456789abcdef.lock", "");
  f.dir.write("cache/flexgen/orphan-0123456789abcdef.flex", "no note");
  CHECK(f.cache.list().size() == 2);
  CHECK(f.cache.remove_all().size() == 2);
  CHECK(std::filesystem::is_empty(f.cache.folder()));
}

TEST_CASE("an entry that is being converted is not removed under it") {
  Folders f;
  f.cache.get(f.source, [&](const std::string& folder, const std::string& out) {
    f.convert()(folder, out);
    CHECK_FAULT(f.cache.remove(out), Fault::locked, out + ": is being converted by another process. Wait for it");
  });
  CHECK_FALSE(f.get().converted);
}

TEST_CASE("the cache's place and its errors") {
  testing::TempDir dir;
  const std::string file = dir.write("file", "");
  const std::string source = std::filesystem::path(dir.write("m/config.json", "{}")).parent_path().string();
  CHECK_FAULT(ModelCache(file + "/flexgen").get(source, [](const auto&, const auto&) {}), Fault::io,
              "cannot be created: Not a directory. Set XDG_CACHE_HOME");
  CHECK_FAULT(ModelCache(dir / "c").get(dir / "none", [](const auto&, const auto&) {}), Fault::io,
              "none: cannot be found: No such file or directory");
}
