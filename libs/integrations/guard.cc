// SPDX-License-Identifier: Apache-2.0
#include "libs/integrations/guard.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <unicode/uidna.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"

namespace mainstay::integrations {
namespace {

constexpr char kReasonPayload[] = "mainstay/guard-reason";

absl::Status Refuse(std::string_view reason) {
  absl::Status status = absl::InvalidArgumentError("url_not_allowed");
  status.SetPayload(kReasonPayload, absl::Cord(ToAbsl(reason)));
  return status;
}

bool AllDigits(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

bool IsHex(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

// A label that lenient readers take for a number.
bool NumericLabel(std::string_view label) {
  if (AllDigits(label)) return true;
  return label.size() >= 2 && label[0] == '0' && (label[1] == 'x' || label[1] == 'X') &&
         std::all_of(label.begin() + 2, label.end(), IsHex);
}

std::string Lower(std::string_view text) {
  std::string out(text);
  for (char& c : out)
    if (c >= 'A' && c <= 'Z') c = char(c - 'A' + 'a');
  return out;
}

bool EndsWith(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

// UTS 46, strict, to ASCII; nullopt for what IDNA refuses.
std::optional<std::string> ToAscii(std::string_view host) {
  struct Closer {
    void operator()(UIDNA* idna) const { uidna_close(idna); }
  };
  static const std::unique_ptr<UIDNA, Closer> idna = [] {
    UErrorCode error = U_ZERO_ERROR;
    return std::unique_ptr<UIDNA, Closer>(uidna_openUTS46(UIDNA_USE_STD3_RULES | UIDNA_CHECK_BIDI |
                                                              UIDNA_CHECK_CONTEXTJ | UIDNA_NONTRANSITIONAL_TO_ASCII |
                                                              UIDNA_NONTRANSITIONAL_TO_UNICODE,
                                                          &error));
  }();
  if (idna == nullptr) return std::nullopt;
  char buffer[512];
  UIDNAInfo info = UIDNA_INFO_INITIALIZER;
  UErrorCode error = U_ZERO_ERROR;
  int32_t length =
      uidna_nameToASCII_UTF8(idna.get(), host.data(), int32_t(host.size()), buffer, sizeof buffer, &info, &error);
  if (U_FAILURE(error) || info.errors != 0 || length <= 0 || length >= int32_t(sizeof buffer)) return std::nullopt;
  return std::string(buffer, size_t(length));
}

bool ValidName(std::string_view host) {
  if (host.empty() || host.size() > 253) return false;
  while (true) {
    size_t dot = host.find('.');
    std::string_view label = host.substr(0, dot);
    if (label.empty() || label.size() > 63 || label.front() == '-' || label.back() == '-') return false;
    for (char c : label)
      if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-')) return false;
    if (dot == std::string_view::npos) return true;
    host = host.substr(dot + 1);
  }
}

struct Class {
  const char* cidr;
  const char* reason;
};

// The first match counts. Metadata stands in front of the networks that contain it.
constexpr Class kIpv4Classes[] = {
    {"169.254.169.254/32", "metadata"},  {"169.254.170.2/32", "metadata"},  {"169.254.170.23/32", "metadata"},
    {"100.100.100.200/32", "metadata"},  {"192.0.0.192/32", "metadata"},    {"168.63.129.16/32", "metadata"},
    {"0.0.0.0/8", "unspecified"},        {"10.0.0.0/8", "private"},         {"100.64.0.0/10", "cgnat"},
    {"127.0.0.0/8", "loopback"},         {"169.254.0.0/16", "link_local"},  {"172.16.0.0/12", "private"},
    {"192.0.0.0/24", "reserved"},        {"192.0.2.0/24", "documentation"}, {"192.88.99.0/24", "reserved"},
    {"192.168.0.0/16", "private"},       {"198.18.0.0/15", "benchmark"},    {"198.51.100.0/24", "documentation"},
    {"203.0.113.0/24", "documentation"}, {"224.0.0.0/4", "multicast"},      {"255.255.255.255/32", "broadcast"},
    {"240.0.0.0/4", "reserved"},
};
constexpr Class kIpv6Classes[] = {
    {"fd00:ec2::254/128", "metadata"},  {"fd20:ce::254/128", "metadata"},
    {"::/128", "unspecified"},          {"::1/128", "loopback"},
    {"::ffff:0:0/96", "embedded_ipv4"}, {"::ffff:0:0:0/96", "embedded_ipv4"},
    {"::/96", "embedded_ipv4"},         {"64:ff9b::/96", "nat64"},
    {"64:ff9b:1::/48", "nat64"},        {"fe80::/10", "link_local"},
    {"fec0::/10", "site_local"},        {"fc00::/7", "ula"},
    {"ff00::/8", "multicast"},          {"2002::/16", "tunnel_prefix"},
    {"2001::/32", "tunnel_prefix"},     {"2001:db8::/32", "documentation"},
    {"3fff::/20", "documentation"},     {"2001::/23", "reserved"},
};

const std::vector<std::pair<Cidr, std::string_view>>& Classes() {
  static const auto* classes = [] {
    auto* out = new std::vector<std::pair<Cidr, std::string_view>>();
    for (const Class& c : kIpv4Classes) out->emplace_back(*Cidr::Parse(c.cidr), c.reason);
    for (const Class& c : kIpv6Classes) out->emplace_back(*Cidr::Parse(c.cidr), c.reason);
    return out;
  }();
  return *classes;
}

std::string_view ClassOf(const Address& address) {
  for (const auto& [cidr, reason] : Classes())
    if (cidr.Contains(address)) return reason;
  if (!address.v6) return {};
  static const Cidr kGlobal = *Cidr::Parse("2000::/3");
  if (!kGlobal.Contains(address)) return "reserved";
  // ISATAP: an interface id that carries an IPv4 address.
  const auto& b = address.bytes;
  if ((b[8] == 0x00 || b[8] == 0x02) && b[9] == 0x00 && b[10] == 0x5e && b[11] == 0xfe) return "embedded_ipv4";
  return {};
}

// What libcurl reads out of the rebuilt URL must be what was checked.
bool CurlAgrees(const Target& target) {
  std::unique_ptr<CURLU, void (*)(CURLU*)> url(curl_url(), curl_url_cleanup);
  if (url == nullptr || curl_url_set(url.get(), CURLUPART_URL, target.Url().c_str(), 0) != CURLUE_OK) return false;
  char* host = nullptr;
  if (curl_url_get(url.get(), CURLUPART_HOST, &host, 0) != CURLUE_OK) return false;
  std::string_view seen(host);
  if (seen.size() > 2 && seen.front() == '[') seen = seen.substr(1, seen.size() - 2);
  bool same = seen == target.host;
  if (!same && target.literal && target.literal->v6) {
    auto parsed = Address::Parse(seen);
    same = parsed && *parsed == *target.literal;
  }
  curl_free(host);
  return same;
}

// Path and query: escapes must be whole and hide no control character; bytes above ASCII are escaped.
std::optional<std::string> CleanPath(std::string_view text) {
  std::string out;
  if (text.empty() || text[0] != '/') out = "/";
  for (size_t i = 0; i < text.size(); ++i) {
    unsigned char c = static_cast<unsigned char>(text[i]);
    if (c == '%') {
      if (i + 2 >= text.size() || !IsHex(text[i + 1]) || !IsHex(text[i + 2])) return std::nullopt;
      std::optional<std::string> byte = HexDecode(text.substr(i + 1, 2));
      if (!byte || static_cast<unsigned char>((*byte)[0]) < 0x20 || (*byte)[0] == 0x7f) return std::nullopt;
    }
    if (c >= 0x80) {
      constexpr char kDigits[] = "0123456789ABCDEF";
      out += '%';
      out += kDigits[c >> 4];
      out += kDigits[c & 15];
    } else {
      out += char(c);
    }
  }
  return out;
}

}  // namespace

std::optional<Address> Address::Parse(std::string_view text) {
  if (text.empty() || text.size() > 45 || text.find('\0') != std::string_view::npos) return std::nullopt;
  std::string zero_ended(text);
  Address address;
  if (text.find(':') == std::string_view::npos) {
    if (inet_pton(AF_INET, zero_ended.c_str(), address.bytes.data()) != 1) return std::nullopt;
    if (address.ToString() != text) return std::nullopt;
    return address;
  }
  address.v6 = true;
  if (inet_pton(AF_INET6, zero_ended.c_str(), address.bytes.data()) != 1) return std::nullopt;
  return address;
}

std::string Address::ToString() const {
  char text[INET6_ADDRSTRLEN];
  return inet_ntop(v6 ? AF_INET6 : AF_INET, bytes.data(), text, sizeof text);
}

absl::StatusOr<Cidr> Cidr::Parse(std::string_view text) {
  size_t slash = text.find('/');
  auto base = Address::Parse(text.substr(0, slash));
  int bits = -1;
  if (!base || (slash != std::string_view::npos &&
                (!AllDigits(text.substr(slash + 1)) || !absl::SimpleAtoi(ToAbsl(text.substr(slash + 1)), &bits))))
    return absl::InvalidArgumentError(StrCat("\"", text, "\" is no network; expected e.g. 10.20.0.0/24 or fd00::/8"));
  int most = base->v6 ? 128 : 32;
  if (slash == std::string_view::npos) bits = most;
  if (bits < 0 || bits > most) return absl::InvalidArgumentError(StrCat("\"", text, "\": at most ", most, " bits"));
  return Cidr{*base, bits};
}

bool Cidr::Contains(const Address& address) const {
  if (address.v6 != base.v6) return false;
  int whole = bits / 8, rest = bits % 8;
  if (std::memcmp(address.bytes.data(), base.bytes.data(), size_t(whole)) != 0) return false;
  if (rest == 0) return true;
  uint8_t mask = uint8_t(0xff << (8 - rest));
  return (address.bytes[size_t(whole)] & mask) == (base.bytes[size_t(whole)] & mask);
}

std::string Target::Origin() const {
  bool v6 = literal && literal->v6;
  bool standard = (scheme == "https" && port == 443) || (scheme == "http" && port == 80);
  return StrCat(scheme, "://", v6 ? "[" : "", host, v6 ? "]" : "", standard ? "" : StrCat(":", port));
}

std::string Target::Url() const {
  return StrCat(Origin(), path);
}

std::string_view CheckAddress(const GuardPolicy& policy, const Address& address) {
  if (std::find(policy.self.begin(), policy.self.end(), address) != policy.self.end()) return "self";
  std::string_view reason = ClassOf(address);
  if (reason == "metadata") return reason;
  for (const Cidr& cidr : policy.allow)
    if (cidr.Contains(address)) return {};
  if (reason == "nat64") {
    for (const Cidr& cidr : policy.nat64) {
      if (cidr.bits != 96 || !cidr.Contains(address)) continue;
      Address inner;
      std::copy(address.bytes.begin() + 12, address.bytes.end(), inner.bytes.begin());
      return CheckAddress(policy, inner).empty() ? std::string_view() : "nat64";
    }
  }
  return reason;
}

absl::Status CheckAnswers(const GuardPolicy& policy, absl::Span<const Address> answers) {
  if (answers.empty()) return Refuse("no_answers");
  size_t bad = 0;
  std::string_view first;
  for (const Address& answer : answers) {
    std::string_view reason = CheckAddress(policy, answer);
    if (reason.empty()) continue;
    if (bad++ == 0) first = reason;
  }
  if (bad == 0) return absl::OkStatus();
  return Refuse(bad < answers.size() ? "mixed_answers" : first);
}

absl::StatusOr<Target> CheckUrl(const GuardPolicy& policy, std::string_view url) {
  if (url.size() > 8192) return Refuse("malformed_url");
  for (char c : url)
    if (static_cast<unsigned char>(c) <= 0x20 || c == 0x7f || c == '\\' || c == '#') return Refuse("malformed_url");
  size_t colon = url.find(':');
  if (colon == 0 || colon == std::string_view::npos) return Refuse("malformed_url");
  Target target;
  target.scheme = Lower(url.substr(0, colon));
  for (char c : target.scheme)
    if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '+' || c == '-' || c == '.'))
      return Refuse("malformed_url");
  if (target.scheme != "https" && target.scheme != "http") return Refuse("scheme");
  std::string_view rest = url.substr(colon + 1);
  if (rest.substr(0, 2) != "//") return Refuse("malformed_url");
  rest.remove_prefix(2);
  size_t end = rest.find_first_of("/?");
  std::string_view authority = rest.substr(0, end);
  std::optional<std::string> path = CleanPath(end == std::string_view::npos ? std::string_view() : rest.substr(end));
  if (authority.find('@') != std::string_view::npos) return Refuse("userinfo");
  if (authority.empty() || !path) return Refuse("malformed_url");
  target.path = *std::move(path);

  std::string_view raw_host = authority, port_text;
  bool has_port = false;
  if (authority[0] == '[') {
    size_t close = authority.find(']');
    if (close == std::string_view::npos) return Refuse("malformed_url");
    raw_host = authority.substr(1, close - 1);
    std::string_view after = authority.substr(close + 1);
    if (!after.empty()) {
      if (after[0] != ':') return Refuse("malformed_url");
      has_port = true;
      port_text = after.substr(1);
    }
    if (raw_host.find("%25") != std::string_view::npos) return Refuse("zone_id");
    target.literal = Address::Parse(raw_host);
    if (!target.literal || !target.literal->v6) return Refuse("malformed_url");
    target.host = target.literal->ToString();
  } else {
    size_t at = authority.find(':');
    if (at != std::string_view::npos) {
      raw_host = authority.substr(0, at);
      port_text = authority.substr(at + 1);
      has_port = true;
      if (port_text.find(':') != std::string_view::npos) return Refuse("malformed_url");
    }
  }
  target.port = target.scheme == "https" ? 443 : 80;
  if (has_port && (!AllDigits(port_text) || port_text.size() > 5 ||
                   !absl::SimpleAtoi(ToAbsl(port_text), &target.port) || target.port > 65535))
    return Refuse("malformed_url");

  if (!target.literal) {
    if (raw_host.empty()) return Refuse("malformed_url");
    if (raw_host.find('%') != std::string_view::npos) {
      std::optional<std::string> decoded = PercentDecode(raw_host, false);
      bool numeric = decoded && decoded->find('\0') == std::string::npos &&
                     NumericLabel(std::string_view(*decoded).substr(decoded->rfind('.') + 1));
      return Refuse(numeric ? "noncanonical_ip" : "malformed_url");
    }
    bool ascii =
        std::all_of(raw_host.begin(), raw_host.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
    std::string host = Lower(raw_host);
    if (!ascii || host.find("xn--") != std::string::npos) {
      std::optional<std::string> converted = ToAscii(raw_host);
      if (!converted) return Refuse("malformed_url");
      host = Lower(*converted);
    }
    if (std::optional<Address> literal = Address::Parse(host); literal && host == raw_host) {
      target.literal = literal;
      target.host = host;
    } else {
      if (EndsWith(host, ".")) host.pop_back();
      if (NumericLabel(std::string_view(host).substr(host.rfind('.') + 1)) && host.find("..") == std::string::npos)
        return Refuse("noncanonical_ip");
      if (!ValidName(host)) return Refuse("malformed_url");
      target.host = host;
      if (host.find('.') == std::string::npos || EndsWith(host, ".localhost")) return Refuse("internal_name");
      for (const std::string& suffix : policy.internal_suffixes)
        if (EndsWith(host, suffix)) return Refuse("internal_name");
    }
  }

  bool laboratory = false;
  if (target.literal) {
    std::string_view reason = CheckAddress(policy, *target.literal);
    if (!reason.empty()) return Refuse(reason);
    for (const Cidr& cidr : policy.allow) laboratory |= cidr.Contains(*target.literal);
    if (!laboratory && !policy.allow_ip_literals) return Refuse("ip_literal_not_allowed");
  }
  if (!laboratory && std::find(policy.schemes.begin(), policy.schemes.end(), target.scheme) == policy.schemes.end())
    return Refuse("scheme");
  if (target.port == 0 ||
      (!laboratory && std::find(policy.ports.begin(), policy.ports.end(), target.port) == policy.ports.end()))
    return Refuse("port");
  if (!CurlAgrees(target)) return Refuse("malformed_url");
  return target;
}

absl::StatusOr<Target> CheckReference(const GuardPolicy& policy, const Target& base, std::string_view reference) {
  std::string url;
  size_t scheme_end = reference.find_first_of(":/?#");
  if (scheme_end != std::string_view::npos && scheme_end > 0 && reference[scheme_end] == ':') {
    url = std::string(reference);
  } else if (reference.substr(0, 2) == "//") {
    url = StrCat(base.scheme, ":", reference);
  } else if (reference.substr(0, 1) == "/") {
    url = StrCat(base.Origin(), reference);
  } else {
    std::string_view path = std::string_view(base.path).substr(0, base.path.find('?'));
    if (reference.substr(0, 1) != "?") path = path.substr(0, path.rfind('/') + 1);
    url = StrCat(base.Origin(), path, reference);
  }
  ASSIGN_OR_RETURN(Target target, CheckUrl(policy, url));
  if (base.scheme == "https" && target.scheme != "https") return Refuse("downgrade");
  return target;
}

std::string GuardReason(const absl::Status& status) {
  auto payload = status.GetPayload(kReasonPayload);
  return payload ? std::string(*payload) : std::string();
}

}  // namespace mainstay::integrations
