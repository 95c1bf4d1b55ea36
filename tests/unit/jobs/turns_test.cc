// SPDX-License-Identifier: Apache-2.0
#include "libs/jobs/turns.h"

#include <catch2/catch.hpp>
#include <cstdio>
#include <map>
#include <string>

#include "libs/jobs/window.h"

namespace mainstay::jobs {
namespace {

// A job's id by number, so that positions can be told apart.
Uuid Id(int n) {
  char text[37];
  std::snprintf(text, sizeof text, "00000000-0000-7000-8000-%012d", n);
  return *ParseUuid(text);
}

// Plays one round against backlogs of so many jobs each; what everyone got.
std::map<std::string, int> Play(Turns& turns, std::map<std::string, int>& backlog, int room) {
  std::map<std::string, int> got;
  for (const auto& turn : turns.Next(room)) {
    const int seen = std::min(turn.take, backlog[turn.tenant]);
    backlog[turn.tenant] -= seen;
    got[turn.tenant] += seen;
    turns.Took(turn, seen, Id(1000000 - backlog[turn.tenant]));
  }
  return got;
}

TEST_CASE("F41: a tenant with one job has it in the first round, whatever the others have") {
  Turns turns;
  std::map<std::string, int> backlog = {{"big", 1000000}, {"small", 1}};
  turns.Found("big");
  turns.Found("small");
  const auto got = Play(turns, backlog, 500);
  CHECK(got.at("small") == 1);
  CHECK(got.at("big") >= 250);
  // Alone again it has everything.
  CHECK(Play(turns, backlog, 500).at("big") >= 250);
  CHECK(Play(turns, backlog, 500).at("big") == 500);
}

TEST_CASE("tenants share by weight, and more tenants than room have their turns one after another") {
  Turns turns;
  turns.SetWeights({{"heavy", 3}});
  std::map<std::string, int> backlog = {{"heavy", 100000}, {"light", 100000}};
  turns.Found("heavy");
  turns.Found("light");
  std::map<std::string, int> total;
  for (int i = 0; i < 20; ++i) {
    for (const auto& [tenant, n] : Play(turns, backlog, 400)) total[tenant] += n;
  }
  CHECK(total["heavy"] == 3 * total["light"]);

  Turns many;
  std::map<std::string, int> each;
  for (int i = 0; i < 1000; ++i) {
    each["t" + std::to_string(i)] = 10;
    many.Found("t" + std::to_string(i));
  }
  std::map<std::string, int> had;
  for (int i = 0; i < 10; ++i) {
    for (const auto& [tenant, n] : Play(many, each, 100)) had[tenant] += n;
  }
  CHECK(had.size() == 1000);
}

TEST_CASE("paused tenants get no turns and keep their place") {
  Turns turns;
  std::map<std::string, int> backlog = {{"a", 10}, {"b", 10}};
  turns.Found("a");
  turns.Found("b");
  turns.SetPaused({"a"});
  CHECK(Play(turns, backlog, 100) == std::map<std::string, int>{{"b", 10}});
  CHECK(turns.Again(10, 10).size() == 1);
  turns.SetPaused({});
  CHECK(Play(turns, backlog, 100) == std::map<std::string, int>{{"a", 10}});
  CHECK_FALSE(turns.backlog());
}

TEST_CASE("every name is searched for in exactly one gap between the known tenants, also one by one") {
  Turns turns;
  for (const char* name : {"b", "d", "f"}) turns.Found(name);
  std::map<std::string, std::string> gaps;
  for (int i = 0; i < 4; ++i) {
    const auto next = turns.Gaps(1);
    REQUIRE(next.size() == 1);
    gaps[next[0].low] = next[0].high;
  }
  CHECK(gaps.size() == 4);
  CHECK(gaps[""] == "b");
  CHECK(gaps["b"] == "d");
  CHECK(gaps["d"] == "f");
  CHECK(gaps["f"] > "zzz\xF0\x9F\x98\x80");
  CHECK(turns.Gaps(100).size() == 4);
}

TEST_CASE("F37: the window is about as large as what is read in a second or two, within its bounds") {
  absl::Time now = absl::UnixEpoch();
  WindowSize window(WindowOptions{});
  int64_t read = 0;
  auto run = [&](double rate, int seconds, int64_t live, bool backlog) {
    for (int i = 0; i < seconds * 10; ++i) {
      now += absl::Milliseconds(100);
      read += static_cast<int64_t>(rate / 10);
      window.Sample(read, live, backlog, now);
    }
  };
  CHECK(window.target() == 500);
  run(10, 10, 500, true);
  CHECK(window.target() == 500);  // slow handlers: the floor
  run(4000, 20, 3000, true);
  CHECK(window.target() >= 4000);
  CHECK(window.target() <= 8000);
  run(100000, 20, 10000, true);
  CHECK(window.target() == 20000);
  for (int i = 0; i < 60; ++i) run(10, 1, window.target(), true);
  CHECK(window.target() <= 600);
  // Run dry while there is a backlog: it grows before the rate has told.
  const int before = window.target();
  now += absl::Milliseconds(10);
  window.Sample(read + 500, 0, true, now);
  CHECK(window.target() >= 2 * before - 1);
}

TEST_CASE("a window of large entries holds fewer of them") {
  WindowSize window(WindowOptions{.floor = 10000, .ceiling = 20000, .max_bytes = 1 << 20});
  for (int i = 0; i < 1000; ++i) window.Weigh(4000);
  CHECK(window.target() < 300);
  CHECK(window.target() > 200);
}

}  // namespace
}  // namespace mainstay::jobs
