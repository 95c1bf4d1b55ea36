// SPDX-License-Identifier: Apache-2.0
#include "libs/webhooks/scheme.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "libs/base/crypto.h"
#include "libs/base/json.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/webhooks/extract.h"
#include "libs/webhooks/presets.h"

namespace mainstay::webhooks {
namespace {

// What one request may cost: signatures tried, secrets tried.
constexpr size_t kMaxSignatures = 20, kMaxSecrets = 10;

std::vector<std::string> Split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  while (true) {
    size_t at = text.find(separator);
    parts.emplace_back(text.substr(0, at));
    if (at == std::string_view::npos) return parts;
    text = text.substr(at + 1);
  }
}

std::string Lower(std::string_view text) {
  std::string out(text);
  for (char& c : out)
    if (c >= 'A' && c <= 'Z') c = char(c - 'A' + 'a');
  return out;
}

enum class Algorithm { kHmacSha256, kHmacSha1, kSha256, kEd25519 };
enum class Encoding { kHex, kHexAnyCase, kBase64, kBase64Url };
enum class KeyEncoding { kText, kBase64, kHex, kWhsecBase64 };
enum class Format { kPlain, kPrefix, kPairs, kPairsTrimmed, kVersions };

// A value of the request by name; several names are alternatives, the first that is present counts.
struct Token {
  enum class Kind {
    kLiteral,
    kBody,
    kHeader,
    kSignature,
    kMethod,
    kUrl,
    kTarget,
    kQuery,
    kJson,
    kSecret
  } kind = Kind::kLiteral;
  std::vector<std::string> names;  // or the literal's text as the only one
};

// The signature header, taken apart. Elements keep their order; views into the delivery.
struct ParsedHeader {
  std::vector<std::string_view> signatures;
  std::vector<std::pair<std::string_view, std::string_view>> elements;
  // nullopt when absent or there twice.
  std::optional<std::string_view> Element(std::string_view key) const {
    std::optional<std::string_view> found;
    for (const auto& [k, v] : elements) {
      if (k != key) continue;
      if (found) return std::nullopt;
      found = v;
    }
    return found;
  }
};

std::optional<std::string_view> FirstHeader(const Delivery& delivery, const std::vector<std::string>& names) {
  for (const std::string& name : names)
    if (auto value = delivery.Header(name)) return value;
  return std::nullopt;
}

absl::StatusOr<Token> ParseToken(std::string_view text) {
  size_t colon = text.find(':');
  std::string_view kind = text.substr(0, colon);
  Token token;
  if (colon != std::string_view::npos) token.names = Split(text.substr(colon + 1), '|');
  bool named = !token.names.empty() && !token.names[0].empty();
  if (!named) {
    if (text == "body")
      token.kind = Token::Kind::kBody;
    else if (text == "method")
      token.kind = Token::Kind::kMethod;
    else if (text == "url")
      token.kind = Token::Kind::kUrl;
    else if (text == "path_query")
      token.kind = Token::Kind::kTarget;
    else if (text == "secret")
      token.kind = Token::Kind::kSecret;
    else
      return absl::InvalidArgumentError(
          StrCat("signed_content: {", text,
                 "} is no token; known are body method url path_query secret header:X sig:k query:k json:a.b"));
    return token;
  }
  if (kind == "header") {
    token.kind = Token::Kind::kHeader;
    for (std::string& name : token.names) name = Lower(name);
  } else if (kind == "sig") {
    token.kind = Token::Kind::kSignature;
  } else if (kind == "query") {
    token.kind = Token::Kind::kQuery;
  } else if (kind == "json") {
    token.kind = Token::Kind::kJson;
  } else {
    return absl::InvalidArgumentError(
        StrCat("\"", text, "\" is no token; known with a name are header:X sig:k query:k json:a.b"));
  }
  return token;
}

absl::StatusOr<std::vector<Token>> ParseTemplate(std::string_view text) {
  std::vector<Token> tokens;
  while (!text.empty()) {
    size_t open = text.find('{');
    if (open != 0) {
      Token literal;
      literal.names.emplace_back(text.substr(0, open));
      tokens.push_back(std::move(literal));
      if (open == std::string_view::npos) break;
    }
    size_t close = text.find('}', open);
    if (close == std::string_view::npos) return absl::InvalidArgumentError("signed_content: a { without its }");
    ASSIGN_OR_RETURN(Token token, ParseToken(text.substr(open + 1, close - open - 1)));
    tokens.push_back(std::move(token));
    text = text.substr(close + 1);
  }
  return tokens;
}

const Preset* FindPreset(std::string_view name) {
  for (const Preset& preset : kPresets)
    if (preset.name == name) return &preset;
  return nullptr;
}

catalog::ValueSource Sources(std::string_view text) {
  if (text.empty()) return {};
  return Split(text, '|');
}

}  // namespace

struct Scheme::Compiled {
  Algorithm algorithm = Algorithm::kHmacSha256;
  Encoding encoding = Encoding::kHex;
  KeyEncoding key_encoding = KeyEncoding::kText;
  Format format = Format::kPlain;
  char separator = ',';
  std::string prefix, signature_key;
  std::vector<std::string> signature_headers, required_headers;
  std::vector<Token> content;
  bool content_has_secret = false;
  std::optional<Token> timestamp;
  std::string timestamp_unit;
  absl::Duration past, future;
  catalog::ValueSource event_id, event_type, event_time;
  std::string event_time_unit;

  size_t DigestBytes() const {
    switch (algorithm) {
      case Algorithm::kHmacSha1:
        return 20;
      case Algorithm::kEd25519:
        return 64;
      default:
        return 32;
    }
  }

  std::optional<std::string> DecodeKey(std::string_view secret) const {
    switch (key_encoding) {
      case KeyEncoding::kText:
        return std::string(secret);
      case KeyEncoding::kBase64:
        return Base64Decode(secret);
      case KeyEncoding::kHex:
        return HexDecode(secret);
      case KeyEncoding::kWhsecBase64:
        if (secret.substr(0, 6) == "whsec_") secret.remove_prefix(6);
        return Base64Decode(secret);
    }
    return std::nullopt;
  }

  std::optional<std::string> DecodeSignature(std::string_view text) const {
    std::optional<std::string> bytes;
    switch (encoding) {
      case Encoding::kHex:
        // Senders write lower case and their libraries compare text: what has capitals was not written by them.
        if (std::any_of(text.begin(), text.end(), [](char c) { return c >= 'A' && c <= 'F'; })) return std::nullopt;
        [[fallthrough]];
      case Encoding::kHexAnyCase:
        bytes = HexDecode(text);
        break;
      case Encoding::kBase64:
        bytes = Base64Decode(text);
        break;
      case Encoding::kBase64Url:
        bytes = Base64UrlDecode(text);
        break;
    }
    if (!bytes || bytes->size() != DigestBytes()) return std::nullopt;
    return bytes;
  }

  ParsedHeader ParseHeader(std::string_view text) const {
    ParsedHeader parsed;
    switch (format) {
      case Format::kPlain:
        parsed.signatures.push_back(text);
        return parsed;
      case Format::kPrefix:
        if (text.substr(0, prefix.size()) == prefix) parsed.signatures.push_back(text.substr(prefix.size()));
        return parsed;
      default:
        break;
    }
    while (true) {
      size_t end = text.find(separator);
      std::string_view item = text.substr(0, end);
      if (format == Format::kPairsTrimmed) {
        while (!item.empty() && item.front() == ' ') item.remove_prefix(1);
        while (!item.empty() && item.back() == ' ') item.remove_suffix(1);
      }
      // Only the first "=" or "," cuts: base64 ends in "=".
      size_t cut = item.find(format == Format::kVersions ? ',' : '=');
      if (cut != std::string_view::npos && parsed.elements.size() < 2 * kMaxSignatures) {
        parsed.elements.emplace_back(item.substr(0, cut), item.substr(cut + 1));
        if (item.substr(0, cut) == signature_key && parsed.signatures.size() < kMaxSignatures)
          parsed.signatures.push_back(item.substr(cut + 1));
      }
      if (end == std::string_view::npos) return parsed;
      text = text.substr(end + 1);
    }
  }

  // The text of one token; nullopt when the request has none.
  std::optional<std::string> Value(const Token& token, const Delivery& delivery, const ParsedHeader& header,
                                   std::string_view url, std::optional<JsonDocument>& document) const {
    switch (token.kind) {
      case Token::Kind::kLiteral:
        return token.names[0];
      case Token::Kind::kBody:
        return delivery.body;
      case Token::Kind::kMethod:
        return delivery.method;
      case Token::Kind::kUrl:
        return std::string(url);
      case Token::Kind::kTarget:
        return delivery.target;
      case Token::Kind::kSecret:
        return std::string();
      case Token::Kind::kHeader: {
        auto value = FirstHeader(delivery, token.names);
        if (!value) return std::nullopt;
        return std::string(*value);
      }
      case Token::Kind::kSignature: {
        auto value = header.Element(token.names[0]);
        if (!value) return std::nullopt;
        return std::string(*value);
      }
      case Token::Kind::kQuery:
        return delivery.Query(token.names[0]);
      case Token::Kind::kJson: {
        if (!document) {
          JsonLimits limits;
          limits.depth = 64;
          absl::StatusOr<JsonDocument> parsed = JsonDocument::Parse(delivery.body, limits);
          if (!parsed.ok()) return std::nullopt;
          document = *std::move(parsed);
        }
        const JsonValue* value = FindPath(document->root(), token.names[0]);
        if (value == nullptr || value->is_object() || value->is_array()) return std::nullopt;
        return TextOf(*value);
      }
    }
    return std::nullopt;
  }
};

absl::StatusOr<Scheme> Scheme::Compile(const catalog::SignatureScheme& declared) {
  Preset words{};
  if (!declared.preset.empty()) {
    const Preset* preset = FindPreset(declared.preset);
    if (preset == nullptr) {
      std::string known;
      for (const Preset& p : kPresets) StrAppend(&known, known.empty() ? "" : " ", p.name);
      return absl::InvalidArgumentError(StrCat("scheme: \"", declared.preset, "\" is unknown; known are ", known));
    }
    words = *preset;
  } else {
    words.algorithm = "hmac-sha256";
    words.signed_content = "{body}";
    words.header_format = "plain";
    words.encoding = "hex";
    words.key_encoding = "text";
    words.timestamp_unit = "s";
    words.past_seconds = words.future_seconds = 300;
  }
  auto over = [](const std::string& own, std::string_view& word) {
    if (!own.empty()) word = own;
  };
  over(declared.algorithm, words.algorithm);
  over(declared.signed_content, words.signed_content);
  over(declared.signature_header, words.signature_header);
  over(declared.header_format, words.header_format);
  over(declared.signature_key, words.signature_key);
  over(declared.encoding, words.encoding);
  over(declared.key_encoding, words.key_encoding);
  over(declared.timestamp, words.timestamp);
  over(declared.timestamp_unit, words.timestamp_unit);

  auto compiled = std::make_shared<Compiled>();
  Compiled& c = *compiled;
  if (words.algorithm == "hmac-sha256")
    c.algorithm = Algorithm::kHmacSha256;
  else if (words.algorithm == "hmac-sha1")
    c.algorithm = Algorithm::kHmacSha1;
  else if (words.algorithm == "sha256")
    c.algorithm = Algorithm::kSha256;
  else if (words.algorithm == "ed25519")
    c.algorithm = Algorithm::kEd25519;
  else
    return absl::InvalidArgumentError(
        StrCat("algorithm: \"", words.algorithm, "\" is unknown; known are hmac-sha256 hmac-sha1 sha256 ed25519"));

  if (words.encoding == "hex")
    c.encoding = Encoding::kHex;
  else if (words.encoding == "hex-any-case")
    c.encoding = Encoding::kHexAnyCase;
  else if (words.encoding == "base64")
    c.encoding = Encoding::kBase64;
  else if (words.encoding == "base64url")
    c.encoding = Encoding::kBase64Url;
  else
    return absl::InvalidArgumentError(
        StrCat("encoding: \"", words.encoding, "\" is unknown; known are hex hex-any-case base64 base64url"));

  if (words.key_encoding == "text")
    c.key_encoding = KeyEncoding::kText;
  else if (words.key_encoding == "base64")
    c.key_encoding = KeyEncoding::kBase64;
  else if (words.key_encoding == "hex")
    c.key_encoding = KeyEncoding::kHex;
  else if (words.key_encoding == "whsec-base64")
    c.key_encoding = KeyEncoding::kWhsecBase64;
  else
    return absl::InvalidArgumentError(
        StrCat("key_encoding: \"", words.key_encoding, "\" is unknown; known are text base64 hex whsec-base64"));

  size_t colon = words.header_format.find(':');
  std::string_view format = words.header_format.substr(0, colon);
  std::string_view rest = colon == std::string_view::npos ? std::string_view() : words.header_format.substr(colon + 1);
  if (format == "plain" && rest.empty()) {
    c.format = Format::kPlain;
  } else if (format == "prefix" && !rest.empty()) {
    c.format = Format::kPrefix;
    c.prefix = std::string(rest);
  } else if ((format == "pairs" || format == "pairs-trim" || format == "versions") && rest.size() == 1) {
    c.format = format == "pairs" ? Format::kPairs : format == "versions" ? Format::kVersions : Format::kPairsTrimmed;
    c.separator = rest[0];
    if (words.signature_key.empty())
      return absl::InvalidArgumentError("signature_key: missing; it names the element that holds the signature");
  } else {
    return absl::InvalidArgumentError(StrCat("header_format: \"", words.header_format,
                                             "\" is unknown; known are plain, prefix:TEXT, pairs:C, pairs-trim:C, "
                                             "versions:C (C: the separating character)"));
  }
  c.signature_key = std::string(words.signature_key);
  if (words.signature_header.empty()) return absl::InvalidArgumentError("signature_header: missing");
  for (const std::string& name : Split(words.signature_header, '|')) c.signature_headers.push_back(Lower(name));
  if (!words.required_headers.empty()) c.required_headers = Split(words.required_headers, ',');

  ASSIGN_OR_RETURN(c.content, ParseTemplate(words.signed_content));
  bool has_body = false;
  for (const Token& token : c.content) {
    has_body |= token.kind == Token::Kind::kBody;
    c.content_has_secret |= token.kind == Token::Kind::kSecret;
  }
  if (!has_body)
    return absl::InvalidArgumentError("signed_content: {body} is missing; what is not signed cannot be trusted");
  if ((c.algorithm == Algorithm::kSha256) != c.content_has_secret)
    return absl::InvalidArgumentError("signed_content: {secret} belongs to algorithm sha256 and to no other");

  if (!words.timestamp.empty()) {
    ASSIGN_OR_RETURN(c.timestamp, ParseToken(words.timestamp));
    if (c.timestamp->kind != Token::Kind::kHeader && c.timestamp->kind != Token::Kind::kSignature &&
        c.timestamp->kind != Token::Kind::kJson)
      return absl::InvalidArgumentError("timestamp: must be header:X, sig:k or json:a.b");
    c.timestamp_unit = std::string(words.timestamp_unit);
    if (c.timestamp_unit != "s" && c.timestamp_unit != "ms" && c.timestamp_unit != "iso8601")
      return absl::InvalidArgumentError(
          StrCat("timestamp_unit: \"", c.timestamp_unit, "\" is unknown; known are s ms iso8601"));
    // An unsigned timestamp proves nothing: it must stand in the signed content (the body is in it).
    bool is_signed = c.timestamp->kind == Token::Kind::kJson;
    for (const Token& token : c.content)
      is_signed |= token.kind == c.timestamp->kind && token.names == c.timestamp->names;
    if (!is_signed) return absl::InvalidArgumentError("timestamp: must be part of signed_content");
  }
  c.past = declared.tolerance_past.value_or(absl::Seconds(words.past_seconds));
  c.future = declared.tolerance_future.value_or(absl::Seconds(words.future_seconds));
  c.event_id = Sources(words.event_id);
  c.event_type = Sources(words.event_type);
  c.event_time = Sources(words.event_time);
  c.event_time_unit = words.event_time_unit.empty() ? "s" : std::string(words.event_time_unit);
  return Scheme(std::move(compiled));
}

Verdict Scheme::Verify(const Delivery& delivery, std::string_view url, absl::Span<const std::string> secrets,
                       absl::Time now) const {
  const Compiled& c = *compiled_;
  for (const std::string& name : c.required_headers)
    if (!delivery.Header(name)) return {false, "header_missing"};
  std::optional<std::string_view> text = FirstHeader(delivery, c.signature_headers);
  if (!text || text->empty()) return {false, "signature_missing"};
  ParsedHeader header = c.ParseHeader(*text);
  std::vector<std::string> signatures;
  for (std::string_view candidate : header.signatures)
    if (auto bytes = c.DecodeSignature(candidate)) signatures.push_back(*std::move(bytes));
  if (signatures.empty()) return {false, "signature_malformed"};

  std::optional<JsonDocument> document;
  if (c.timestamp) {
    std::optional<std::string> stamp = c.Value(*c.timestamp, delivery, header, url, document);
    if (!stamp || stamp->empty()) return {false, "timestamp_missing"};
    absl::StatusOr<absl::Time> time = ParseSenderTime(*stamp, c.timestamp_unit);
    if (!time.ok()) return {false, "timestamp_malformed"};
    if (now - *time > c.past) return {false, "too_old"};
    if (*time - now > c.future) return {false, "too_new"};
  }

  // Assembled once; a secret inside (plain digests) is put in per secret.
  std::string before, after;
  bool passed_secret = false;
  for (const Token& token : c.content) {
    if (token.kind == Token::Kind::kSecret) {
      passed_secret = true;
      continue;
    }
    std::optional<std::string> value = c.Value(token, delivery, header, url, document);
    if (!value) return {false, token.kind == Token::Kind::kHeader ? "header_missing" : "signature_malformed"};
    (passed_secret ? after : before) += *value;
  }

  bool usable = false;
  int matched = -1;
  for (size_t i = 0; i < secrets.size() && i < kMaxSecrets; ++i) {
    std::optional<std::string> key = c.DecodeKey(secrets[i]);
    if (!key || key->empty()) continue;
    usable = true;
    if (c.algorithm == Algorithm::kEd25519) {
      if (key->size() != 32) continue;
      for (const std::string& signature : signatures)
        if (Ed25519Verify(*key, before, signature) && matched < 0) matched = int(i);
      continue;
    }
    std::string digest = c.algorithm == Algorithm::kHmacSha256 ? HmacSha256(*key, before)
                         : c.algorithm == Algorithm::kHmacSha1 ? HmacSha1(*key, before)
                                                               : Sha256(StrCat(before, *key, after));
    for (const std::string& signature : signatures)
      if (ConstantTimeEquals(digest, signature) && matched < 0) matched = int(i);
  }
  if (!usable) return {false, "no_usable_secret"};
  if (matched < 0) return {false, "mismatch"};
  return {true, "", matched};
}

const catalog::ValueSource& Scheme::default_event_id() const {
  return compiled_->event_id;
}
const catalog::ValueSource& Scheme::default_event_type() const {
  return compiled_->event_type;
}
const catalog::ValueSource& Scheme::default_event_time() const {
  return compiled_->event_time;
}
std::string_view Scheme::default_event_time_unit() const {
  return compiled_->event_time_unit;
}

std::vector<std::string> PresetNames() {
  std::vector<std::string> names;
  for (const Preset& preset : kPresets) names.emplace_back(preset.name);
  return names;
}

}  // namespace mainstay::webhooks
