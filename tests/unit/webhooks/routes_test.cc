// SPDX-License-Identifier: Apache-2.0
#include "libs/webhooks/routes.h"

#include <catch2/catch.hpp>

namespace mainstay::webhooks {
namespace {

TEST_CASE("the first route whose pattern fits takes the type") {
  catalog::Source source;
  source.routes.resize(3);
  source.routes[0].types = {"payment.refunded"};
  source.routes[1].types = {"payment.*"};
  source.routes[2].types = {"invoice.paid", "customer.*"};
  CHECK(FindRoute(source, "payment.refunded") == &source.routes[0]);
  CHECK(FindRoute(source, "payment.succeeded") == &source.routes[1]);
  CHECK(FindRoute(source, "payment.a.b") == &source.routes[1]);
  CHECK(FindRoute(source, "customer.created") == &source.routes[2]);
  CHECK(FindRoute(source, "payment") == nullptr);
  CHECK(FindRoute(source, "payment.") == nullptr);
  CHECK(FindRoute(source, "payments.x") == nullptr);
  CHECK(FindRoute(source, "invoice.paid.late") == nullptr);
  source.routes[2].types = {"*"};
  CHECK(FindRoute(source, "anything") == &source.routes[2]);
}

}  // namespace
}  // namespace mainstay::webhooks
