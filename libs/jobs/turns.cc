// SPDX-License-Identifier: Apache-2.0
#include "libs/jobs/turns.h"

#include <algorithm>

namespace mainstay::jobs {
namespace {

// More tenants than this are not remembered at once: those without a backlog go, and are found again when they have
// one.
constexpr size_t kMaxTenants = 100000;
// Behind every name that UTF-8 can spell.
constexpr char kLast[] = "\xF4\x8F\xBF\xBF";

}  // namespace

int Turns::Weight(const std::string& tenant) const {
  const auto it = weights_.find(tenant);
  return it == weights_.end() ? 1 : std::max(1, it->second);
}

void Turns::Found(const std::string& tenant) {
  if (known_.size() >= kMaxTenants && !known_.contains(tenant)) {
    for (auto it = known_.begin(); it != known_.end();)
      it = active_.contains(it->first) ? std::next(it) : known_.erase(it);
  }
  known_.try_emplace(tenant);
  active_.insert(tenant);
}

void Turns::Rewind() {
  for (auto& [name, tenant] : known_) {
    tenant = Tenant();
    active_.insert(name);
  }
}

std::vector<Turns::Turn> Turns::Next(int room) {
  std::vector<Turn> turns;
  if (room <= 0 || active_.empty()) return turns;
  // From where the last round ended, once around.
  std::vector<const std::string*> order;
  const auto start = active_.lower_bound(next_);
  for (auto it = start; it != active_.end(); ++it) order.push_back(&*it);
  for (auto it = active_.begin(); it != start; ++it) order.push_back(&*it);
  int64_t weights = 0;
  std::erase_if(order, [&](const std::string* name) { return paused_.contains(*name); });
  for (const std::string* name : order) weights += Weight(*name);
  int left = room;
  for (size_t i = 0; i < order.size() && left > 0; ++i) {
    const int64_t weight = Weight(*order[i]);
    const int take = static_cast<int>(std::min<int64_t>(left, std::max<int64_t>(weight, room * weight / weights)));
    turns.push_back({.tenant = *order[i], .after = known_[*order[i]].position, .take = take});
    left -= take;
    next_ = i + 1 < order.size() ? *order[i + 1] : *order[0];
  }
  // What division left over.
  for (size_t i = 0; i < turns.size() && left > 0; ++i, --left) ++turns[i].take;
  return turns;
}

void Turns::Took(const Turn& turn, int seen, const Uuid& last) {
  const auto it = known_.find(turn.tenant);
  if (it == known_.end()) return;
  Tenant& tenant = it->second;
  const bool end = seen < turn.take;
  if (turn.again) {
    tenant.again = end || !(last < tenant.position) ? Uuid() : last;
    return;
  }
  if (seen > 0) tenant.position = std::max(tenant.position, last);
  if (end) active_.erase(turn.tenant);
}

std::vector<Turns::Turn> Turns::Again(int tenants, int take) {
  std::vector<Turn> turns;
  auto it = known_.lower_bound(next_again_);
  for (size_t looked = 0; looked < known_.size() && turns.size() < static_cast<size_t>(tenants); ++looked) {
    if (it == known_.end()) it = known_.begin();
    if (it->second.position != Uuid() && !paused_.contains(it->first))
      turns.push_back({.tenant = it->first, .after = it->second.again, .take = take, .again = true});
    ++it;
  }
  next_again_ = it == known_.end() ? std::string() : it->first;
  return turns;
}

std::vector<Turns::Turn> Turns::Idle(int most) {
  std::vector<Turn> turns;
  auto it = known_.lower_bound(next_idle_);
  for (size_t looked = 0; looked < known_.size() && turns.size() < static_cast<size_t>(most); ++looked) {
    if (it == known_.end()) it = known_.begin();
    if (!active_.contains(it->first)) turns.push_back({.tenant = it->first, .after = it->second.position, .take = 1});
    ++it;
  }
  next_idle_ = it == known_.end() ? std::string() : it->first;
  return turns;
}

std::vector<Turns::Gap> Turns::Gaps(int most) {
  std::vector<Gap> gaps;
  // A gap is named by its lower end: a known tenant, or nothing for the first one.
  auto high = known_.upper_bound(next_gap_);
  std::string low = high == known_.begin() ? std::string() : std::prev(high)->first;
  for (size_t i = 0; i <= known_.size() && gaps.size() < static_cast<size_t>(most); ++i) {
    gaps.push_back({low, high == known_.end() ? kLast : high->first});
    if (high == known_.end()) {
      low.clear();
      high = known_.begin();
    } else {
      low = high->first;
      ++high;
    }
  }
  next_gap_ = low;
  return gaps;
}

}  // namespace mainstay::jobs
