// SPDX-License-Identifier: Apache-2.0
#include "libs/rpc/json.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/duration.pb.h>
#include <google/protobuf/message.h>
#include <google/protobuf/timestamp.pb.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/time/time.h"
#include "libs/base/clock.h"
#include "libs/base/json.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "mainstay/common/v1/options.pb.h"

namespace mainstay::rpc {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::EnumDescriptor;
using google::protobuf::EnumValueDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;
using Type = FieldDescriptor::CppType;

bool IsRawJson(const FieldDescriptor& field) {
  return field.options().GetExtension(common::v1::raw_json);
}
bool IsTimestamp(const Descriptor* type) {
  return type == google::protobuf::Timestamp::descriptor();
}
bool IsDuration(const Descriptor* type) {
  return type == google::protobuf::Duration::descriptor();
}

// "JobState" → "JOB_STATE_", the prefix of its values.
std::string EnumPrefix(const EnumDescriptor& type) {
  std::string prefix;
  for (const char c : type.name()) {
    if (absl::ascii_isupper(static_cast<unsigned char>(c)) && !prefix.empty()) prefix += '_';
    prefix += absl::ascii_toupper(static_cast<unsigned char>(c));
  }
  return prefix + "_";
}
std::string EnumWord(const EnumValueDescriptor& value) {
  const std::string prefix = EnumPrefix(*value.type());
  std::string word = value.name();
  if (word.compare(0, prefix.size(), prefix) == 0) word.erase(0, prefix.size());
  return absl::AsciiStrToLower(word);
}

std::string DurationText(int64_t seconds, int32_t nanos) {
  const bool negative = seconds < 0 || nanos < 0;
  std::string text = StrCat(negative ? "-" : "", seconds < 0 ? -seconds : seconds);
  if (nanos != 0) {
    std::string digits = StrCat(nanos < 0 ? -nanos : nanos);
    digits.insert(0, 9 - digits.size(), '0');
    while (digits.back() == '0') digits.pop_back();
    StrAppend(&text, ".", digits);
  }
  return text + "s";
}

// "30s", "1.5s", "-0.25s".
bool ParseDurationText(std::string_view text, google::protobuf::Duration& out) {
  if (text.size() < 2 || text.back() != 's') return false;
  text.remove_suffix(1);
  const bool negative = text[0] == '-';
  if (negative) text.remove_prefix(1);
  const size_t dot = text.find('.');
  const std::string_view whole = text.substr(0, dot);
  const std::string_view fraction = dot == std::string_view::npos ? std::string_view() : text.substr(dot + 1);
  const auto digits = [](std::string_view t) {
    return std::all_of(t.begin(), t.end(), [](char c) { return c >= '0' && c <= '9'; });
  };
  if (whole.empty() || whole.size() > 12 || !digits(whole) || !digits(fraction) || fraction.size() > 9 ||
      (dot != std::string_view::npos && fraction.empty()))
    return false;
  int64_t seconds = 0;
  for (const char c : whole) seconds = seconds * 10 + (c - '0');
  if (seconds > 315'576'000'000) return false;
  int32_t nanos = 0;
  for (size_t i = 0; i < 9; ++i) nanos = nanos * 10 + (i < fraction.size() ? fraction[i] - '0' : 0);
  out.set_seconds(negative ? -seconds : seconds);
  out.set_nanos(negative ? -nanos : nanos);
  return true;
}

template <typename Float>
void AppendFloat(Float value, std::string& out) {
  if (std::isnan(value) || std::isinf(value)) {
    out += std::isnan(value) ? "\"NaN\"" : value > 0 ? "\"Infinity\"" : "\"-Infinity\"";
    return;
  }
  char buffer[64];
  const auto [end, error] = std::to_chars(buffer, buffer + sizeof(buffer), value);
  (void)error;  // 64 bytes are enough for any
  out.append(buffer, end);
}

// ---- writing ----

void AppendMessage(const Message& message, std::string& out) {
  if (const Descriptor* type = message.GetDescriptor(); IsTimestamp(type) || IsDuration(type)) {
    const Reflection* reflection = message.GetReflection();
    const int64_t seconds = reflection->GetInt64(message, type->FindFieldByNumber(1));
    const int32_t nanos = reflection->GetInt32(message, type->FindFieldByNumber(2));
    AppendJsonString(IsTimestamp(type)
                         ? FormatTimestamp(absl::FromUnixSeconds(seconds) + absl::Nanoseconds(nanos))
                         : DurationText(seconds, nanos),
                     out);
    return;
  }
  AppendJson(message, out);
}

// One value: of a singular field (index -1) or an element.
void AppendValue(const Message& message, const FieldDescriptor& field, int index, std::string& out) {
  const Reflection* r = message.GetReflection();
  const auto get = [&](auto one, auto many) {
    return index < 0 ? (r->*one)(message, &field) : (r->*many)(message, &field, index);
  };
  switch (field.cpp_type()) {
    case Type::CPPTYPE_INT32:
      StrAppend(&out, get(&Reflection::GetInt32, &Reflection::GetRepeatedInt32));
      return;
    case Type::CPPTYPE_UINT32:
      StrAppend(&out, get(&Reflection::GetUInt32, &Reflection::GetRepeatedUInt32));
      return;
    case Type::CPPTYPE_INT64:
      StrAppend(&out, "\"", get(&Reflection::GetInt64, &Reflection::GetRepeatedInt64), "\"");
      return;
    case Type::CPPTYPE_UINT64:
      StrAppend(&out, "\"", get(&Reflection::GetUInt64, &Reflection::GetRepeatedUInt64), "\"");
      return;
    case Type::CPPTYPE_DOUBLE:
      AppendFloat(get(&Reflection::GetDouble, &Reflection::GetRepeatedDouble), out);
      return;
    case Type::CPPTYPE_FLOAT:
      AppendFloat(get(&Reflection::GetFloat, &Reflection::GetRepeatedFloat), out);
      return;
    case Type::CPPTYPE_BOOL:
      out += get(&Reflection::GetBool, &Reflection::GetRepeatedBool) ? "true" : "false";
      return;
    case Type::CPPTYPE_ENUM: {
      const EnumValueDescriptor* value = get(&Reflection::GetEnum, &Reflection::GetRepeatedEnum);
      if (value->number() == 0) {
        out += "null";
      } else {
        AppendJsonString(EnumWord(*value), out);
      }
      return;
    }
    case Type::CPPTYPE_STRING: {
      const std::string text = index < 0 ? r->GetString(message, &field) : r->GetRepeatedString(message, &field, index);
      if (IsRawJson(field)) {
        out += text.empty() ? std::string_view("null") : std::string_view(text);
      } else if (field.type() == FieldDescriptor::TYPE_BYTES) {
        StrAppend(&out, "\"", Base64UrlEncode(text), "\"");
      } else {
        AppendJsonString(text, out);
      }
      return;
    }
    case Type::CPPTYPE_MESSAGE:
      AppendMessage(index < 0 ? r->GetMessage(message, &field) : r->GetRepeatedMessage(message, &field, index), out);
      return;
  }
}

void AppendMap(const Message& message, const FieldDescriptor& field, std::string& out) {
  const Reflection* r = message.GetReflection();
  const FieldDescriptor& key_field = *field.message_type()->FindFieldByNumber(1);
  const FieldDescriptor& value_field = *field.message_type()->FindFieldByNumber(2);
  // By key, so that the same message is always the same text.
  std::vector<std::pair<std::string, std::string>> entries;
  for (int i = 0; i < r->FieldSize(message, &field); ++i) {
    const Message& entry = r->GetRepeatedMessage(message, &field, i);
    std::string key, value;
    if (key_field.cpp_type() == Type::CPPTYPE_STRING) {
      key = entry.GetReflection()->GetString(entry, &key_field);
    } else {
      AppendValue(entry, key_field, -1, key);
      std::erase(key, '"');
    }
    AppendValue(entry, value_field, -1, value);
    entries.emplace_back(std::move(key), std::move(value));
  }
  std::sort(entries.begin(), entries.end());
  out += '{';
  for (size_t i = 0; i < entries.size(); ++i) {
    if (i > 0) out += ',';
    AppendJsonString(entries[i].first, out);
    StrAppend(&out, ":", entries[i].second);
  }
  out += '}';
}

// ---- reading ----

std::string Below(const std::string& pointer, std::string_view key) {
  std::string out = pointer + "/";
  for (const char c : key) {
    if (c == '~') {
      out += "~0";
    } else if (c == '/') {
      out += "~1";
    } else {
      out += c;
    }
  }
  return out;
}

struct Wrong {
  std::string_view code, detail;
};
using Outcome = std::optional<Wrong>;
constexpr Wrong kInteger{"invalid_type", "an integer is expected"};

template <typename Int>
Outcome ParseInteger(std::string_view text, Int& out) {
  if (text == "-0") text = "0";
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  if (error == std::errc::result_out_of_range) return Wrong{"out_of_range", "the number is too large or too small"};
  if (error != std::errc() || end != text.data() + text.size() || text.empty()) {
    // "-5" for an unsigned field is a number all the same.
    const bool negative = std::is_unsigned_v<Int> && text.size() > 1 && text[0] == '-' &&
                          std::all_of(text.begin() + 1, text.end(), [](char c) { return c >= '0' && c <= '9'; });
    if (negative) return Wrong{"out_of_range", "the number must not be negative"};
    return kInteger;
  }
  return std::nullopt;
}

template <typename Float>
Outcome ParseFloat(std::string_view text, Float& out) {
  if (text.empty() || text[0] == '+') return Wrong{"invalid_type", "a number is expected"};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  if (error == std::errc::result_out_of_range) return Wrong{"out_of_range", "the number is too large or too small"};
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(out))
    return Wrong{"invalid_type", "a number is expected"};
  return std::nullopt;
}

// Puts a value into a singular field or adds it to a repeated one.
class Sink {
 public:
  Sink(Message& message, const FieldDescriptor& field) : message_(message), field_(field), r_(*message.GetReflection()) {}

  // `text` of a JSON string or number, or of a path or query; all but bytes, messages of one's own, and bool in JSON.
  Outcome Text(std::string_view text) {
    switch (field_.cpp_type()) {
      case Type::CPPTYPE_INT32:
        return Integer<int32_t>(text, &Reflection::SetInt32, &Reflection::AddInt32);
      case Type::CPPTYPE_UINT32:
        return Integer<uint32_t>(text, &Reflection::SetUInt32, &Reflection::AddUInt32);
      case Type::CPPTYPE_INT64:
        return Integer<int64_t>(text, &Reflection::SetInt64, &Reflection::AddInt64);
      case Type::CPPTYPE_UINT64:
        return Integer<uint64_t>(text, &Reflection::SetUInt64, &Reflection::AddUInt64);
      case Type::CPPTYPE_DOUBLE: {
        double value = 0;
        if (auto wrong = ParseFloat(text, value)) return wrong;
        Put(&Reflection::SetDouble, &Reflection::AddDouble, value);
        return std::nullopt;
      }
      case Type::CPPTYPE_FLOAT: {
        float value = 0;
        if (auto wrong = ParseFloat(text, value)) return wrong;
        Put(&Reflection::SetFloat, &Reflection::AddFloat, value);
        return std::nullopt;
      }
      case Type::CPPTYPE_BOOL:
        if (text != "true" && text != "false") return Wrong{"invalid_type", "true or false is expected"};
        Bool(text == "true");
        return std::nullopt;
      case Type::CPPTYPE_ENUM: {
        for (int i = 0; i < field_.enum_type()->value_count(); ++i) {
          const EnumValueDescriptor* value = field_.enum_type()->value(i);
          if (value->number() == 0 || EnumWord(*value) != text) continue;
          Put(&Reflection::SetEnum, &Reflection::AddEnum, value);
          return std::nullopt;
        }
        return Wrong{"invalid_value", "none of the known words"};
      }
      case Type::CPPTYPE_STRING:
        if (field_.type() == FieldDescriptor::TYPE_BYTES) {
          auto bytes = Base64UrlDecode(text);
          if (!bytes) return Wrong{"invalid_value", "base64url without padding is expected"};
          String(*std::move(bytes));
          return std::nullopt;
        }
        if (text.find('\0') != std::string_view::npos) return Wrong{"invalid_characters", "NUL is not allowed"};
        String(std::string(text));
        return std::nullopt;
      case Type::CPPTYPE_MESSAGE:
        if (IsTimestamp(field_.message_type())) {
          const auto time = ParseTimestamp(text);
          if (!time.ok()) return Wrong{"invalid_value", "a time as 2026-01-31T12:00:00Z is expected"};
          google::protobuf::Timestamp value;
          const absl::Duration since = *time - absl::UnixEpoch();
          const absl::Duration whole = absl::Floor(since, absl::Seconds(1));
          value.set_seconds(absl::ToInt64Seconds(whole));
          value.set_nanos(int32_t(absl::ToInt64Nanoseconds(since - whole)));
          NewMessage()->CopyFrom(value);
          return std::nullopt;
        }
        if (IsDuration(field_.message_type())) {
          google::protobuf::Duration value;
          if (!ParseDurationText(text, value)) return Wrong{"invalid_value", "a duration as 1.5s is expected"};
          NewMessage()->CopyFrom(value);
          return std::nullopt;
        }
        return Wrong{"invalid_type", "an object is expected"};
    }
    return std::nullopt;
  }
  void Bool(bool value) { Put(&Reflection::SetBool, &Reflection::AddBool, value); }
  void String(std::string value) {
    if (field_.is_repeated()) {
      r_.AddString(&message_, &field_, std::move(value));
    } else {
      r_.SetString(&message_, &field_, std::move(value));
    }
  }
  Message* NewMessage() {
    return field_.is_repeated() ? r_.AddMessage(&message_, &field_) : r_.MutableMessage(&message_, &field_);
  }

 private:
  template <typename Int, typename Set, typename Add>
  Outcome Integer(std::string_view text, Set set, Add add) {
    Int value = 0;
    if (auto wrong = ParseInteger(text, value)) return wrong;
    Put(set, add, value);
    return std::nullopt;
  }
  template <typename Set, typename Add, typename Value>
  void Put(Set set, Add add, Value value) {
    if (field_.is_repeated()) {
      (r_.*add)(&message_, &field_, value);
    } else {
      (r_.*set)(&message_, &field_, value);
    }
  }

  Message& message_;
  const FieldDescriptor& field_;
  const Reflection& r_;
};

class Reader {
 public:
  explicit Reader(std::vector<FieldError>& errors) : errors_(errors) {}

  void Object(const JsonValue& value, const std::string& pointer, const std::vector<std::string>& skip, Message& message) {
    if (!value.is_object()) return Fail(pointer, "invalid_type", "an object is expected");
    const Descriptor& type = *message.GetDescriptor();
    for (const JsonValue::Member& member : value.members()) {
      const std::string place = Below(pointer, member.key);
      const FieldDescriptor* field = type.FindFieldByName(std::string(member.key));
      if (field == nullptr || std::find(skip.begin(), skip.end(), member.key) != skip.end()) {
        Fail(place, "unknown_field", "there is no such field");
      } else if (field->options().GetExtension(common::v1::output_only)) {
        Fail(place, "read_only", "this field is set by the server alone");
      } else {
        Field(*field, member.value, place, message);
      }
    }
    for (int i = 0; i < type.field_count(); ++i) {
      const FieldDescriptor& field = *type.field(i);
      if (!field.options().GetExtension(common::v1::required)) continue;
      if (std::find(skip.begin(), skip.end(), field.name()) != skip.end()) continue;
      const JsonValue* sent = value.Find(field.name());
      const bool empty = sent == nullptr || sent->is_null() || (sent->is_string() && sent->text().empty()) ||
                         (sent->is_array() && sent->items().empty());
      if (empty) Fail(Below(pointer, field.name()), "required", "a value is required");
    }
  }

 private:
  void Fail(const std::string& pointer, std::string_view code, std::string_view detail) {
    errors_.push_back({FieldError::Place::kPointer, pointer, std::string(code), std::string(detail)});
  }

  void Field(const FieldDescriptor& field, const JsonValue& value, const std::string& pointer, Message& message) {
    if (IsRawJson(field) && !field.is_repeated()) {
      Sink(message, field).String(std::string(value.raw()));
      return;
    }
    if (value.is_null()) return;  // as if it were not there; required ones are found missing above
    if (const auto* oneof = field.real_containing_oneof();
        oneof != nullptr && message.GetReflection()->HasOneof(message, oneof))
      return Fail(pointer, "conflict", StrCat("only one of ", oneof->name(), " may be given"));
    if (field.is_map()) return Map(field, value, pointer, message);
    if (!field.is_repeated()) return Value(field, value, pointer, message);
    if (!value.is_array()) return Fail(pointer, "invalid_type", "an array is expected");
    for (size_t i = 0; i < value.items().size(); ++i) {
      const std::string place = StrCat(pointer, "/", i);
      if (IsRawJson(field)) {
        Sink(message, field).String(std::string(value.items()[i].raw()));
      } else if (value.items()[i].is_null()) {
        Fail(place, "invalid_type", "null is not allowed here");
      } else {
        Value(field, value.items()[i], place, message);
      }
    }
  }

  void Map(const FieldDescriptor& field, const JsonValue& value, const std::string& pointer, Message& message) {
    if (!value.is_object()) return Fail(pointer, "invalid_type", "an object is expected");
    for (const JsonValue::Member& member : value.members()) {
      const std::string place = Below(pointer, member.key);
      if (member.value.is_null()) {
        Fail(place, "invalid_type", "null is not allowed here");
        continue;
      }
      Message* entry = message.GetReflection()->AddMessage(&message, &field);
      const Descriptor& type = *entry->GetDescriptor();
      if (const auto wrong = Sink(*entry, *type.FindFieldByNumber(1)).Text(member.key))
        Fail(place, wrong->code, wrong->detail);
      Value(*type.FindFieldByNumber(2), member.value, place, *entry);
    }
  }

  void Value(const FieldDescriptor& field, const JsonValue& value, const std::string& pointer, Message& message) {
    Sink sink(message, field);
    const auto text = [&] {
      if (const auto wrong = sink.Text(value.text())) Fail(pointer, wrong->code, wrong->detail);
    };
    switch (field.cpp_type()) {
      case Type::CPPTYPE_BOOL:
        if (!value.is_bool()) return Fail(pointer, "invalid_type", "true or false is expected");
        return sink.Bool(value.boolean());
      case Type::CPPTYPE_INT32:
      case Type::CPPTYPE_UINT32:
        if (!value.is_number()) return Fail(pointer, kInteger.code, kInteger.detail);
        return text();
      case Type::CPPTYPE_INT64:
      case Type::CPPTYPE_UINT64:
        if (!value.is_number() && !value.is_string()) return Fail(pointer, kInteger.code, kInteger.detail);
        return text();
      case Type::CPPTYPE_DOUBLE:
      case Type::CPPTYPE_FLOAT:
        if (!value.is_number()) return Fail(pointer, "invalid_type", "a number is expected");
        return text();
      case Type::CPPTYPE_ENUM:
      case Type::CPPTYPE_STRING:
        if (!value.is_string()) return Fail(pointer, "invalid_type", "a string is expected");
        return text();
      case Type::CPPTYPE_MESSAGE:
        if (IsTimestamp(field.message_type()) || IsDuration(field.message_type())) {
          if (!value.is_string()) return Fail(pointer, "invalid_type", "a string is expected");
          return text();
        }
        return Object(value, pointer, {}, *sink.NewMessage());
    }
  }

  std::vector<FieldError>& errors_;
};

}  // namespace

void AppendJson(const Message& message, std::string& out) {
  const Descriptor& type = *message.GetDescriptor();
  const Reflection* r = message.GetReflection();
  out += '{';
  bool first = true;
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    // Of a oneof only what is set.
    if (field.real_containing_oneof() != nullptr && !r->HasField(message, &field)) continue;
    if (!first) out += ',';
    first = false;
    StrAppend(&out, "\"", field.name(), "\":");
    if (field.is_map()) {
      AppendMap(message, field, out);
    } else if (field.is_repeated()) {
      out += '[';
      for (int j = 0; j < r->FieldSize(message, &field); ++j) {
        if (j > 0) out += ',';
        AppendValue(message, field, j, out);
      }
      out += ']';
    } else if (field.has_presence() && !r->HasField(message, &field)) {
      out += "null";
    } else {
      AppendValue(message, field, -1, out);
    }
  }
  out += '}';
}

std::string ToJson(const Message& message) {
  std::string out;
  AppendJson(message, out);
  return out;
}

void ReadJson(const JsonValue& value, const std::string& pointer, const std::vector<std::string>& skip, Message& message,
              std::vector<FieldError>& errors) {
  Reader(errors).Object(value, pointer, skip, message);
}

absl::Status FromJson(const JsonValue& value, Message& message) {
  std::vector<FieldError> errors;
  ReadJson(value, "", {}, message, errors);
  if (errors.empty()) return absl::OkStatus();
  const std::string detail = errors.size() == 1 ? "1 field is wrong" : StrCat(errors.size(), " fields are wrong");
  return MakeProblem("validation-failed", detail, std::move(errors));
}

bool SetFromText(const FieldDescriptor& field, std::string_view text, Message& message, std::string& code,
                 std::string& detail) {
  const auto wrong = Sink(message, field).Text(text);
  if (!wrong) return true;
  code = wrong->code;
  detail = wrong->detail;
  return false;
}

}  // namespace mainstay::rpc
