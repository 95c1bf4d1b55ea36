// SPDX-License-Identifier: Apache-2.0
// The API's operations on the demo's shop, with a real PostgreSQL behind them.
#include "libs/base/strings.h"
#include "tests/unit/records/world.h"

namespace mainstay::records {
namespace {

using Lines = std::vector<std::string>;

constexpr char kTenants[] = R"sql(
INSERT INTO shop.tenants VALUES ('acme', 'Acme'), ('globex', 'Globex');
INSERT INTO shop.customers (tenant_id, email, name, password_hash) VALUES ('acme', 'ada@example.com', 'Ada', 'x'), ('globex', 'bob@example.com', 'Bob', 'y');
INSERT INTO shop.products (tenant_id, sku, name, price) VALUES ('acme', 'A1', 'Apple', 1.5), ('globex', 'B1', 'Bread', 2);
)sql";

const Principal kAcme = Someone("acme"), kGlobex = Someone("globex");

TEST_CASE("a record is created, read, changed and deleted") {
  World world(kTenants);
  Answer created = world.Call(kAcme, "POST", "/v1/orders",
                              R"({"customer_id":"1","number":"N-1","status":"open","total":"12.50","note":"Grüße"})");
  REQUIRE(created.status() == 201);
  CHECK(created.header("location") == "/v1/orders/1");
  CHECK(created["id"] == "1");
  CHECK(created["tenant_id"] == "acme");
  CHECK(created["total"] == "12.50");
  CHECK(created["version"] == "1");
  CHECK(created["currency"] == "EUR");
  const std::string etag = created.header("etag");
  REQUIRE_FALSE(etag.empty());

  Answer read = world.Get(kAcme, "/v1/orders/1");
  CHECK(read.status() == 200);
  CHECK(read.response.body == created.response.body);
  CHECK(read.header("etag") == etag);
  CHECK(world.Call(kAcme, "GET", "/v1/orders/1", "", {{"if-none-match", etag}}).status() == 304);
  CHECK(world.Call(kAcme, "GET", "/v1/orders/1", "", {{"if-none-match", "\"0.x\", W/" + etag}}).status() == 304);
  CHECK(world.Get(kAcme, "/v1/orders/1?fields=id,total").response.body == R"({"id":"1","total":"12.50"})");
  CHECK(world.Get(kAcme, "/v1/orders/1?view=summary").response.body ==
        R"({"id":"1","number":"N-1","status":"open","total":"12.50"})");

  Answer patched = world.Call(kAcme, "PATCH", "/v1/orders/1", R"({"note":null,"total":100})",
                              {{"content-type", "application/merge-patch+json"}, {"if-match", etag}});
  REQUIRE(patched.status() == 200);
  CHECK(patched["note"] == "null");
  CHECK(patched["total"] == "100.00");
  CHECK(patched["version"] == "2");
  CHECK(world.Call(kAcme, "PATCH", "/v1/orders/1", R"({"total":1})", {{"if-match", etag}}).problem() ==
        "precondition-failed");
  CHECK(world.Call(kAcme, "PATCH", "/v1/orders/1", R"({"total":1})", {{"if-match", "W/" + patched.header("etag")}})
            .status() == 412);
  CHECK(world.Call(kAcme, "PATCH", "/v1/orders/1", R"({"total":1})", {{"if-match", "nonsense"}}).status() == 400);
  // Nothing to change: nothing changes.
  Answer same = world.Call(kAcme, "PATCH", "/v1/orders/1", "{}");
  CHECK(same.status() == 200);
  CHECK(same.header("etag") == patched.header("etag"));
  CHECK(world.Call(kAcme, "PATCH", "/v1/orders/1", R"({"total":"100.0"})")["version"] == "2");
  CHECK(world.Call(kAcme, "PATCH", "/v1/orders/1", R"({"total":"5"})", {{"prefer", "return=minimal"}}).status() == 204);

  CHECK(world.Call(kAcme, "DELETE", "/v1/orders/1", "", {{"if-match", etag}}).status() == 412);
  CHECK(world.Call(kAcme, "DELETE", "/v1/orders/1").status() == 204);
  CHECK(world.Call(kAcme, "DELETE", "/v1/orders/1").problem() == "not-found");
  CHECK(world.Get(kAcme, "/v1/orders/1").problem() == "not-found");
}

TEST_CASE("a read by id is one statement, planned once") {
  World world(kTenants);
  world.Get(kAcme, "/v1/customers/1");
  const Lines first = world.TakeStatements();
  REQUIRE(first.size() == 1);
  world.Get(kAcme, "/v1/customers/1");
  world.Get(kGlobex, "/v1/customers/2");
  const Lines later = world.TakeStatements();
  CHECK(later == Lines{first[0], first[0]});
  CHECK(first[0].find("'") == std::string::npos);
}

TEST_CASE("another tenant's record is absent, whatever is tried") {
  World world(kTenants);
  world.Call(kAcme, "POST", "/v1/orders", R"({"customer_id":"1","number":"N-1"})");
  const std::string absent = world.Get(kGlobex, "/v1/orders/999").response.body;
  const auto like_absent = [&](const Answer& answer) {
    std::string body = answer.response.body;
    const size_t at = body.find("/v1/orders/1\"");
    if (at != std::string::npos) body.replace(at, 12, "/v1/orders/999");
    return answer.status() == 404 && body == absent;
  };
  CHECK(like_absent(world.Get(kGlobex, "/v1/orders/1")));
  CHECK(like_absent(world.Call(kGlobex, "PATCH", "/v1/orders/1", R"({"note":"x"})")));
  CHECK(like_absent(world.Call(kGlobex, "DELETE", "/v1/orders/1")));
  CHECK(world.Get(kGlobex, "/v1/orders?count=exact")["data"] == "[]");
  CHECK(world.Get(kGlobex, "/v1/orders?filter[id]=1")["data"] == "[]");
  // A reference to what they can't see is a reference to nothing.
  Answer foreign = world.Call(kGlobex, "POST", "/v1/orders", R"({"customer_id":"1","number":"X"})");
  CHECK(foreign.status() == 422);
  CHECK(foreign.errors() == Lines{"/customer_id reference_not_found"});
  CHECK(world.Call(kGlobex, "POST", "/v1/orders", R"({"customer_id":"4711","number":"X"})").response.body ==
        foreign.response.body);
  CHECK(world.Call(kAcme, "PATCH", "/v1/orders/1", R"({"customer_id":"2"})").errors() ==
        Lines{"/customer_id reference_not_found"});
  // Nor can a row be moved.
  CHECK(world.Call(kAcme, "PATCH", "/v1/orders/1", R"({"tenant_id":"globex"})").errors() ==
        Lines{"/tenant_id read_only"});
  CHECK(world.Call(kAcme, "POST", "/v1/orders", R"({"customer_id":"1","number":"Y","tenant_id":"globex"})").status() ==
        422);
  CHECK(world.Value("SELECT count(*) FROM shop.orders") == "1");
  // Operators see both.
  CHECK(world.Get(Someone("*"), "/v1/customers?count=exact&sort=id").json().Find("page")->Find("total")->text() == "2");
  CHECK(world.Get(Someone("*"), "/v1/orders/1").status() == 200);
}

TEST_CASE("hidden and unknown names answer alike, in queries and bodies") {
  World world(kTenants);
  for (const std::string name : {"password_hash", "no_such_field"}) {
    for (const std::string& target :
         Lines{StrCat("/v1/customers?fields=id,", name), StrCat("/v1/customers?filter[", name, "]=x"),
               StrCat("/v1/customers?sort=", name), StrCat("/v1/customers?filter[", name, "][is_null]=true"),
               StrCat("/v1/orders?filter[customer.", name, "]=x"), StrCat("/v1/orders?fields=id,customer.", name),
               StrCat("/v1/customers/1?fields=", name), StrCat("/v1/orders?expand=", name)}) {
      INFO(target);
      Answer answer = world.Get(kAcme, target);
      CHECK(answer.status() == 400);
      CHECK(answer.problem() == "unknown-field");
    }
    Answer write = world.Call(kAcme, "PATCH", "/v1/customers/1", StrCat("{\"", name, "\":\"x\"}"));
    CHECK(write.status() == 422);
    CHECK(write.errors() == Lines{StrCat("/", name, " unknown_field")});
  }
  CHECK(world.TakeStatements().empty());
  CHECK(world.Get(kAcme, "/v1/customers/1?fields=*")["password_hash"] == "-");
  // What a role may not read does not exist for it, beside fields that do.
  const Principal viewer = Someone("acme", {"viewer"});
  CHECK(world.Get(viewer, "/v1/customers/1").status() == 200);
  CHECK(world.Get(viewer, "/v1/customers/1")["credit_limit"] == "-");
  CHECK(world.Get(viewer, "/v1/customers?filter[credit_limit][gt]=0").problem() == "unknown-field");
}

TEST_CASE("roles: actions, rows and fields") {
  World world(kTenants);
  const Principal viewer = Someone("acme", {"viewer"}), nobody = Someone("acme", {}),
                  source = Someone("acme", {"source:payments"});
  world.Call(kAcme, "POST", "/v1/orders", R"({"customer_id":"1","number":"N-1","status":"draft"})");
  world.Call(kAcme, "POST", "/v1/orders", R"({"customer_id":"1","number":"N-2","status":"open"})");
  CHECK(world.Get(nobody, "/v1/orders").problem() == "forbidden");
  CHECK(world.Get(nobody, "/v1/orders/1").problem() == "forbidden");
  CHECK(world.Call(viewer, "PATCH", "/v1/orders/2", "{}").problem() == "forbidden");
  CHECK(world.Call(viewer, "POST", "/v1/orders", "{}").status() == 403);
  // where: 'filter[status][ne]=draft'
  CHECK(world.Get(viewer, "/v1/orders/1").problem() == "not-found");
  CHECK(world.Get(viewer, "/v1/orders/2").status() == 200);
  Answer listed = world.Get(viewer, "/v1/orders?count=exact&fields=id");
  CHECK(listed["data"] == R"([{"id":"2"}])");
  CHECK(listed.json().Find("page")->Find("total")->text() == "1");
  Answer expanded = world.Get(viewer, "/v1/customers/1?fields=id&expand=orders&expand[orders][fields]=id");
  CHECK(
      expanded.response.body ==
      R"({"id":"1","orders":{"data":[{"id":"2"}],"page":{"limit":10,"has_more":false,"next_cursor":null,"prev_cursor":null}}})");
  CHECK(world.Get(viewer, "/v1/customers?filter[orders][some][number]=N-1")["data"] == "[]");
  // write: [status]
  CHECK(world.Call(source, "PATCH", "/v1/orders/2", R"({"status":"paid"})")["status"] == "paid");
  CHECK(world.Call(source, "PATCH", "/v1/orders/2", R"({"note":"x"})").errors() == Lines{"/note read_only"});
  CHECK(world.Call(source, "DELETE", "/v1/orders/2").problem() == "forbidden");
}

TEST_CASE("everything wrong with a body is said at once, and nothing is written") {
  World world(kTenants);
  world.TakeStatements();
  Answer answer = world.Call(
      kAcme, "POST", "/v1/customers",
      R"({"email":"nonsense","country":"xx","credit_limit":"0.001","born_on":"2023-02-30","marketing_consent":"true","version":3,"__proto__":1})");
  CHECK(answer.status() == 422);
  CHECK(answer.problem() == "validation-failed");
  CHECK(answer.errors() == Lines{"/email pattern", "/country pattern", "/credit_limit out_of_range",
                                 "/born_on invalid_type", "/marketing_consent invalid_type", "/version read_only",
                                 "/__proto__ unknown_field", "/name required"});
  CHECK(world.TakeStatements().empty());
  CHECK(world.Call(kAcme, "POST", "/v1/customers", "[]").status() == 422);
  CHECK(world.Call(kAcme, "POST", "/v1/customers", "{\"a\":1,\"a\":2}").problem() == "json-duplicate-key");
  CHECK(world.Call(kAcme, "POST", "/v1/customers", "{").problem() == "json-invalid");
  CHECK(world.Call(kAcme, "POST", "/v1/customers", "").problem() == "json-invalid");
  CHECK(world.Call(kAcme, "POST", "/v1/customers", "{}", {{"content-type", "text/plain"}}).problem() ==
        "unsupported-media-type");
  Answer patch = world.Call(kAcme, "PATCH", "/v1/customers/1", "[]", {{"content-type", "application/json-patch+json"}});
  CHECK(patch.status() == 415);
  CHECK(patch.header("accept-patch") == "application/merge-patch+json, application/json");
  CHECK(world.Call(kAcme, "PATCH", "/v1/customers/1", R"({"name":null})").errors() == Lines{"/name required"});
  CHECK(world.Call(kAcme, "PATCH", "/v1/customers/1", R"({"id":"7"})").errors() == Lines{"/id read_only"});
  CHECK(world.Call(kAcme, "POST", "/v1/orders?typo=1", "{}").problem() == "invalid-parameter");
}

TEST_CASE("what PostgreSQL refuses is told in the user's names") {
  World world(kTenants);
  Answer twice = world.Call(kAcme, "POST", "/v1/customers", R"({"email":"ada@example.com","name":"Again"})");
  CHECK(twice.status() == 409);
  CHECK(twice.problem() == "unique-violation");
  CHECK(twice.errors() == Lines{"/email unique"});
  // The same address for another tenant is fine.
  CHECK(world.Call(kGlobex, "POST", "/v1/customers", R"({"email":"ada@example.com","name":"Other"})").status() == 201);
  Answer negative = world.Call(kAcme, "PATCH", "/v1/customers/1", R"({"credit_limit":"-1"})");
  CHECK(negative.status() == 422);
  CHECK(negative.errors() == Lines{"/credit_limit rule_violation"});
  world.Call(kAcme, "POST", "/v1/orders", R"({"customer_id":"1","number":"N-1"})");
  CHECK(world.Call(kAcme, "DELETE", "/v1/customers/1").problem() == "still-referenced");
  for (const Answer& answer : {std::move(twice), std::move(negative)})
    CHECK(answer.response.body.find("customers_") == std::string::npos);
  // And the connection is as good as before.
  CHECK(world.Get(kAcme, "/v1/customers/1").status() == 200);
}

TEST_CASE("validate_only answers the same and writes nothing") {
  World world(kTenants);
  Answer answer =
      world.Call(kAcme, "POST", "/v1/customers?validate_only=true", R"({"email":"eve@example.com","name":"Eve"})");
  CHECK(answer.status() == 201);
  CHECK(answer["name"] == "Eve");
  CHECK(world.Value("SELECT count(*) FROM shop.customers WHERE name = 'Eve'") == "0");
  CHECK(world.Call(kAcme, "PATCH", "/v1/customers/1?validate_only=true", R"({"name":"Z"})")["name"] == "Z");
  CHECK(world.Get(kAcme, "/v1/customers/1")["name"] == "Ada");
  CHECK(world.Call(kAcme, "POST", "/v1/customers?validate_only=true", R"({"email":"ada@example.com","name":"Eve"})")
            .status() == 409);
}

TEST_CASE("PUT creates or replaces where clients choose the key") {
  World world(kTenants);
  world.Call(kAcme, "POST", "/v1/orders", R"({"customer_id":"1","number":"N-1"})");
  const std::string body =
      R"({"order_id":"1","status":"pending","amount":"5","currency":"EUR","provider_updated_at":"2026-01-01T00:00:00Z"})";
  Answer created = world.Call(kAcme, "PUT", "/v1/payments/pay%2C1", body);
  REQUIRE(created.status() == 201);
  CHECK(created["id"] == "pay,1");
  CHECK(created.header("location") == "/v1/payments/pay%2C1");
  CHECK(world.Get(kAcme, "/v1/payments/pay%2C1").status() == 200);
  CHECK(world.Call(kAcme, "PUT", "/v1/payments/pay%2C1", body, {{"if-none-match", "*"}}).problem() ==
        "precondition-failed");
  Answer replaced = world.Call(
      kAcme, "PUT", "/v1/payments/pay%2C1",
      R"({"id":"pay,1","order_id":"1","status":"succeeded","amount":"6","currency":"EUR","provider_updated_at":"2026-01-02T00:00:00Z"})");
  CHECK(replaced.status() == 200);
  CHECK(replaced["amount"] == "6.00");
  CHECK(world.Call(kAcme, "PUT", "/v1/payments/other", body, {{"if-match", "*"}}).status() == 412);
  CHECK(world.Call(kAcme, "PUT", "/v1/payments/pay%2C1", R"({"id":"else"})").errors()[0] == "/id read_only");
  // The key belongs to acme: for globex it is taken, and no more than that is told.
  CHECK(world.Call(kGlobex, "PUT", "/v1/payments/pay%2C1", body).status() >= 409);
  CHECK(world.Call(kAcme, "PUT", "/v1/orders/1", "{}").status() == 405);
}

TEST_CASE("methods, media types and unknown paths") {
  World world(kTenants);
  Answer wrong = world.Call(kAcme, "DELETE", "/v1/orders");
  CHECK(wrong.status() == 405);
  CHECK(wrong.header("allow") == "GET, HEAD, POST, QUERY, OPTIONS");
  CHECK(world.Call(kAcme, "POST", "/v1/orders/1", "{}").header("allow") == "GET, HEAD, PATCH, DELETE, OPTIONS");
  CHECK(world.Call(kAcme, "OPTIONS", "/v1/orders").status() == 204);
  for (const char* target :
       {"/v1", "/v1/", "/v1/nothing", "/v1/Orders", "/v1/orders/", "/v1/orders/1/more", "/v1/orders:what",
        "/v1/orders/abc", "/v1/orders/9223372036854775808", "/v1/orders/1'--"}) {
    INFO(target);
    CHECK(world.Get(kAcme, target).problem() == "not-found");
  }
  CHECK(world.Call(kAcme, "GET", "/v1/orders", "", {{"accept", "text/html"}}).status() == 406);
  CHECK(world.Call(kAcme, "GET", "/v1/orders", "", {{"accept", "text/html, application/*;q=0.1"}}).status() == 200);
  CHECK(world.Get(kAcme, "/v1/orders/1?limit=3").problem() == "invalid-parameter");
}

TEST_CASE("of two writers with one tag exactly one wins") {
  World world(kTenants);
  const std::string etag = world.Get(kAcme, "/v1/customers/1").header("etag");
  std::vector<std::function<boost::asio::awaitable<http::Response>()>> calls;
  for (int i = 0; i < 8; ++i)
    calls.push_back([&, i] {
      return world.Start(kAcme, "PATCH", "/v1/customers/1", StrCat("{\"name\":\"W", i, "\"}"), {{"if-match", etag}});
    });
  int won = 0, lost = 0;
  for (const Answer& answer : world.CallAll(calls)) {
    won += answer.status() == 200;
    lost += answer.status() == 412;
  }
  CHECK(won == 1);
  CHECK(lost == 7);
  CHECK(world.Get(kAcme, "/v1/customers/1")["version"] == "2");
}

TEST_CASE("an Idempotency-Key makes one effect of many tries") {
  World world(kTenants);
  const std::string body = R"({"customer_id":"1","number":"I-1"})";
  const Headers key = {{"idempotency-key", "\"abc\""}};
  Answer first = world.Call(kAcme, "POST", "/v1/orders", body, key);
  REQUIRE(first.status() == 201);
  Answer again = world.Call(kAcme, "POST", "/v1/orders", body, key);
  CHECK(again.status() == 201);
  CHECK(again.response.body == first.response.body);
  CHECK(again.header("idempotent-replayed") == "true");
  CHECK(again.header("location") == first.header("location"));
  CHECK(again.header("etag") == first.header("etag"));
  CHECK(world.Call(kAcme, "POST", "/v1/orders", R"({"customer_id":"1","number":"I-2"})", key).problem() ==
        "idempotency-key-reused");
  // Another principal's key of the same text is another key.
  CHECK(
      world
          .Call(Someone("acme", {"admin"}, "key_2"), "POST", "/v1/orders", R"({"customer_id":"1","number":"I-3"})", key)
          .status() == 201);
  // A refused request leaves nothing behind.
  CHECK(world.Call(kAcme, "POST", "/v1/orders", body, {{"idempotency-key", "k2"}}).status() == 409);
  CHECK(world.Value("SELECT count(*) FROM mainstay.idempotency") == "2");
  CHECK(world.Call(kAcme, "POST", "/v1/orders", body, {{"idempotency-key", std::string(256, 'x')}}).status() == 400);
  // At once: one is made, the others get its answer or are told to wait.
  std::vector<std::function<boost::asio::awaitable<http::Response>()>> calls;
  for (int i = 0; i < 6; ++i)
    calls.push_back([&] {
      return world.Start(kAcme, "POST", "/v1/orders", R"({"customer_id":"1","number":"I-9"})",
                         {{"idempotency-key", "k9"}});
    });
  int created = 0, fresh = 0;
  for (const Answer& answer : world.CallAll(calls)) {
    INFO(answer.response.body);
    CHECK((answer.status() == 201 || answer.problem() == "idempotency-in-progress"));
    created += answer.status() == 201;
    fresh += answer.status() == 201 && answer.header("idempotent-replayed").empty();
  }
  CHECK(created >= 1);
  CHECK(fresh == 1);
  CHECK(world.Value("SELECT count(*) FROM shop.orders WHERE number = 'I-9'") == "1");
}

TEST_CASE("a merge patch reaches into JSON columns") {
  World world(kTenants);
  world.Sql(R"(UPDATE shop.products SET attributes = '{"color":"red","size":{"w":1,"h":2}}' WHERE id = 1)");
  Answer answer = world.Call(kAcme, "PATCH", "/v1/products/1",
                             R"({"attributes":{"color":null,"size":{"h":3},"new":[1]},"tags":["a","b \"c\""]})");
  REQUIRE(answer.status() == 200);
  CHECK(answer["tags"] == R"(["a","b \"c\""])");
  CHECK(world.Value("SELECT attributes = '{\"size\":{\"w\":1,\"h\":3},\"new\":[1]}' FROM shop.products WHERE id = 1") ==
        "t");
}

}  // namespace
}  // namespace mainstay::records
