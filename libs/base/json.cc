// SPDX-License-Identifier: Apache-2.0
#include "libs/base/json.h"

#include <charconv>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "absl/container/flat_hash_set.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"

namespace mainstay {
namespace {

void AppendUtf8(uint32_t point, std::string& out) {
  if (point < 0x80) {
    out += char(point);
  } else if (point < 0x800) {
    out += char(0xc0 | point >> 6);
    out += char(0x80 | (point & 0x3f));
  } else if (point < 0x10000) {
    out += char(0xe0 | point >> 12);
    out += char(0x80 | (point >> 6 & 0x3f));
    out += char(0x80 | (point & 0x3f));
  } else {
    out += char(0xf0 | point >> 18);
    out += char(0x80 | (point >> 12 & 0x3f));
    out += char(0x80 | (point >> 6 & 0x3f));
    out += char(0x80 | (point & 0x3f));
  }
}

bool IsDigit(char c) {
  return c >= '0' && c <= '9';
}

}  // namespace

const JsonValue* JsonValue::Find(std::string_view key) const {
  if (kind_ != Kind::kObject) return nullptr;
  for (const Member& member : *members_) {
    if (member.key == key) return &member.value;
  }
  return nullptr;
}

// Recursive descent; the depth limit bounds the stack.
class JsonReader {
 public:
  JsonReader(std::string_view text, const JsonLimits& limits, std::deque<std::string>& unescaped)
      : text_(text), limits_(limits), unescaped_(unescaped) {}

  absl::Status Read(JsonValue& root) {
    if (text_.substr(0, 3) == "\xef\xbb\xbf") return Invalid("a byte order mark is not part of JSON");
    RETURN_IF_ERROR(Value(root, 0));
    Blanks();
    if (at_ != text_.size()) return Invalid("there is something after the value");
    return absl::OkStatus();
  }

 private:
  using Kind = JsonValue::Kind;

  absl::Status Value(JsonValue& value, int depth) {
    Blanks();
    if (at_ >= text_.size()) return Invalid("the text ends where a value is expected");
    const size_t start = at_;
    switch (text_[at_]) {
      case '{':
        RETURN_IF_ERROR(Object(value, depth + 1));
        break;
      case '[':
        RETURN_IF_ERROR(Array(value, depth + 1));
        break;
      case '"':
        value.kind_ = Kind::kString;
        RETURN_IF_ERROR(String(value.text_));
        break;
      case 't':
        RETURN_IF_ERROR(Word("true", value, Kind::kBool));
        value.boolean_ = true;
        break;
      case 'f':
        RETURN_IF_ERROR(Word("false", value, Kind::kBool));
        break;
      case 'n':
        RETURN_IF_ERROR(Word("null", value, Kind::kNull));
        break;
      default:
        RETURN_IF_ERROR(Number(value));
    }
    value.raw_ = text_.substr(start, at_ - start);
    return absl::OkStatus();
  }

  absl::Status Object(JsonValue& value, int depth) {
    if (depth > limits_.depth) return TooDeep();
    value.kind_ = Kind::kObject;
    value.members_ = std::make_shared<std::vector<JsonValue::Member>>();
    ++at_;
    Blanks();
    if (Take('}')) return absl::OkStatus();
    absl::flat_hash_set<std::string_view> seen;  // only once an object is large; small ones are searched
    while (true) {
      Blanks();
      if (at_ >= text_.size() || text_[at_] != '"') return Invalid("a key in double quotes is expected");
      std::string_view key;
      RETURN_IF_ERROR(String(key));
      auto& members = *value.members_;
      bool duplicate = false;
      if (members.size() < 16) {
        for (const auto& member : members) duplicate |= member.key == key;
      } else {
        if (seen.empty()) {
          for (const auto& member : members) seen.insert(member.key);
        }
        duplicate = !seen.insert(key).second;
      }
      const size_t length = Enter(key);
      if (duplicate) {
        return MakeProblem(
            "json-duplicate-key", "an object has the same key twice",
            {{FieldError::Place::kPointer, pointer_, "duplicate_key", "this key stands twice in its object"}});
      }
      Blanks();
      if (!Take(':')) return Invalid("a colon is expected after a key");
      members.push_back({key, {}});
      RETURN_IF_ERROR(Value(members.back().value, depth));
      pointer_.resize(length);
      Blanks();
      if (Take('}')) return absl::OkStatus();
      if (!Take(',')) return Invalid("a comma or the end of the object is expected");
    }
  }

  absl::Status Array(JsonValue& value, int depth) {
    if (depth > limits_.depth) return TooDeep();
    value.kind_ = Kind::kArray;
    value.items_ = std::make_shared<std::vector<JsonValue>>();
    ++at_;
    Blanks();
    if (Take(']')) return absl::OkStatus();
    while (true) {
      const size_t length = pointer_.size();
      StrAppend(&pointer_, "/", value.items_->size());
      value.items_->emplace_back();
      RETURN_IF_ERROR(Value(value.items_->back(), depth));
      pointer_.resize(length);
      Blanks();
      if (Take(']')) return absl::OkStatus();
      if (!Take(',')) return Invalid("a comma or the end of the array is expected");
    }
  }

  absl::Status String(std::string_view& out) {
    const size_t start = ++at_;
    while (at_ < text_.size()) {
      const char c = text_[at_];
      if (c == '"') {
        out = text_.substr(start, at_ - start);
        ++at_;
        if (!IsValidUtf8(out)) return Invalid("a string is not valid UTF-8");
        return absl::OkStatus();
      }
      if (c == '\\') return EscapedString(start, out);
      if (uint8_t(c) < 0x20) return Invalid("a control character in a string must be escaped");
      ++at_;
    }
    return Invalid("a string has no end");
  }

  absl::Status EscapedString(size_t start, std::string_view& out) {
    std::string value(text_.substr(start, at_ - start));
    while (at_ < text_.size()) {
      const char c = text_[at_++];
      if (c == '"') {
        if (!IsValidUtf8(value)) return Invalid("a string is not valid UTF-8");
        out = unescaped_.emplace_back(std::move(value));
        return absl::OkStatus();
      }
      if (uint8_t(c) < 0x20) return Invalid("a control character in a string must be escaped");
      if (c != '\\') {
        value += c;
        continue;
      }
      if (at_ >= text_.size()) break;
      switch (text_[at_++]) {
        case '"':
          value += '"';
          break;
        case '\\':
          value += '\\';
          break;
        case '/':
          value += '/';
          break;
        case 'b':
          value += '\b';
          break;
        case 'f':
          value += '\f';
          break;
        case 'n':
          value += '\n';
          break;
        case 'r':
          value += '\r';
          break;
        case 't':
          value += '\t';
          break;
        case 'u': {
          uint32_t point;
          if (!Hex4(point)) return Invalid("\\u needs four hexadecimal digits");
          if (point >= 0xd800 && point <= 0xdbff) {
            uint32_t low;
            if (text_.substr(at_, 2) != "\\u") return Invalid("a surrogate stands alone");
            at_ += 2;
            if (!Hex4(low) || low < 0xdc00 || low > 0xdfff) return Invalid("a surrogate stands alone");
            point = 0x10000 + ((point - 0xd800) << 10) + (low - 0xdc00);
          } else if (point >= 0xdc00 && point <= 0xdfff) {
            return Invalid("a surrogate stands alone");
          }
          AppendUtf8(point, value);
          break;
        }
        default:
          return Invalid("an unknown escape in a string");
      }
    }
    return Invalid("a string has no end");
  }

  bool Hex4(uint32_t& point) {
    point = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      if (at_ >= text_.size()) return false;
      const char c = text_[at_];
      const int digit = IsDigit(c)             ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (digit < 0) return false;
      point = point << 4 | uint32_t(digit);
    }
    return true;
  }

  absl::Status Number(JsonValue& value) {
    const size_t start = at_;
    Take('-');
    if (at_ < text_.size() && text_[at_] == '0') {
      ++at_;
    } else if (!Digits()) {
      return Invalid("a value is expected");
    }
    if (Take('.') && !Digits()) return Invalid("digits are expected after the decimal point");
    if (at_ < text_.size() && (text_[at_] == 'e' || text_[at_] == 'E')) {
      ++at_;
      const size_t sign = at_;
      if (!Take('+')) Take('-');
      const size_t first = at_;
      if (!Digits()) return Invalid("digits are expected in the exponent");
      int exponent = 0;
      const auto parsed = std::from_chars(text_.data() + first, text_.data() + at_, exponent);
      if (parsed.ec != std::errc() || exponent > limits_.number_exponent)
        return Invalid(StrCat("the exponent ", TruncateUtf8(text_.substr(sign, at_ - sign), 20), " is too large"));
    }
    if (at_ < text_.size() && (IsDigit(text_[at_]) || text_[at_] == '.'))
      return Invalid("a number has a leading zero or a second point");
    value.kind_ = Kind::kNumber;
    value.text_ = text_.substr(start, at_ - start);
    if (value.text_.size() > size_t(limits_.number_digits))
      return Invalid(StrCat("a number is longer than ", limits_.number_digits, " characters"));
    return absl::OkStatus();
  }

  absl::Status Word(std::string_view word, JsonValue& value, Kind kind) {
    if (text_.substr(at_, word.size()) != word) return Invalid("a value is expected");
    at_ += word.size();
    value.kind_ = kind;
    value.text_ = word;
    return absl::OkStatus();
  }

  bool Digits() {
    const size_t start = at_;
    while (at_ < text_.size() && IsDigit(text_[at_])) ++at_;
    return at_ > start;
  }
  bool Take(char c) {
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  void Blanks() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t' || text_[at_] == '\r'))
      ++at_;
  }
  // Goes one level down in the pointer; returns its length before.
  size_t Enter(std::string_view key) {
    const size_t length = pointer_.size();
    pointer_ += '/';
    for (char c : key) {
      if (c == '~') {
        pointer_ += "~0";
      } else if (c == '/') {
        pointer_ += "~1";
      } else {
        pointer_ += c;
      }
    }
    return length;
  }

  absl::Status Invalid(std::string_view what) const {
    return MakeProblem("json-invalid", StrCat(what, ", at byte ", at_),
                       {{FieldError::Place::kPointer, pointer_, "json_invalid", std::string(what)}});
  }
  absl::Status TooDeep() const {
    return MakeProblem("json-too-deep", StrCat("nested deeper than ", limits_.depth),
                       {{FieldError::Place::kPointer, std::string(TruncateUtf8(pointer_, 200)), "too_deep",
                         StrCat("at most ", limits_.depth, " levels")}});
  }

  const std::string_view text_;
  const JsonLimits& limits_;
  std::deque<std::string>& unescaped_;
  size_t at_ = 0;
  std::string pointer_;
};

absl::StatusOr<JsonDocument> JsonDocument::Parse(std::string text, const JsonLimits& limits) {
  JsonDocument document;
  document.input_ = std::make_unique<std::string>(std::move(text));
  document.unescaped_ = std::make_unique<std::deque<std::string>>();
  JsonReader reader(*document.input_, limits, *document.unescaped_);
  RETURN_IF_ERROR(reader.Read(document.root_));
  return document;
}

void JsonWriter::Separate() {
  if (comma_) out_ += ',';
  comma_ = true;
}
JsonWriter& JsonWriter::BeginObject() {
  Separate();
  out_ += '{';
  comma_ = false;
  return *this;
}
JsonWriter& JsonWriter::EndObject() {
  out_ += '}';
  comma_ = true;
  return *this;
}
JsonWriter& JsonWriter::BeginArray() {
  Separate();
  out_ += '[';
  comma_ = false;
  return *this;
}
JsonWriter& JsonWriter::EndArray() {
  out_ += ']';
  comma_ = true;
  return *this;
}
JsonWriter& JsonWriter::Key(std::string_view key) {
  Separate();
  AppendJsonString(key, out_);
  out_ += ':';
  comma_ = false;
  return *this;
}
JsonWriter& JsonWriter::String(std::string_view value) {
  Separate();
  AppendJsonString(value, out_);
  return *this;
}
JsonWriter& JsonWriter::Int(int64_t value) {
  Separate();
  StrAppend(&out_, value);
  return *this;
}
JsonWriter& JsonWriter::Double(double value) {
  Separate();
  if (std::isnan(value)) {
    out_ += "\"NaN\"";
  } else if (std::isinf(value)) {
    out_ += value > 0 ? "\"Infinity\"" : "\"-Infinity\"";
  } else {
    char buffer[32];
    const auto end = std::to_chars(buffer, buffer + sizeof buffer, value);
    out_.append(buffer, end.ptr);
  }
  return *this;
}
JsonWriter& JsonWriter::Bool(bool value) {
  Separate();
  out_ += value ? "true" : "false";
  return *this;
}
JsonWriter& JsonWriter::Null() {
  Separate();
  out_ += "null";
  return *this;
}
JsonWriter& JsonWriter::Raw(std::string_view json) {
  Separate();
  out_ += json;
  return *this;
}

namespace {
// Nothing but ASCII that stands for itself; eight bytes at a time. Whether a word has a byte below n: hacker's delight,
// "bit twiddling hacks" (hasless), exact for n up to 128.
bool IsPlain(std::string_view text) {
  constexpr uint64_t kOnes = 0x0101010101010101, kHighs = 0x8080808080808080;
  const auto less = [](uint64_t word, uint64_t n) { return (word - kOnes * n) & ~word; };
  const auto special = [&](uint64_t word) {
    return ((word | less(word, 0x20) | less(word ^ (kOnes * '"'), 1) | less(word ^ (kOnes * '\\'), 1)) & kHighs) != 0;
  };
  uint64_t word = 0;
  for (; text.size() >= sizeof word; text.remove_prefix(sizeof word)) {
    std::memcpy(&word, text.data(), sizeof word);
    if (special(word)) return false;
  }
  word = kOnes * ' ';
  if (!text.empty()) std::memcpy(&word, text.data(), text.size());
  return !special(word);
}
}  // namespace

void AppendJsonString(std::string_view text, std::string& out) {
  if (IsPlain(text)) {
    out += '"';
    out += text;
    out += '"';
    return;
  }
  const bool valid = IsValidUtf8(text);
  out += '"';
  size_t clean = 0;  // start of the run not yet copied
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = uint8_t(text[i]);
    if (c >= 0x20 && c != '"' && c != '\\' && (c < 0x80 || valid)) continue;
    out.append(text, clean, i - clean);
    clean = i + 1;
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      default:
        if (c < 0x20) {
          constexpr char kDigits[] = "0123456789abcdef";
          out += "\\u00";
          out += kDigits[c >> 4];
          out += kDigits[c & 15];
        } else {
          // Some byte of an invalid text: characters that are whole stay, the others become U+FFFD.
          size_t length = 0;
          for (size_t n = 2; n <= 4 && length == 0; ++n) {
            if (i + n <= text.size() && IsValidUtf8(text.substr(i, n))) length = n;
          }
          if (length > 0) {
            out.append(text, i, length);
            i += length - 1;
            clean = i + 1;
          } else {
            out += "\xef\xbf\xbd";
          }
        }
    }
  }
  out.append(text, clean, text.size() - clean);
  out += '"';
}

std::string JsonQuote(std::string_view text) {
  std::string out;
  AppendJsonString(text, out);
  return out;
}

}  // namespace mainstay
