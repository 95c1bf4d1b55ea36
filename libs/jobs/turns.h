// SPDX-License-Identifier: Apache-2.0
// Whose turn it is in a backlog: tenants take weighted turns, and each is read from where its last turn ended.
//
// Reading on from a position is what keeps a backlog of millions cheap: what lies before it is finished or handed out,
// and its dead index entries would be walked again each time. The price: jobs that turn up behind a position (a commit
// that took long, a job given back) are only found by looking from the head again, which is done slowly, tenant after
// tenant. Lost with the process, on purpose: the next leader starts from the head. Pure; not thread-safe.
#pragma once

#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "libs/base/ids.h"

namespace mainstay::jobs {

class Turns {
 public:
  struct Turn {
    std::string tenant;
    Uuid after;          // jobs behind this id
    int take = 0;        // so many at most
    bool again = false;  // a look from the head, not the tenant's turn
  };
  struct Gap {
    std::string low, high;  // tenants between the two, neither of them included
  };

  // Weights of tenants that have one; the others have 1.
  void SetWeights(std::map<std::string, int> weights) { weights_ = std::move(weights); }
  // These get no turns.
  void SetPaused(std::set<std::string> tenants) { paused_ = std::move(tenants); }

  // The tenant has jobs behind its position, or is new.
  void Found(const std::string& tenant);
  // Everything is to be looked at once more: what could not go may go now.
  void Rewind();

  // The next turns, at most `room` jobs together: everyone with a backlog gets some, or, where there are more tenants
  // than room, as many as fit, the others next time.
  std::vector<Turn> Next(int room);
  // What a turn brought: how many jobs were there (taken or not), and the last of them.
  void Took(const Turn& turn, int seen, const Uuid& last);

  // Looks from the head for `tenants` tenants, `take` jobs each; goes round.
  std::vector<Turn> Again(int tenants, int take);
  // Positions of tenants that had no more jobs, to be asked for new ones, and the gaps between the known tenants, to be
  // searched for unknown ones. Goes round, `most` at a time.
  std::vector<Turn> Idle(int most);
  std::vector<Gap> Gaps(int most);

  bool backlog() const { return !active_.empty(); }
  size_t tenants() const { return known_.size(); }

 private:
  struct Tenant {
    Uuid position, again;
  };
  int Weight(const std::string& tenant) const;

  std::map<std::string, int> weights_;
  std::set<std::string> paused_;
  std::map<std::string, Tenant> known_;                     // bytes order, as the index
  std::set<std::string> active_;                            // with a backlog, not paused or not seen to be
  std::string next_, next_again_, next_idle_, next_gap_{};  // where each round goes on
};

}  // namespace mainstay::jobs
