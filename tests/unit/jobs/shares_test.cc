// SPDX-License-Identifier: Apache-2.0
#include "libs/jobs/shares.h"

#include <catch2/catch.hpp>
#include <map>

namespace mainstay::jobs {
namespace {

// Streams with so many entries each, read until the rounds are over.
struct Reading {
  std::map<std::string, int> left, taken;
  std::map<std::string, absl::Duration> head;

  void Run(Shares& shares, int rounds, int credit) {
    for (int i = 0; i < rounds; ++i) {
      for (const auto& ask : shares.Next(credit)) {
        const int got = std::min(ask.count, left[ask.key]);
        left[ask.key] -= got;
        taken[ask.key] += got;
        shares.Took(ask.key, ask.count, got);
        shares.Waited(ask.key, head[ask.key]);
      }
    }
  }
};

constexpr int kMany = 1000000;

TEST_CASE("streams of one priority share by weight, whatever their length") {
  Shares shares;
  shares.Set({{{"a", 4, 1}, {"b", 4, 3}}});
  Reading r{.left = {{"a", kMany}, {"b", 40000}}};
  r.Run(shares, 100, 100);
  CHECK(r.taken["a"] == 2500);
  CHECK(r.taken["b"] == 7500);
}

TEST_CASE("a share smaller than one entry adds up: nobody is rounded away") {
  Shares shares;
  std::vector<Shares::Stream> streams;
  for (int i = 0; i < 30; ++i) streams.push_back({.key = std::to_string(i), .priority = 4});
  shares.Set(streams);
  Reading r;
  for (const auto& s : streams) r.left[s.key] = kMany;
  r.Run(shares, 300, 10);
  for (const auto& s : streams) {
    INFO(s.key);
    CHECK(r.taken[s.key] >= 90);
    CHECK(r.taken[s.key] <= 115);
  }
}

TEST_CASE("F42: under a flood at high priority the low one gets its reserve, and all once the flood is over") {
  Shares shares({.reserve = 0.1});
  shares.Set({{{"high", 0, 1}, {"low", 9, 1}}});
  Reading r{.left = {{"high", 90000}, {"low", kMany}}};
  r.Run(shares, 500, 100);
  CHECK(r.taken["high"] == 45000);
  CHECK(r.taken["low"] == 5000);
  r.Run(shares, 600, 100);
  CHECK(r.left["high"] == 0);
  const int before = r.taken["low"];
  r.Run(shares, 10, 100);
  CHECK(r.taken["low"] - before == 1000);
}

TEST_CASE("the reserve reaches the low priority even with room for one job at a time") {
  Shares shares({.reserve = 0.1});
  shares.Set({{{"high", 0, 1}, {"low", 9, 1}}});
  Reading r{.left = {{"high", kMany}, {"low", kMany}}};
  r.Run(shares, 1000, 1);
  CHECK(r.taken["low"] >= 90);
  CHECK(r.taken["low"] <= 200);
  CHECK(r.taken["high"] >= 800);
}

TEST_CASE("a head that has waited long competes at a higher priority") {
  Shares shares({.reserve = 0, .aging = absl::Seconds(10)});
  shares.Set({{{"high", 2, 1}, {"low", 5, 1}}});
  Reading r{.left = {{"high", kMany}, {"low", kMany}}};
  r.Run(shares, 10, 100);
  CHECK(r.taken["low"] <= 100);  // before anything is known of its head
  r.head["low"] = absl::Seconds(31);
  shares.Waited("low", absl::Seconds(31));
  r.taken.clear();
  r.Run(shares, 10, 100);
  CHECK(r.taken["low"] >= 400);
  CHECK(r.taken["low"] <= 600);
}

TEST_CASE("a queue's streams share what the queue gets, however many they are") {
  Shares shares;
  shares.Set({{{.key = "a", .queue = "one"},
               {.key = "a:lane", .queue = "one"},
               {.key = "a:other", .queue = "one"},
               {.key = "b", .weight = 3, .queue = "two"}}});
  Reading r{.left = {{"a", kMany}, {"a:lane", kMany}, {"a:other", kMany}, {"b", kMany}}};
  r.Run(shares, 120, 100);
  CHECK(r.taken["b"] == 9000);
  for (const char* key : {"a", "a:lane", "a:other"}) {
    CHECK(r.taken[key] >= 999);
    CHECK(r.taken[key] <= 1001);
  }
}

TEST_CASE("weighted priorities share at their queue's priority, whatever has waited; a queue above goes first") {
  Shares shares({.reserve = 0.1, .aging = absl::Seconds(1)});
  auto at = [](std::string key, int priority) {
    return Shares::Stream{.key = std::move(key), .priority = 5, .queue = "mixed", .part = 10 - priority, .ages = false};
  };
  shares.Set({{at("0", 0), at("5", 5), at("9", 9)}});
  Reading r{.left = {{"0", kMany}, {"5", kMany}, {"9", kMany}}, .head = {{"9", absl::Hours(1)}}};
  r.Run(shares, 1000, 16);
  CHECK(r.taken["0"] == 10000);
  CHECK(r.taken["5"] == 5000);
  CHECK(r.taken["9"] == 1000);
  shares.Set({{at("0", 0), at("5", 5), at("9", 9), {.key = "above", .priority = 4}}});
  r.left["above"] = kMany;
  r.taken.clear();
  r.Run(shares, 100, 160);
  CHECK(r.taken["above"] == 14400);
  CHECK(r.taken["0"] == 1000);
}

TEST_CASE("an empty stream is asked for a little in each round, so an urgent entry waits for one only") {
  Shares shares({.reserve = 0});
  shares.Set({{{"low", 9, 1}, {"urgent", 0, 1}}});
  Reading r{.left = {{"low", kMany}, {"urgent", 0}}};
  r.Run(shares, 3, 64);
  CHECK(r.taken["low"] > 0);
  r.left["urgent"] = 20;
  const auto asks = shares.Next(64);
  REQUIRE(asks.size() == 2);
  CHECK(asks[0].key == "urgent");
  CHECK(asks[0].count == 8);
  for (const auto& ask : asks) shares.Took(ask.key, ask.count, ask.count);
  const auto then = shares.Next(64);
  CHECK(then[0].key == "urgent");
  CHECK(then[0].count == 56);  // the 8 it was given are part of its share
}

TEST_CASE("what is known of a stream survives a refresh; one that is gone is asked no more") {
  Shares shares;
  shares.Set({{{"a", 4, 1}, {"b", 4, 1}}});
  shares.Took("a", 10, 3);
  shares.Set({{{"a", 4, 1}, {"c", 4, 1}}});
  const auto asks = shares.Next(16);
  REQUIRE(asks.size() == 2);
  CHECK(asks[0].key == "a");
  CHECK(asks[0].count == 2);
  CHECK(asks[1].key == "c");
  CHECK(asks[1].count == 16);
}

TEST_CASE("no credit, no ask; never more than the credit from one stream") {
  Shares shares;
  CHECK(shares.Next(10).empty());
  shares.Set({{Shares::Stream{.key = "a"}}});
  CHECK(shares.Next(0).empty());
  for (int i = 0; i < 10; ++i) {
    for (const auto& ask : shares.Next(7)) {
      CHECK(ask.count <= 7);
      shares.Took(ask.key, ask.count, ask.count);
    }
  }
}

}  // namespace
}  // namespace mainstay::jobs
