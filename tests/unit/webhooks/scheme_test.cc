// SPDX-License-Identifier: Apache-2.0
// The engine against verdicts recorded from the senders' own libraries (tests/data/webhook-vectors.json): ours must say
// what a byte-exact verifier with a replay window says, also where those libraries are lenient.
#include "libs/webhooks/scheme.h"

#include <catch2/catch.hpp>
#include <map>

#include "libs/base/crypto.h"
#include "libs/base/json.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "tests/support/environment.h"
#include "tests/support/status.h"

namespace mainstay::webhooks {
namespace {

using mainstay::testing::IsOk;
using mainstay::testing::StatusIs;

Scheme Compiled(const catalog::SignatureScheme& declared) {
  absl::StatusOr<Scheme> scheme = Scheme::Compile(declared);
  REQUIRE_THAT(scheme, IsOk());
  return *scheme;
}

Scheme Preset(std::string name) {
  catalog::SignatureScheme declared;
  declared.preset = std::move(name);
  return Compiled(declared);
}

std::string PresetOf(const JsonValue& vector) {
  if (const JsonValue* scheme = vector.Find("scheme")) return std::string(scheme->text());
  std::string provider(vector.Find("provider")->text());
  return provider == "standardwebhooks" ? "standard-webhooks" : provider;
}

Delivery ToDelivery(const JsonValue& vector) {
  Delivery delivery;
  delivery.method = std::string(vector.Find("method")->text());
  for (const auto& header : vector.Find("headers")->members()) {
    std::string name(header.key);
    for (char& c : name)
      if (c >= 'A' && c <= 'Z') c = char(c - 'A' + 'a');
    delivery.headers.emplace_back(name, std::string(header.value.text()));
  }
  auto body = Base64Decode(vector.Find("body_base64")->text());
  REQUIRE(body.has_value());
  delivery.body = *body;
  return delivery;
}

TEST_CASE("every recorded delivery gets the strict verdict") {
  JsonLimits limits;
  limits.depth = 64;
  auto document =
      JsonDocument::Parse(testing::ReadFile(testing::SourceDir() + "/tests/data/webhook-vectors.json"), limits);
  REQUIRE_THAT(document, IsOk());
  std::map<std::string, int> checked;
  for (const JsonValue& vector : document->root().items()) {
    const std::string preset = PresetOf(vector);
    Delivery delivery = ToDelivery(vector);
    std::vector<std::string> secrets;
    for (const JsonValue& secret : vector.Find("secrets")->items()) secrets.emplace_back(secret.text());
    const absl::Time now = absl::FromUnixSeconds(std::stoll(std::string(vector.Find("now_unix")->text())));
    Verdict verdict = Preset(preset).Verify(delivery, vector.Find("url")->text(), secrets, now);
    INFO(preset << " " << vector.Find("name")->text() << ": " << vector.Find("why")->text() << "; we say "
                << verdict.reason);
    CHECK(verdict.authentic == vector.Find("strict_valid")->boolean());
    ++checked[preset];
  }
  CHECK(checked.size() == 9);
  CHECK(checked["stripe"] >= 30);
}

// Signs as Stripe does, by another path than the engine's own.
Delivery StripeDelivery(const std::string& secret, const std::string& body, int64_t t) {
  Delivery delivery;
  delivery.body = body;
  delivery.headers.emplace_back("stripe-signature",
                                StrCat("t=", t, ",v1=", HexEncode(HmacSha256(secret, StrCat(t, ".", body)))));
  return delivery;
}

TEST_CASE("tolerance is declared apart for past and future") {
  catalog::SignatureScheme declared;
  declared.preset = "stripe";
  declared.tolerance_past = absl::Seconds(10);
  declared.tolerance_future = absl::Seconds(2);
  Scheme scheme = Compiled(declared);
  const std::vector<std::string> secrets = {"whsec_abc"};
  Delivery delivery = StripeDelivery("whsec_abc", "{}", 1000);
  CHECK(scheme.Verify(delivery, "", secrets, absl::FromUnixSeconds(1010)).authentic);
  CHECK(scheme.Verify(delivery, "", secrets, absl::FromUnixSeconds(1011)).reason == "too_old");
  CHECK(scheme.Verify(delivery, "", secrets, absl::FromUnixSeconds(998)).authentic);
  CHECK(scheme.Verify(delivery, "", secrets, absl::FromUnixSeconds(997)).reason == "too_new");
}

TEST_CASE("a second signature header is refused whatever it holds") {
  Scheme scheme = Preset("stripe");
  Delivery delivery = StripeDelivery("whsec_abc", "{}", 1000);
  delivery.headers.push_back(delivery.headers[0]);
  CHECK(scheme.Verify(delivery, "", {"whsec_abc"}, absl::FromUnixSeconds(1000)).reason == "signature_missing");
}

TEST_CASE("the matching secret is named and unusable ones are passed over") {
  Scheme scheme = Preset("stripe");
  Delivery delivery = StripeDelivery("new", "{}", 1000);
  Verdict verdict = scheme.Verify(delivery, "", {"", "old", "new"}, absl::FromUnixSeconds(1000));
  CHECK(verdict.authentic);
  CHECK(verdict.secret == 2);
  CHECK(scheme.Verify(delivery, "", {}, absl::FromUnixSeconds(1000)).reason == "no_usable_secret");
  CHECK(Preset("standard-webhooks").Verify(delivery, "", {"x"}, absl::FromUnixSeconds(1000)).reason ==
        "signature_missing");
}

TEST_CASE("slack and zoom sign version, time and body with colons between") {
  for (const char* name : {"slack", "zoom"}) {
    const std::string prefix = std::string(name) == "slack" ? "x-slack-" : "x-zm-";
    Delivery delivery;
    delivery.body = "payload=%7B%7D";
    delivery.headers = {{prefix + "request-timestamp", "1000"},
                        {prefix + "signature", StrCat("v0=", HexEncode(HmacSha256("s", "v0:1000:payload=%7B%7D")))}};
    CHECK(Preset(name).Verify(delivery, "", {"s"}, absl::FromUnixSeconds(1001)).authentic);
    delivery.body += " ";
    CHECK(Preset(name).Verify(delivery, "", {"s"}, absl::FromUnixSeconds(1001)).reason == "mismatch");
  }
}

TEST_CASE("paddle separates by semicolons and takes any of several signatures") {
  Delivery delivery;
  delivery.body = "{}";
  std::string good = HexEncode(HmacSha256("s", "1000:{}"));
  delivery.headers = {{"paddle-signature", StrCat("ts=1000;h1=", std::string(64, '0'), ";h1=", good)}};
  CHECK(Preset("paddle").Verify(delivery, "", {"s"}, absl::FromUnixSeconds(1001)).authentic);
}

TEST_CASE("square signs the address it was told") {
  Delivery delivery;
  delivery.body = "{}";
  delivery.headers = {
      {"x-square-hmacsha256-signature", Base64Encode(HmacSha256("s", "https://hooks.example.com/hooks/square{}"))}};
  CHECK(
      Preset("square").Verify(delivery, "https://hooks.example.com/hooks/square", {"s"}, absl::UnixEpoch()).authentic);
  CHECK_FALSE(
      Preset("square").Verify(delivery, "https://hooks.example.com/hooks/other", {"s"}, absl::UnixEpoch()).authentic);
}

TEST_CASE("linear's time stands inside the signed body") {
  Delivery delivery;
  delivery.body = R"({"webhookTimestamp":1000000,"type":"Issue"})";
  delivery.headers = {{"linear-signature", HexEncode(HmacSha256("s", delivery.body))}};
  CHECK(Preset("linear").Verify(delivery, "", {"s"}, absl::FromUnixSeconds(1060)).authentic);
  CHECK(Preset("linear").Verify(delivery, "", {"s"}, absl::FromUnixSeconds(1061)).reason == "too_old");
  delivery.body = R"({"type":"Issue"})";
  delivery.headers = {{"linear-signature", HexEncode(HmacSha256("s", delivery.body))}};
  CHECK(Preset("linear").Verify(delivery, "", {"s"}, absl::FromUnixSeconds(1060)).reason == "timestamp_missing");
}

TEST_CASE("a scheme without preset is declared in words") {
  catalog::SignatureScheme declared;
  declared.signature_header = "X-Sig";
  declared.header_format = "prefix:sig=";
  declared.encoding = "base64url";
  declared.key_encoding = "hex";
  Scheme scheme = Compiled(declared);
  Delivery delivery;
  delivery.body = "hello";
  delivery.headers = {{"x-sig", StrCat("sig=", Base64UrlEncode(HmacSha256("\x01\x02", "hello")))}};
  CHECK(scheme.Verify(delivery, "", {"0102"}, absl::UnixEpoch()).authentic);
}

TEST_CASE("what cannot be a safe scheme does not compile") {
  auto refused = [](auto change, const char* text) {
    catalog::SignatureScheme declared;
    declared.preset = "stripe";
    change(declared);
    CHECK_THAT(Scheme::Compile(declared), StatusIs(absl::StatusCode::kInvalidArgument, text));
  };
  refused([](auto& d) { d.preset = "strype"; }, "known are calendly");
  refused([](auto& d) { d.algorithm = "md5"; }, "algorithm");
  refused([](auto& d) { d.signed_content = "{sig:t}"; }, "{body} is missing");
  refused([](auto& d) { d.signed_content = "{sig:t}.{body}{secret}"; }, "{secret}");
  refused([](auto& d) { d.signed_content = "{nonsense}.{body}"; }, "no token");
  refused([](auto& d) { d.timestamp = "header:X-Unsigned"; }, "part of signed_content");
  refused([](auto& d) { d.encoding = "rot13"; }, "encoding");
  refused([](auto& d) { d.header_format = "pairs"; }, "header_format");
}

TEST_CASE("every preset compiles") {
  for (const std::string& name : PresetNames()) Preset(name);
  CHECK(PresetNames().size() >= 15);
}

}  // namespace
}  // namespace mainstay::webhooks
