// SPDX-License-Identifier: Apache-2.0
// The engine takes requests, each with its own settings, runs them together in sweeps, and hands out events.
//
//   submit -> waiting -> (a place in the block and room in the KV cache) -> prompt computed -> samples -> end
//
// A block has gpu_batch_size x num_gpu_batches places. At each sweep, sequences that have ended have left and waiting ones have joined;
// a sequence takes part with all tokens that are not computed yet: a prompt, a piece of one, or the token chosen last. The prompt of a
// request with several samples is computed once: the samples share its pages.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <deque>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "flexgen/engine/device_sampling.h"
#include "flexgen/engine/serving.h"
#include "flexgen/engine/statistics.h"
#include "flexgen/runtime/kv_store.h"
#include "flexgen/runtime/sweep.h"
#include "flexgen/text/tokenizer.h"

namespace flexgen {

struct EngineOptions {
  int64_t gpu_batch_size = 16;      // sequences of a micro-batch
  int64_t num_gpu_batches = 4;      // micro-batches of a block
  int64_t micro_batch_tokens = 512; // tokens of a micro-batch; longer prompts are cut
  int64_t sweep_tokens = 16384;     // tokens of a sweep: bounds its activations
  DType kv_dtype = DType::f16;
  uint64_t kv_bytes = 1_GiB;        // budget of a KV cache in memory
  int64_t page_tokens = kAttentionBlock;
  std::optional<KvOptions> kv;      // of a KV cache that a memory plan counted; the three above are then not looked at
  SweepOptions sweep;
};

class Engine {
 public:
  // tokenizer: null where the model has none (then events have no text and stop strings are refused). All references outlive the engine.
  Engine(const ModelDescription& model, WeightStream& weights, const Tokenizer* tokenizer, const Backend& backend, ThreadPool& pool,
         const EngineOptions& options)
      : model_(model),
        tokenizer_(tokenizer),
        options_(options),
        cache_(options.kv ? *options.kv
                          : KvOptions::in_memory(model.n_layers, {options.kv_dtype, model.n_kv_heads, model.head_dim, options.page_tokens},
                                                 options.kv_bytes)),
        sweep_(model_, backend, {&pool}, weights, cache_, options.sweep) {
    for (const auto& [what, value] : {std::pair{"gpu-batch-size", options.gpu_batch_size}, {"num-gpu-batches", options.num_gpu_batches},
                                      {"micro-batch-tokens", options.micro_batch_tokens}, {"sweep tokens", options.sweep_tokens}})
      if (value < 1) fail(Fault::usage, "{}: found {}, allowed a whole number from 1", what, value);
  }

  // Queues a request; what is wrong with it comes back as its end event. thread: any
  RequestId submit(Request request) {
    std::lock_guard lock(inbox_mutex_);
    submitted_.push_back({next_request_, std::move(request)});
    return next_request_++;
  }

  // The request's samples end with FinishReason::cancelled at the next step; unknown or ended ones are ignored. thread: any
  void cancel(RequestId id) {
    std::lock_guard lock(inbox_mutex_);
    cancelled_.push_back(id);
  }

  // nothing submitted is unanswered
  bool idle() {
    std::lock_guard lock(inbox_mutex_);
    return submitted_.empty() && groups_.empty();
  }

  // One sweep, and what came of it; nothing to do: returns at once. With *stop set, throws Fault::interrupted; the engine can go on
  // afterwards, as if this step had not begun. thread: one at a time
  std::vector<Event> step(const std::atomic<bool>* stop = nullptr) {
    std::vector<Event> events;
    take_inbox(events);
    admit(events);
    SweepPlan plan = make_plan();
    if (plan.micro_batches.empty()) return events;
    std::vector<Row> rows;
    const auto start = std::chrono::steady_clock::now();
    try {
      sweep_.run(plan, [&](const LogitsRow& row) { rows.push_back(choose(plan, row)); }, stop);
    } catch (...) {
      for (auto& s : running_) cache_.truncate(s->kv, cache_.length(s->kv));
      pending_ = std::move(events);  // they happened: the next step hands them out
      throw;
    }
    account(plan, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    for (const MicroBatch& m : plan.micro_batches)
      for (const Span& s : m.spans) cache_.commit(s.sequence, s.n_tok());
    for (Row& row : rows) apply(std::move(row), events);
    stats_.peak_kv_bytes = std::max<uint64_t>(stats_.peak_kv_bytes, cache_.used_pages() * cache_.page_bytes());
    std::erase_if(running_, [](const auto& s) { return s->ended; });
    return events;
  }

  const Statistics& statistics() const { return stats_; }
  KvStatistics kv_statistics() const { return cache_.statistics(); }
  const SweepStatistics& sweep_statistics() const { return sweep_.statistics(); }
  const HiddenStatistics& hidden_statistics() const { return sweep_.hidden_statistics(); }
  const EngineOptions& options() const { return options_; }

  // --- Dialogues: tokens and their KV that stay between requests. thread: the one that steps, between steps; no request of the
  // session may be running.

  SessionId open_session() {
    const SessionId id = next_session_++;
    sessions_[id].kv = cache_.create();
    return id;
  }
  // all tokens so far: prompts and answers
  const std::vector<int32_t>& session_tokens(SessionId id) const { return sessions_.at(id).tokens; }
  // forgets all but the first n_tok tokens; what stays computed stays computed
  void rewind_session(SessionId id, size_t n_tok) {
    Session& s = idle_session(id);
    FG_CHECK(n_tok <= s.tokens.size(), "{} of {} tokens", n_tok, s.tokens.size());
    s.tokens.resize(n_tok);
    cache_.truncate(s.kv, static_cast<int64_t>(n_tok));
    reserve_for(s, cache_.pages_for(cache_.length(s.kv)));
  }
  void close_session(SessionId id) {
    Session& s = idle_session(id);
    cache_.drop(s.kv);
    reserve_for(s, 0);
    sessions_.erase(id);
  }

 private:
  // What a row of logits gave, kept until the sweep's tokens are committed
  struct Row {
    Sequence* sequence = nullptr;
    SampledToken token;
    std::string error;
  };

  // --- arriving

  void take_inbox(std::vector<Event>& events) {
    events = std::move(pending_);
    pending_.clear();
    std::vector<std::pair<RequestId, Request>> submitted;
    std::vector<RequestId> cancelled;
    {
      std::lock_guard lock(inbox_mutex_);
      submitted.swap(submitted_);
      cancelled.swap(cancelled_);
      for (auto& [id, request] : submitted) {
        auto& g = groups_.emplace_back(std::make_unique<Group>());
        g->id = id;
        g->request = std::move(request);
        waiting_.push_back(g.get());
      }
    }
    for (const RequestId id : cancelled)
      for (auto& g : groups_)
        if (g->id == id) g->cancelled = true;
    cancel_marked(events);
  }

  void cancel_marked(std::vector<Event>& events) {
    for (auto& s : running_)
      if (s->group->cancelled && !s->ended) end(*s, FinishReason::cancelled, "", events);
    std::erase_if(running_, [](const auto& s) { return s->ended; });
    std::vector<Group*> rest;
    for (auto& g : groups_)
      if (g->cancelled) rest.push_back(g.get());
    for (Group* g : rest) {
      for (; g->ended < g->n_samples(); ++g->ended) emit_end(*g, g->ended, g->ended + 1 == g->n_samples(), FinishReason::cancelled, "", "", events);
      finish(*g, false);
    }
  }

  size_t n_context(const Request& r) const { return r.prompt.size() + (r.session ? sessions_.at(*r.session).tokens.size() : 0); }

  // pages a sequence of this request fills at most: its last token is never computed
  size_t pages_for(const Request& r) const {
    const auto n = static_cast<int64_t>(n_context(r));
    return cache_.pages_for(std::min(model_.max_positions, n + r.settings.max_new_tokens - 1));
  }

  void admit(std::vector<Event>& events) {
    start_ready_samples(events);
    while (!waiting_.empty() && running_.size() < block_size()) {
      Group& g = *waiting_.front();
      const auto at = g.request.session ? sessions_.find(*g.request.session) : sessions_.end();
      const Session* session = at == sessions_.end() ? nullptr : &at->second;
      std::string why = g.request.session && !session ? fmt::format("there is no dialogue {}", *g.request.session)
                                                      : objection(g.request, model_, tokenizer_ != nullptr, session);
      size_t need = 0;
      if (why.empty()) {
        g.sample_pages = pages_for(g.request);
        need = g.sample_pages + (g.n_samples() > 1 ? cache_.pages_for(static_cast<int64_t>(g.request.prompt.size())) : 0);
        const size_t held = session ? session->reserved : 0;
        if (reserved_ - held + need > cache_.max_pages()) {
          if (!running_.empty()) return;  // room will come
          why = fmt::format("its KV cache needs {}, allowed {}. Lower max_new_tokens or give more memory", format_bytes(need * cache_.page_bytes()),
                            format_bytes((cache_.max_pages() - (reserved_ - held)) * cache_.page_bytes()));
        }
      }
      waiting_.pop_front();
      if (!why.empty()) {
        refuse(g, why, events);
        continue;
      }
      start_prompt(g, need);
    }
  }

  void start_prompt(Group& g, size_t need) {
    auto s = std::make_unique<Sequence>(Sequence{&g, 0, 0, {}, 0, sampler(g, 0), text(g)});
    if (g.request.session) {
      Session& session = sessions_.at(*g.request.session);
      session.busy = true;
      reserve_for(session, need);
      s->kv = session.kv;
      s->context = session.tokens;
    } else {
      g.reserved = need;
      reserved_ += need;
      s->kv = cache_.create();
    }
    s->context.insert(s->context.end(), g.request.prompt.begin(), g.request.prompt.end());
    s->n_prompt = s->context.size();
    stats_.prompt_tokens += g.request.prompt.size();
    g.running = g.started = 1;
    running_.push_back(std::move(s));
  }

  // Samples beyond the first, as places and pages become free. The last one takes over the prompt's own pages.
  void start_ready_samples(std::vector<Event>& events) {
    std::vector<Group*> ready;
    for (auto& g : groups_)
      if (g->prompt_done && g->started < g->n_samples()) ready.push_back(g.get());
    for (Group* g : ready)
      while (g->started < g->n_samples() && running_.size() < block_size()) {
        if (g->running > 0) {  // one sample's pages were reserved with the prompt; each one beside it needs its own
          if (reserved_ + g->sample_pages > cache_.max_pages()) break;
          reserved_ += g->sample_pages;
          g->reserved += g->sample_pages;
        }
        if (!start_sample(*g, events)) break;
      }
  }

  // false: the group has ended with it
  bool start_sample(Group& g, std::vector<Event>& events) {
    const int k = g.started++;
    ++g.running;
    const bool last = g.started == g.n_samples();
    auto s = std::make_unique<Sequence>(
        Sequence{&g, k, last ? std::exchange(g.base, 0) : cache_.fork(g.base), g.request.prompt, g.request.prompt.size(), sampler(g, k), text(g)});
    Row row{s.get(), {}, ""};
    sample(row, g.logits);
    Sequence& sequence = *running_.emplace_back(std::move(s));
    const bool only = last && g.ended + 1 == g.n_samples();
    apply(std::move(row), events);
    const bool ended = sequence.ended;
    if (ended) std::erase_if(running_, [](const auto& x) { return x->ended; });
    return !(ended && only);
  }

  Sampler sampler(const Group& g, int sample) const { return Sampler(g.request.settings, request_hash(g.request.id), static_cast<uint32_t>(sample)); }
  GeneratedText text(const Group& g) const { return GeneratedText(tokenizer_, g.request.settings.stop); }

  // --- one sweep

  size_t block_size() const { return static_cast<size_t>(options_.gpu_batch_size * options_.num_gpu_batches); }

  SweepPlan make_plan() {
    std::vector<Span> spans;
    by_kv_.clear();
    int64_t room = options_.sweep_tokens;
    for (auto& s : running_) {
      const int64_t computed = cache_.length(s->kv);
      const int64_t left = static_cast<int64_t>(s->context.size()) - computed;
      const int64_t n = std::min(left, room);
      if (n == 0) continue;
      room -= n;
      const auto first = s->context.begin() + computed;
      spans.push_back({s->kv, {first, first + n}, computed, n == left ? n - 1 : n, draw(*s)});
      by_kv_[s->kv] = s.get();
    }
    stats_.peak_sequences = std::max<uint64_t>(stats_.peak_sequences, spans.size());
    return pack(std::move(spans), options_.gpu_batch_size, options_.micro_batch_tokens);
  }

  std::optional<Draw> draw(const Sequence& s) const {
    const Group& g = *s.group;
    if (keeps_logits(g)) return std::nullopt;
    return device_draw(g.request.settings, request_hash(g.request.id), static_cast<uint32_t>(s.sample), s.context.size() - s.n_prompt);
  }
  // of the prompt, for the samples that start later
  static bool keeps_logits(const Group& g) { return !g.prompt_done && g.n_samples() > 1; }

  Row choose(const SweepPlan& plan, const LogitsRow& logits) {
    Sequence* s = by_kv_.at(plan.micro_batches[logits.micro_batch].spans[logits.span].sequence);
    Row row{s, {}, ""};
    if (logits.drawn) {
      row.token.id = *logits.drawn;
      return row;
    }
    if (keeps_logits(*s->group)) s->group->logits.assign(logits.values.begin(), logits.values.end());
    sample(row, logits.values);
    return row;
  }

  void sample(Row& row, std::span<const float> logits) {
    try {
      row.token = row.sequence->sampler.next(logits, row.sequence->context, row.sequence->n_prompt, scratch_);
    } catch (const Error& e) {
      row.error = e.what();
    }
  }

  // a chosen token becomes part of its sequence, or ends it
  void apply(Row row, std::vector<Event>& events) {
    Sequence& s = *row.sequence;
    Group& g = *s.group;
    if (!g.prompt_done) {
      g.prompt_done = true;
      if (g.n_samples() > 1) g.base = cache_.fork(s.kv);
    }
    if (!row.error.empty()) return end(s, FinishReason::error, row.error, events);
    const GenerationSettings& settings = g.request.settings;
    s.context.push_back(row.token.id);
    ++stats_.tokens_generated;
    Event e;
    e.request = g.id;
    e.sample = s.sample;
    e.token = row.token.id;
    e.logprobs = std::move(row.token.logprobs);
    e.text = s.text.push(row.token.id);
    events.push_back(std::move(e));
    if (settings.is_eos(row.token.id)) return end(s, FinishReason::eos, "", events);
    if (s.text.stopped()) return end(s, FinishReason::stop, "", events);
    if (static_cast<int64_t>(s.context.size() - s.n_prompt) == settings.max_new_tokens ||
        static_cast<int64_t>(s.context.size()) > model_.max_positions)
      return end(s, FinishReason::length, "", events);
  }

  void account(const SweepPlan& plan, double seconds) {
    ++stats_.sweeps;
    stats_.tokens_computed += static_cast<uint64_t>(plan.n_tok());
    bool prompt = false;
    for (const MicroBatch& m : plan.micro_batches)
      for (const Span& s : m.spans) prompt |= s.first_position < static_cast<int64_t>(by_kv_.at(s.sequence)->n_prompt);
    (prompt ? stats_.prefill_s : stats_.decode_s) += seconds;
    if (!prompt) stats_.decode_tokens += static_cast<uint64_t>(plan.n_tok());
  }

  // --- leaving

  void emit_end(const Group& g, int sample, bool last, FinishReason reason, std::string text, std::string error, std::vector<Event>& events) {
    Event e;
    e.kind = Event::Kind::end;
    e.request = g.id;
    e.sample = sample;
    e.text = std::move(text);
    e.reason = reason;
    e.error = std::move(error);
    e.last = last;
    events.push_back(std::move(e));
    ++stats_.sequences_done;
  }

  void end(Sequence& s, FinishReason reason, const std::string& error, std::vector<Event>& events) {
    Group& g = *s.group;
    s.ended = true;
    emit_end(g, s.sample, g.ended + 1 == g.n_samples(), reason, s.text.finish(), error, events);
    if (g.request.session) {
      Session& session = sessions_.at(*g.request.session);
      session.tokens = std::move(s.context);
      session.busy = false;
      reserve_for(session, cache_.pages_for(cache_.length(s.kv)));
    } else {
      cache_.drop(s.kv);
    }
    --g.running;
    ++g.ended;
    if (g.running > 0 && !g.request.session) {
      g.reserved -= g.sample_pages;
      reserved_ -= g.sample_pages;
    }
    if (g.ended == g.n_samples()) finish(g, reason == FinishReason::error);
  }

  void refuse(Group& g, const std::string& why, std::vector<Event>& events) {
    emit_end(g, 0, true, FinishReason::error, "", why, events);
    finish(g, true);
  }

  void finish(Group& g, bool failed) {
    if (g.base) cache_.drop(g.base);
    reserved_ -= g.reserved;
    ++stats_.requests_done;
    if (failed) ++stats_.requests_failed;
    std::erase(waiting_, &g);
    std::lock_guard lock(inbox_mutex_);
    groups_.remove_if([&](const auto& x) { return x.get() == &g; });
  }

  Session& idle_session(SessionId id) {
    Session& s = sessions_.at(id);
    FG_CHECK(!s.busy, "session {} is answering", id);
    return s;
  }
  void reserve_for(Session& s, size_t pages) {
    reserved_ = reserved_ - s.reserved + pages;
    s.reserved = pages;
  }

  const ModelDescription model_;
  const Tokenizer* tokenizer_;
  const EngineOptions options_;
  KvStore cache_;
  Sweep sweep_;

  std::mutex inbox_mutex_;  // guards the next four
  std::vector<std::pair<RequestId, Request>> submitted_;
  std::vector<RequestId> cancelled_;
  RequestId next_request_ = 1;
  std::list<std::unique_ptr<Group>> groups_;  // only its shape: the groups belong to the stepping thread

  std::deque<Group*> waiting_;
  std::vector<std::unique_ptr<Sequence>> running_;
  std::unordered_map<SequenceId, Sequence*> by_kv_;  // of the sweep that is running
  std::vector<Event> pending_;                       // of a step that was interrupted
  size_t reserved_ = 0;                              // pages promised, at most the pool's
  std::unordered_map<SessionId, Session> sessions_;
  SessionId next_session_ = 1;
  SamplerScratch scratch_;
  Statistics stats_;
};

}  // namespace flexgen
