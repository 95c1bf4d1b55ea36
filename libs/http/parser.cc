// SPDX-License-Identifier: Apache-2.0
#include "libs/http/parser.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "libs/base/problem.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"

namespace mainstay::http {
namespace {

constexpr size_t kMaxExtensions = 1 << 10;
constexpr size_t kMaxTrailers = 16 << 10;

constexpr std::array<bool, 256> MakeTokenTable() {
  std::array<bool, 256> table{};
  for (int c = '0'; c <= '9'; ++c) table[c] = true;
  for (int c = 'a'; c <= 'z'; ++c) table[c] = table[c - 32] = true;
  for (const char c : {'!', '#', '$', '%', '&', '\'', '*', '+', '-', '.', '^', '_', '`', '|', '~'})
    table[static_cast<unsigned char>(c)] = true;
  return table;
}
constexpr std::array<bool, 256> kToken = MakeTokenTable();

bool IsToken(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) { return kToken[c]; });
}

std::string_view TrimBlanks(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

// Visible characters, blanks and UTF-8; nothing below space but tab, no DEL.
bool IsFieldValue(std::string_view text) {
  bool ascii = true;
  for (const unsigned char c : text) {
    if ((c < 0x20 && c != '\t') || c == 0x7f) return false;
    ascii &= c < 0x80;
  }
  return ascii || IsValidUtf8(text);
}

// Calls `visit` for each member of a comma-separated list; false when one is empty.
template <typename Visit>
bool ForEachMember(std::string_view list, Visit visit) {
  while (true) {
    const size_t comma = list.find(',');
    const std::string_view member = TrimBlanks(list.substr(0, comma));
    if (member.empty()) return false;
    visit(member);
    if (comma == std::string_view::npos) return true;
    list.remove_prefix(comma + 1);
  }
}

bool IsHost(std::string_view host) {
  if (host.empty()) return false;
  if (const size_t colon = host.rfind(':'); colon != std::string_view::npos && host.back() != ']') {
    const std::string_view port = host.substr(colon + 1);
    if (port.size() > 5 || !std::all_of(port.begin(), port.end(), [](char c) { return c >= '0' && c <= '9'; }))
      return false;
    host = host.substr(0, colon);
  }
  if (host.empty()) return false;
  const bool literal = host.front() == '[';
  if (literal) {
    if (host.size() < 4 || host.back() != ']') return false;
    host = host.substr(1, host.size() - 2);
  }
  return std::all_of(host.begin(), host.end(), [literal](char c) {
    return absl::ascii_isalnum(c) || c == '.' || c == '-' || c == '_' || (literal && c == ':');
  });
}

std::string HostName(std::string_view host) {
  if (const size_t colon = host.rfind(':'); colon != std::string_view::npos && host.back() != ']')
    host = host.substr(0, colon);
  return absl::AsciiStrToLower(ToAbsl(host));
}

enum class Method { kServed, kKnown, kUnknown };
Method Classify(std::string_view method) {
  for (const std::string_view served : {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY"})
    if (method == served) return Method::kServed;
  if (method == "TRACE") return Method::kKnown;
  return Method::kUnknown;
}

}  // namespace

void Head::Clear() {
  method.clear();
  target.clear();
  headers.clear();
  host.clear();
  path.clear();
  query.clear();
  segments.clear();
  minor_version = 1;
  content_length = 0;
  chunked = false;
  keep_alive = true;
  expect_continue = false;
}

void HeadParser::Reset() {
  at_ = scanned_ = 0;
  in_fields_ = fatal_ = false;
  error_ = absl::OkStatus();
}

HeadParser::State HeadParser::Fail(std::string_view slug, std::string_view detail, bool fatal) {
  error_ = MakeProblem(slug, detail);
  fatal_ = fatal;
  return State::kFailed;
}

HeadParser::State HeadParser::Feed(std::string_view buffer, const ParserLimits& limits, Head& head) {
  while (true) {
    const auto* newline =
        static_cast<const char*>(std::memchr(buffer.data() + scanned_, '\n', buffer.size() - scanned_));
    const size_t end = newline != nullptr ? size_t(newline - buffer.data()) : buffer.size();
    if (!in_fields_ && end - at_ > limits.request_line) return Fail("uri-too-long", "the request line is too long");
    if (in_fields_ && (end - at_ > limits.header_line || end > limits.request_line + limits.header_block))
      return Fail("header-too-large", "a header line or the whole header is too long");
    if (newline == nullptr) {
      scanned_ = buffer.size();
      return State::kMore;
    }
    if (end == at_ || buffer[end - 1] != '\r') return Fail("malformed-request", "a line does not end in CR LF");
    const std::string_view line = buffer.substr(at_, end - 1 - at_);
    at_ = scanned_ = end + 1;
    if (!in_fields_) {
      head.Clear();
      if (!RequestLine(line, head)) return State::kFailed;
      in_fields_ = true;
    } else if (line.empty()) {
      if (!Finish(head)) return State::kFailed;
      return State::kDone;
    } else {
      if (head.headers.size() >= limits.header_fields)
        return Fail("header-too-large", "there are too many header fields");
      if (!Field(line, head)) return State::kFailed;
    }
  }
}

bool HeadParser::RequestLine(std::string_view line, Head& head) {
  const auto fail = [this](std::string_view slug, std::string_view detail) {
    Fail(slug, detail);
    return false;
  };
  const size_t first = line.find(' ');
  const size_t last = line.rfind(' ');
  if (first == std::string_view::npos || first == last)
    return fail("malformed-request", "the request line is not of the form: method target version");
  const std::string_view method = line.substr(0, first), target = line.substr(first + 1, last - first - 1),
                         version = line.substr(last + 1);
  if (!IsToken(method)) return fail("malformed-request", "the method is not a token");
  if (version.size() != 8 || version.substr(0, 5) != "HTTP/" || !absl::ascii_isdigit(version[5]) || version[6] != '.' ||
      !absl::ascii_isdigit(version[7])) {
    return fail("malformed-request", "the HTTP version is malformed");
  }
  if (version[5] != '1') return fail("version-not-supported", "only HTTP/1.1 and HTTP/1.0 are spoken here");
  head.minor_version = version[7] == '0' ? 0 : 1;
  if (target.empty() ||
      !std::all_of(target.begin(), target.end(), [](unsigned char c) { return c > 0x20 && c < 0x7f && c != '#'; })) {
    return fail("malformed-request", "the target holds a character that must be percent-encoded");
  }
  switch (Classify(method)) {
    case Method::kServed:
      break;
    case Method::kKnown:
      return fail("method-not-allowed", "this method is not offered anywhere");
    default:
      return fail("not-implemented", "the method is not known");
  }
  head.method = method;
  head.target = target;
  return true;
}

bool HeadParser::Field(std::string_view line, Head& head) {
  const auto malformed = [this](std::string_view detail) {
    Fail("malformed-request", detail);
    return false;
  };
  const size_t colon = line.find(':');
  if (colon == std::string_view::npos) return malformed("a header line has no colon");
  const std::string_view name = line.substr(0, colon);
  // Also refuses folding, which begins with a blank, and blanks before the colon.
  if (!IsToken(name)) return malformed("a header name is not a token");
  const std::string_view value = TrimBlanks(line.substr(colon + 1));
  if (!IsFieldValue(value)) return malformed("a header value holds a control character or is not UTF-8");
  auto& [lower, text] = head.headers.emplace_back(std::string(name), std::string(value));
  for (char& c : lower)
    if (c >= 'A' && c <= 'Z') c += 'a' - 'A';
  return true;
}

bool HeadParser::Finish(Head& head) {
  const auto fail = [this](std::string_view slug, std::string_view detail, bool fatal = true) {
    Fail(slug, detail, fatal);
    return false;
  };
  const std::string *length = nullptr, *coding = nullptr, *host = nullptr, *expect = nullptr;
  bool close = false, keep = false;
  for (const auto& header : head.headers) {
    const std::string &name = header.first, &value = header.second;
    const auto take = [&](const std::string*& slot) {
      if (slot != nullptr) return false;
      slot = &value;
      return true;
    };
    bool once = true;
    switch (name.size()) {
      case 4:
        if (name == "host") once = take(host);
        break;
      case 6:
        if (name == "expect") once = take(expect);
        break;
      case 10:
        if (name == "connection") {
          // Empty members are allowed in this list (RFC 9110 5.6.1.2); what we do not know is ignored.
          ForEachMember(value, [&](std::string_view option) {
            close |= absl::EqualsIgnoreCase(ToAbsl(option), "close");
            keep |= absl::EqualsIgnoreCase(ToAbsl(option), "keep-alive");
          });
        }
        break;
      case 14:
        if (name == "content-length") once = take(length);
        break;
      case 17:
        if (name == "transfer-encoding") once = take(coding);
        break;
    }
    if (!once) return fail("malformed-request", StrCat("the header ", name, " was sent twice"));
  }
  head.keep_alive = !close && (head.minor_version >= 1 || keep);

  // The length of the body (RFC 9112 6.3): whatever two readers could read differently is refused.
  if (coding != nullptr) {
    if (head.minor_version == 0) return fail("malformed-request", "HTTP/1.0 knows no transfer codings");
    if (length != nullptr) return fail("malformed-request", "Content-Length and Transfer-Encoding exclude each other");
    int chunked = 0, others = 0;
    bool chunked_last = false;
    const bool list = ForEachMember(*coding, [&](std::string_view member) {
      chunked_last = absl::EqualsIgnoreCase(ToAbsl(member), "chunked");
      (chunked_last ? chunked : others)++;
    });
    if (!list || chunked > 1 || (chunked == 1 && !chunked_last))
      return fail("malformed-request", "chunked must be the last transfer coding, and stand once");
    if (others > 0) return fail("not-implemented", "the transfer coding is not known");
    head.chunked = true;
    head.content_length = -1;
  } else if (length != nullptr) {
    if (length->empty() || length->size() > 18 ||
        !std::all_of(length->begin(), length->end(), [](char c) { return c >= '0' && c <= '9'; })) {
      return fail("malformed-request", "Content-Length is not a number");
    }
    for (const char c : *length) head.content_length = head.content_length * 10 + (c - '0');
  }

  // Target and host.
  std::string_view target = head.target;
  if (target[0] != '/' && target != "*") {
    const size_t scheme = target.find("://");
    const std::string_view name = target.substr(0, std::min(scheme, target.size()));
    if (scheme == std::string_view::npos ||
        !(absl::EqualsIgnoreCase(ToAbsl(name), "http") || absl::EqualsIgnoreCase(ToAbsl(name), "https")))
      return fail("malformed-request", "the target is neither a path nor an http URL");
    target.remove_prefix(scheme + 3);
    const std::string_view authority = target.substr(0, target.find_first_of("/?"));
    if (!IsHost(authority)) return fail("malformed-request", "the URL's host is malformed");
    head.host = HostName(authority);
    target.remove_prefix(authority.size());
  } else if (target == "*" && head.method != "OPTIONS") {
    return fail("malformed-request", "the target * is for OPTIONS");
  }
  if (host == nullptr && head.minor_version >= 1) return fail("malformed-request", "the Host header is missing");
  if (host != nullptr && !IsHost(*host)) return fail("malformed-request", "the Host header is malformed");
  if (host != nullptr && head.host.empty()) head.host = HostName(*host);

  const size_t question = target.find('?');
  head.path = target.empty() || question == 0 ? "/" : std::string(target.substr(0, question));
  if (question != std::string_view::npos) head.query = target.substr(question + 1);

  if (expect != nullptr && head.minor_version >= 1) {
    if (!absl::EqualsIgnoreCase(*expect, "100-continue"))
      return fail("expectation-failed", "only 100-continue can be expected");
    head.expect_continue = head.chunked || head.content_length > 0;
  }
  if (head.path != "*") {
    error_ = DecodePath(head.path, head.segments);
    if (!error_.ok()) return false;  // not fatal: where the body ends is known
  }
  return true;
}

absl::Status DecodePath(std::string_view path, std::vector<std::string>& segments) {
  const auto invalid = [](std::string_view detail) { return MakeProblem("invalid-path", detail); };
  segments.clear();
  size_t at = 1;
  if (path == "/") return absl::OkStatus();
  while (true) {
    const size_t slash = std::min(path.find('/', at), path.size());
    const std::string_view raw = path.substr(at, slash - at);
    if (raw.find('%') == std::string_view::npos) {
      segments.emplace_back(raw);
    } else {
      std::optional<std::string> decoded = PercentDecode(raw, /*plus_is_space=*/false);
      if (!decoded) return invalid("the path has a broken escape");
      if (!IsValidUtf8(*decoded)) return invalid("the path is not UTF-8");
      for (const unsigned char c : *decoded) {
        if (c == '/' || c == '\\' || c < 0x20 || c == 0x7f)
          return invalid("the path has an escape that is not allowed");
      }
      segments.push_back(*std::move(decoded));
    }
    if (segments.back() == "." || segments.back() == "..") return invalid("the path has a dot segment");
    if (slash == path.size()) return absl::OkStatus();
    at = slash + 1;
  }
}

absl::Status ChunkDecoder::Decode(std::string_view& in, size_t max, std::string& out) {
  const auto malformed = [](std::string_view detail) { return MakeProblem("malformed-request", detail); };
  size_t produced = 0;
  while (!in.empty() && state_ != State::kDone) {
    if (state_ == State::kData) {
      const size_t n = size_t(std::min<uint64_t>({left_, in.size(), max - produced}));
      if (n == 0) return absl::OkStatus();  // `max` is reached
      out.append(in.substr(0, n));
      in.remove_prefix(n);
      produced += n;
      left_ -= n;
      if (left_ == 0) state_ = State::kDataCr;
      continue;
    }
    const unsigned char c = static_cast<unsigned char>(in.front());
    in.remove_prefix(1);
    switch (state_) {
      case State::kSize: {
        const int digit = c >= '0' && c <= '9'                 ? c - '0'
                          : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10
                                                               : -1;
        if (digit >= 0) {
          if (++digits_ > 15) return malformed("a chunk size is too large");
          left_ = left_ * 16 + uint64_t(digit);
        } else if (digits_ == 0) {
          return malformed("a chunk size is expected");
        } else if (c == '\r') {
          state_ = State::kSizeLf;
        } else if (c == ';') {
          state_ = State::kExtension;
        } else {
          return malformed("a chunk size is malformed");
        }
        break;
      }
      case State::kExtension:
        if (++overhead_ > kMaxExtensions) return malformed("the chunk extensions are too long");
        if (c == '\r') {
          state_ = State::kSizeLf;
        } else if ((c < 0x20 && c != '\t') || c == 0x7f) {
          return malformed("a chunk extension holds a control character");
        }
        break;
      case State::kSizeLf:
        if (c != '\n') return malformed("a chunk size does not end in CR LF");
        state_ = left_ == 0 ? State::kTrailer : State::kData;
        digits_ = 0;
        line_ = 0;
        break;
      case State::kDataCr:
        if (c != '\r') return malformed("a chunk is longer than its size");
        state_ = State::kDataLf;
        break;
      case State::kDataLf:
        if (c != '\n') return malformed("a chunk does not end in CR LF");
        state_ = State::kSize;
        break;
      case State::kTrailer:
        if (++overhead_ > kMaxTrailers) return MakeProblem("header-too-large", "the trailer is too long");
        if (c == '\r') {
          state_ = State::kTrailerLf;
        } else if ((c < 0x20 && c != '\t') || c == 0x7f) {
          return malformed("a trailer holds a control character");
        } else {
          ++line_;
        }
        break;
      case State::kTrailerLf:
        if (c != '\n') return malformed("a trailer line does not end in CR LF");
        state_ = line_ == 0 ? State::kDone : State::kTrailer;
        line_ = 0;
        break;
      case State::kData:
      case State::kDone:
        break;
    }
  }
  return absl::OkStatus();
}

}  // namespace mainstay::http
