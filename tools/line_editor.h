// SPDX-License-Identifier: Apache-2.0
// A line from the user: edited, with history, on a terminal; plain lines of standard input elsewhere.
#pragma once

#include <histedit.h>
#include <poll.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <clocale>
#include <cstdio>
#include <cstdlib>
#include <cwchar>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

#include "flexgen/base/error.h"
#include "tools/line_reader.h"

namespace flexgen::tools {

// $XDG_STATE_HOME/flexgen/history, or ~/.local/state/flexgen/history; empty where neither place is known
inline std::string history_path() {
  const auto absolute = [](const char* name) {
    const char* value = std::getenv(name);
    return value && *value == '/' ? std::string(value) : std::string();
  };
  if (const std::string state = absolute("XDG_STATE_HOME"); !state.empty()) return state + "/flexgen/history";
  if (const std::string home = absolute("HOME"); !home.empty()) return home + "/.local/state/flexgen/history";
  return "";
}

// thread: one at a time; one object for the process, because the terminal is the process's.
class LineEditor {
 public:
  // end: set when the process is asked to end; outlives this. history: file that keeps lines between runs, made with its folders; where that is not
  // possible, or empty, lines are kept for this run only
  LineEditor(std::string prompt, std::string history, const std::atomic<bool>& end)
      : prompt_(std::move(prompt)), history_path_(std::move(history)), end_(end) {
    if (::isatty(STDIN_FILENO) != 1 || ::isatty(STDOUT_FILENO) != 1) {
      lines_ = LineReader::open("-");
      return;
    }
    // libedit decodes bytes as the locale says: UTF-8, also where none is set
    if (!std::setlocale(LC_CTYPE, "") || MB_CUR_MAX == 1) std::setlocale(LC_CTYPE, "C.UTF-8");
    edit_.reset(el_init("flexgen", stdin, stdout, stderr));
    log_.reset(history_init());
    if (!edit_ || !log_) fail(Fault::io, "standard input: the terminal cannot be set up for editing");
    HistEvent event;
    ::history(log_.get(), &event, H_SETSIZE, 1000);
    ::history(log_.get(), &event, H_SETUNIQUE, 1);
    if (!history_path_.empty()) ::history(log_.get(), &event, H_LOAD, history_path_.c_str());  // there may be none yet
    el_set(edit_.get(), EL_CLIENTDATA, this);
    el_set(edit_.get(), EL_PROMPT, +[](EditLine* e) { return self(e).prompt_.data(); });
    el_set(edit_.get(), EL_HIST, ::history, log_.get());
    el_set(edit_.get(), EL_EDITOR, "emacs");
    el_set(edit_.get(), EL_GETCFN, &LineEditor::read_character);
    // While a line is edited Ctrl-C is a key like others; afterwards it is a signal again.
    el_set(edit_.get(), EL_SETTY, "-d", "-isig", nullptr);
    el_set(edit_.get(), EL_ADDFN, "flexgen-clear", "Start the line anew", +[](EditLine* e, int) -> unsigned char {
      self(e).cleared_ = true;
      return CC_NEWLINE;
    });
    el_set(edit_.get(), EL_BIND, "^C", "flexgen-clear", nullptr);
    el_set(edit_.get(), EL_BIND, "^R", "em-inc-search-prev", nullptr);
  }

  // The line without its end; nullopt after Ctrl-D on an empty line, or at the end of the input. Ctrl-C starts the line anew.
  // throws Fault::interrupted when the process is asked to end, Fault::usage for a line over LineReader's limit
  std::optional<std::string> next() {
    if (lines_) {
      const auto line = lines_->next();
      return line ? std::optional(std::string(*line)) : std::nullopt;
    }
    for (;;) {
      cleared_ = false;
      int n = 0;
      el_set(edit_.get(), EL_PREP_TERM, 1);  // before the prompt is shown: from then on Ctrl-C is a key
      const char* const text = el_gets(edit_.get(), &n);
      if (end_) fail(Fault::interrupted, "interrupted");
      if (!text || n <= 0) return std::nullopt;
      if (cleared_) {
        std::fputs("^C\n", stdout);
        continue;
      }
      std::string line(text, static_cast<size_t>(n));
      while (line.ends_with('\n') || line.ends_with('\r')) line.pop_back();
      if (!line.empty()) remember(line);
      return line;
    }
  }

  bool on_terminal() const { return edit_ != nullptr; }

 private:
  static LineEditor& self(EditLine* edit) {
    void* data = nullptr;
    el_get(edit, EL_CLIENTDATA, &data);
    return *static_cast<LineEditor*>(data);
  }

  // One character from the terminal, for libedit, whose own reader would not end on a signal: 1, 0 at the end, -1 for an error
  static int read_character(EditLine* edit, wchar_t* out) {
    constexpr int kLook_ms = 250;  // a signal that came before the wait began is seen that late
    std::mbstate_t state{};
    while (!self(edit).end_) {
      pollfd ready{STDIN_FILENO, POLLIN, 0};
      if (::poll(&ready, 1, kLook_ms) <= 0) continue;
      char byte = 0;
      const ssize_t n = ::read(STDIN_FILENO, &byte, 1);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return static_cast<int>(n);
      const size_t used = std::mbrtowc(out, &byte, 1, &state);
      if (used == static_cast<size_t>(-2)) continue;  // more bytes belong to it
      if (used == static_cast<size_t>(-1)) state = {};  // no character of the locale: left out
      else return 1;
    }
    return -1;
  }

  // The file is rewritten after each line, so that a killed program loses none.
  void remember(const std::string& line) {
    HistEvent event;
    ::history(log_.get(), &event, H_ENTER, line.c_str());
    if (history_path_.empty()) return;
    std::error_code ignored;
    std::filesystem::create_directories(std::filesystem::path(history_path_).parent_path(), ignored);
    ::history(log_.get(), &event, H_SAVE, history_path_.c_str());  // mode 0600; a full disk must not end a dialogue
  }

  struct End {
    void operator()(EditLine* e) const noexcept { el_end(e); }
    void operator()(History* h) const noexcept { history_end(h); }
  };

  std::string prompt_;
  std::string history_path_;
  const std::atomic<bool>& end_;
  std::optional<LineReader> lines_;  // where there is no terminal
  std::unique_ptr<History, End> log_;
  std::unique_ptr<EditLine, End> edit_;  // uses log_
  bool cleared_ = false;
};

}  // namespace flexgen::tools
