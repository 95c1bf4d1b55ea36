// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch.hpp>

#include "libs/postgres/lease.h"
#include "libs/postgres/pool.h"
#include "tests/support/postgres.h"
#include "tests/support/status.h"

namespace mainstay::postgres {
namespace {

using testing::IsOk;

TEST_CASE("one holder leads; the fence rises with every change of holder, not with renewals") {
  const std::string url = testing::NewMigratedDatabase();
  Pool pool({.url = url, .application_name = "lease test"});
  Lease a(pool, {.name = "dispatcher", .holder = "a"}), b(pool, {.name = "dispatcher", .holder = "b"});
  CHECK_FALSE(a.held());
  CHECK(a.TryAcquire().value());
  CHECK(a.held());
  CHECK(a.fence() == 1);
  CHECK_FALSE(b.TryAcquire().value());
  CHECK_FALSE(b.held());
  CHECK(a.TryAcquire().value());
  CHECK(a.fence() == 1);
  CHECK_THAT(a.Release(), IsOk());
  CHECK_FALSE(a.held());
  CHECK(b.TryAcquire().value());
  CHECK(b.fence() == 2);
  // Released by someone who no longer holds it: nothing happens.
  CHECK_THAT(a.Release(), IsOk());
  CHECK(b.TryAcquire().value());
  CHECK(b.fence() == 2);
  testing::Sql(url, "UPDATE mainstay.leases SET expires_at = clock_timestamp() - interval '1 second'");
  CHECK(a.TryAcquire().value());
  CHECK(a.fence() == 3);
  CHECK_FALSE(b.TryAcquire().value());
}

TEST_CASE("a lease is counted from before the request, minus the margin") {
  const std::string url = testing::NewMigratedDatabase();
  Pool pool({.url = url, .application_name = "lease test"});
  SimulatedClock clock(absl::Now());
  Lease lease(pool, {.name = "x", .holder = "a", .ttl = absl::Seconds(15), .margin = absl::Seconds(2)}, clock);
  CHECK(lease.TryAcquire().value());
  clock.Advance(absl::Milliseconds(12999));
  CHECK(lease.held());
  clock.Advance(absl::Milliseconds(2));
  CHECK_FALSE(lease.held());
}

}  // namespace
}  // namespace mainstay::postgres
