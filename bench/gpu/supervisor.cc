// SPDX-License-Identifier: Apache-2.0
#include "bench/gpu/supervisor.h"

#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <optional>

#include "bench/harness.h"

namespace flexgen::bench {
namespace {

constexpr int kNoCard = 77;  // exit code of the process of jobs

// What a job found; a fault of the card is passed on, since nothing runs on it from then on
void run_job(const Job& job, Session& session) {
  try {
    job.run(session);
    session.device().synchronize_stream(session.stream());
  } catch (const Error& e) {
    if (e.fault() == Fault::gpu) throw;
    if (e.fault() == Fault::space) session.emit(Skipped{job.name, e.what()});
    else session.emit(Check{job.name, 0, 1, e.what()});
  } catch (const std::exception& e) {
    session.emit(Check{job.name, 0, 1, e.what()});
  }
}

void take(Results& results, const Json& found) {
  if (found.contains("card")) results.card = found["card"];
  else if (found.contains("row")) results.rows.push_back(found["row"].get<Row>());
  else if (found.contains("check")) results.checks.push_back(found["check"].get<Check>());
  else if (found.contains("skipped")) results.skipped.push_back(found["skipped"].get<Skipped>());
}

// --- the process of jobs

void write_line(int fd, const Json& message) {
  const std::string line = message.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  for (size_t at = 0; at < line.size();) {
    const ssize_t n = ::write(fd, line.data() + at, line.size() - at);
    if (n < 0 && errno != EINTR) ::_exit(1);  // nobody listens
    if (n > 0) at += static_cast<size_t>(n);
  }
}

[[noreturn]] void child(const std::vector<Job>& jobs, size_t first, const MakeSession& make, int fd) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // nothing stays behind when the parent is killed
  int rc = 0;
  try {
    std::string why_not;
    const std::unique_ptr<Session> session = make([fd](const Json& found) { write_line(fd, found); }, why_not);
    if (!session) {
      write_line(fd, {{"no_card", why_not}});
      rc = kNoCard;
    } else {
      for (size_t i = first; i < jobs.size(); ++i) {
        write_line(fd, {{"begin", i}});
        run_job(jobs[i], *session);
        std::fflush(nullptr);
      }
    }
  } catch (const std::exception& e) {
    write_line(fd, {{"died", e.what()}});
    rc = 1;
  }
  std::fflush(nullptr);
  ::_exit(rc);  // without destructors of the parent's things
}

// --- its parent

class Worker {
 public:
  Worker(const std::vector<Job>& jobs, size_t first, const MakeSession& make) {
    int ends[2];
    if (::pipe(ends) != 0) fail(Fault::io, "pipe: {}", std::strerror(errno));
    std::fflush(nullptr);
    pid_ = ::fork();
    if (pid_ < 0) fail(Fault::io, "fork: {}", std::strerror(errno));
    if (pid_ == 0) {
      ::close(ends[0]);
      child(jobs, first, make, ends[1]);
    }
    ::close(ends[1]);
    from_ = ends[0];
  }
  ~Worker() {
    if (pid_ > 0) end();
    ::close(from_);
  }
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  enum class Said { line, nothing, ended };
  // The next line, or nothing until the time given
  Said next(double until, std::string& line) {
    for (;;) {
      if (const size_t end = buffer_.find('\n'); end != std::string::npos) {
        line = buffer_.substr(0, end);
        buffer_.erase(0, end + 1);
        return Said::line;
      }
      const double left = until - seconds_now();
      if (left <= 0) return Said::nothing;
      pollfd p{from_, POLLIN, 0};
      if (::poll(&p, 1, static_cast<int>(std::min(left, 3600.0) * 1000) + 1) <= 0) continue;
      char chunk[4096];
      const ssize_t n = ::read(from_, chunk, sizeof chunk);
      if (n > 0) buffer_.append(chunk, static_cast<size_t>(n));
      else if (n == 0 || errno != EINTR) return Said::ended;
    }
  }
  // Kills it if it still runs; how it ended
  std::string end(bool kill = true) {
    if (kill) ::kill(pid_, SIGKILL);
    int status = 0;
    while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {}
    pid_ = 0;
    if (WIFSIGNALED(status)) return fmt::format("killed by signal {} ({})", WTERMSIG(status), ::strsignal(WTERMSIG(status)));
    return fmt::format("exit code {}", WEXITSTATUS(status));
  }

 private:
  pid_t pid_ = 0;
  int from_ = -1;
  std::string buffer_;
};

Supervised here(const std::vector<Job>& jobs, const MakeSession& make, const Limits& limits, const Progress& progress) {
  Supervised s;
  std::string job;
  const auto found = [&](const Json& what) {
    take(s.results, what);
    progress(job, &what);
  };
  const std::unique_ptr<Session> session = make(found, s.why_not);
  if (!session) {
    s.no_card = true;
    return s;
  }
  const double end = seconds_now() + limits.seconds;
  for (const Job& j : jobs) {
    job = j.name;
    if (seconds_now() > end) {
      s.results.skipped.push_back({job, "time was up"});
      continue;
    }
    progress(job, nullptr);
    run_job(j, *session);
  }
  return s;
}

}  // namespace

Supervised supervise(const std::vector<Job>& jobs, const MakeSession& make, const Limits& limits, const Progress& progress) {
  if (limits.one_process) return here(jobs, make, limits, progress);
  Supervised s;
  const double end = seconds_now() + limits.seconds;
  const auto skip_from = [&](size_t first) {
    for (size_t i = first; i < jobs.size(); ++i) s.results.skipped.push_back({jobs[i].name, "time was up"});
  };
  for (size_t next = 0; next < jobs.size();) {
    if (seconds_now() >= end) {
      skip_from(next);
      break;
    }
    Worker worker(jobs, next, make);
    std::optional<size_t> at;  // the job that runs
    double job_end = seconds_now() + limits.job_seconds;
    std::string line, last_words;
    const auto failed = [&](const std::string& how) {  // of the job that runs, or of the process before it had one
      const Check check{at ? jobs[*at].name : "opening the card", 0, 1, last_words.empty() ? how : last_words + " (" + how + ")"};
      s.results.checks.push_back(check);
      const Json found{{"check", check}};
      progress(check.name, &found);
    };
    for (;;) {
      const Worker::Said said = worker.next(std::min(end, job_end), line);
      if (said == Worker::Said::line) {
        const Json message = Json::parse(line);
        if (message.contains("begin")) {
          at = message["begin"].get<size_t>();
          next = *at + 1;
          job_end = seconds_now() + limits.job_seconds;
          progress(jobs[*at].name, nullptr);
        } else if (message.contains("no_card")) {
          s.no_card = true, s.why_not = message["no_card"].get<std::string>();
          worker.end(false);
          return s;
        } else if (message.contains("died")) {
          last_words = message["died"].get<std::string>();
        } else {
          take(s.results, message);
          progress(at ? jobs[*at].name : "", &message);
        }
        continue;
      }
      if (said == Worker::Said::nothing && seconds_now() >= end) {  // that it was cut off says nothing about the job
        worker.end();
        skip_from(at.value_or(next));
        return s;
      }
      if (said == Worker::Said::nothing) {
        worker.end();
        failed(fmt::format("did not come back within {:.0f} s", limits.job_seconds));
      } else if (const std::string how = worker.end(false); how != "exit code 0") {
        failed(how);
      }
      break;
    }
    if (!at) return s;  // the card could not be opened: neither could it be for the next job
  }
  return s;
}

}  // namespace flexgen::bench
