// SPDX-License-Identifier: Apache-2.0
#include "libs/jobs/shares.h"

#include <algorithm>

namespace mainstay::jobs {
namespace {

// A stream may not save up more than this many rounds' worth: coming back from a pause it must not push others aside.
constexpr double kMaxSaved = 2;

}  // namespace

void Shares::Set(absl::Span<const Stream> streams) {
  std::map<std::string, State> next;
  for (const Stream& stream : streams) {
    State& state = next[stream.key];
    if (const auto known = streams_.find(stream.key); known != streams_.end()) state = std::move(known->second);
    state.stream = stream;
    if (stream.queue.empty()) state.stream.queue = stream.key;
    state.stream.weight = std::max(1, stream.weight);
    state.stream.part = std::max(1, stream.part);
  }
  streams_ = std::move(next);
}

int Shares::Level(const State& state) const {
  if (!state.stream.ages || options_.aging <= absl::ZeroDuration()) return state.stream.priority;
  const auto steps = std::min<int64_t>(9, state.waited / options_.aging);
  return std::max(0, state.stream.priority - static_cast<int>(steps));
}

std::vector<Shares::Ask> Shares::Next(int credit) {
  std::vector<Ask> asks;
  if (credit <= 0 || streams_.empty()) return asks;
  std::map<int, std::vector<State*>> levels;  // those that seem to hold entries
  for (auto& [key, state] : streams_) {
    if (!state.empty) levels[Level(state)].push_back(&state);
  }
  std::map<State*, int> counts;
  // Shares `amount` out among queues, and what each gets among its streams. What a stream could not use of a fraction
  // it keeps for the next round.
  auto share = [&](const std::vector<State*>& group, double amount) {
    std::map<std::string_view, double> parts;
    double weights = 0;
    for (const State* state : group) {
      double& sum = parts[state->stream.queue];
      if (sum == 0) weights += state->stream.weight;
      sum += state->stream.part;
    }
    for (State* state : group) {
      const double part = amount * state->stream.weight / weights * state->stream.part / parts[state->stream.queue];
      state->deficit = std::min(state->deficit + part, kMaxSaved * part + 1);
      if (const int whole = static_cast<int>(state->deficit + 1e-9); whole > 0) counts[state] += whole;
    }
  };
  if (!levels.empty()) {
    std::vector<State*> lower;
    for (auto it = std::next(levels.begin()); it != levels.end(); ++it)
      lower.insert(lower.end(), it->second.begin(), it->second.end());
    const double reserved = lower.empty() ? 0 : credit * options_.reserve;
    share(levels.begin()->second, credit - reserved);
    if (!lower.empty()) share(lower, reserved);
    // Fractions only, this time: the first gets one, so that a credit of 1 is not lost for ever.
    if (counts.empty()) {
      State* first = *std::max_element(levels.begin()->second.begin(), levels.begin()->second.end(),
                                       [](const State* a, const State* b) { return a->deficit < b->deficit; });
      counts[first] = 1;
    }
  }
  for (auto& [key, state] : streams_) {
    if (state.empty) counts[&state] = std::max(1, credit / 8);
  }
  std::vector<State*> order;
  for (const auto& [state, count] : counts) order.push_back(state);
  std::sort(order.begin(), order.end(), [&](const State* a, const State* b) {
    const int left = Level(*a), right = Level(*b);
    return left != right ? left < right : a->stream.key < b->stream.key;
  });
  for (State* state : order) asks.push_back({state->stream.key, std::min(counts[state], credit)});
  return asks;
}

void Shares::Took(const std::string& key, int asked, int got) {
  const auto it = streams_.find(key);
  if (it == streams_.end()) return;
  State& state = it->second;
  state.empty = got < asked;
  state.deficit = state.empty ? 0 : state.deficit - got;
  if (state.empty) state.waited = absl::ZeroDuration();
}

void Shares::Waited(const std::string& key, absl::Duration waited) {
  const auto it = streams_.find(key);
  if (it != streams_.end() && !it->second.empty) it->second.waited = std::max(waited, absl::ZeroDuration());
}

}  // namespace mainstay::jobs
