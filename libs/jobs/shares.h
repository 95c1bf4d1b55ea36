// SPDX-License-Identifier: Apache-2.0
// Which streams a worker reads next, and how much from each.
//
// Strict first: a lower priority gets what the higher ones leave. But never nothing: a small part of the credit is set
// aside for the lower ones, and a stream whose head has waited long competes as if its priority were higher. Within a
// priority, queues with entries share by weight (deficit round robin), whatever the number of entries in each. A queue
// whose priorities are weighted stands at its own priority with all of them: they share what the queue gets.
//
// A guess about what Redis holds, corrected by each read: a stream that gave less than asked counts as empty, and is
// then asked for a little in every round, so that an urgent entry waits for one round only. Asked for is therefore
// sometimes a bit more than the credit. Nothing here is lost or late when the guess is wrong: what was not asked for is
// asked for in the next round. Not thread-safe: it belongs to the reader.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"

namespace mainstay::jobs {

struct SharesOptions {
  // The part of the credit that lower priorities get together while a higher one could use all of it; 0 to 0.5.
  double reserve = 0.1;
  // A head that has waited for this long counts as one priority higher, for twice this long as two …
  absl::Duration aging = absl::Seconds(30);
};

class Shares {
 public:
  struct Stream {
    std::string key;
    int priority = 4;   // 0 first … 9 last; where priorities are weighted, the queue's own
    int weight = 1;     // of its queue, among queues of the same priority
    std::string queue;  // streams of one queue and priority share what it gets; empty: a queue of its own
    int part = 1;       // by this weight
    bool ages = true;
  };
  struct Ask {
    std::string key;
    int count;
  };

  explicit Shares(SharesOptions options = {}) : options_(options) {}

  // The streams there are. Those known before keep what is known of them; new ones are taken to hold entries.
  void Set(absl::Span<const Stream> streams);

  // How many entries to ask for now, most urgent first; empty for no credit or no streams. `credit`: how many the
  // worker can take.
  std::vector<Ask> Next(int credit);

  // What a read gave; to be told for each ask.
  void Took(const std::string& key, int asked, int got);
  // How long the oldest of what was read last had been waiting. Forgotten when the stream is empty.
  void Waited(const std::string& key, absl::Duration waited);

 private:
  struct State {
    Stream stream;
    bool empty = false;
    double deficit = 0;  // entries it may still have of what was shared out
    absl::Duration waited;
  };
  int Level(const State& state) const;  // its priority, aged

  const SharesOptions options_;
  std::map<std::string, State> streams_;
};

}  // namespace mainstay::jobs
