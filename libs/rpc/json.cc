// SPDX-License-Identifier: Apache-2.0
#include "libs/rpc/json.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/duration.pb.h>
#include <google/protobuf/message.h>
#include <google/protobuf/timestamp.pb.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "libs/base/clock.h"
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
using CppType = FieldDescriptor::CppType;

constexpr std::string_view kTimestamp = "google.protobuf.Timestamp";
constexpr std::string_view kDuration = "google.protobuf.Duration";

bool IsRawJson(const FieldDescriptor& field) {
  return field.options().GetExtension(common::v1::raw_json);
}

// JobState → JOB_STATE_
std::string Prefix(const EnumDescriptor& descriptor) {
  std::string out;
  for (char c : descriptor.name()) {
    if (absl::ascii_isupper(static_cast<unsigned char>(c)) && !out.empty()) out += '_';
    out += absl::ascii_toupper(static_cast<unsigned char>(c));
  }
  return out + "_";
}

// "ready" of JOB_STATE_READY; empty for …_UNSPECIFIED.
std::string Word(const EnumValueDescriptor& value) {
  const std::string prefix = Prefix(*value.type());
  std::string word =
      value.name().compare(0, prefix.size(), prefix) == 0 ? value.name().substr(prefix.size()) : value.name();
  if (word == "UNSPECIFIED") return "";
  absl::AsciiStrToLower(&word);
  return word;
}

const EnumValueDescriptor* FindWord(const EnumDescriptor& descriptor, std::string_view word) {
  for (int i = 0; i < descriptor.value_count(); ++i) {
    if (!word.empty() && Word(*descriptor.value(i)) == word) return descriptor.value(i);
  }
  return nullptr;
}

std::string FormatDuration(const google::protobuf::Duration& duration) {
  int64_t nanos = std::abs(duration.nanos());
  std::string out = duration.seconds() < 0 || duration.nanos() < 0 ? "-" : "";
  StrAppend(&out, std::abs(duration.seconds()));
  if (nanos > 0) {
    std::string digits = StrCat(1000000000 + nanos).substr(1);
    while (digits.back() == '0') digits.pop_back();
    StrAppend(&out, ".", digits);
  }
  return out + "s";
}

// "1.5s" (proto3 JSON) and what configuration takes: "30s", "5m", "250ms".
std::optional<absl::Duration> ReadDuration(std::string_view text) {
  if (const auto parsed = ParseDuration(text); parsed.ok()) return *parsed;
  double seconds = 0;
  if (text.size() < 2 || text.back() != 's' || !absl::SimpleAtod(ToAbsl(text.substr(0, text.size() - 1)), &seconds))
    return std::nullopt;
  if (!std::isfinite(seconds) || seconds < 0 || seconds > 315576000000.0) return std::nullopt;
  return absl::Seconds(seconds);
}

void AppendScalar(const Message& message, const FieldDescriptor& field, int index, std::string& out);

void AppendMessage(const Message& message, std::string& out) {
  const std::string& name = message.GetDescriptor()->full_name();
  if (name == kTimestamp) {
    const auto& time = static_cast<const google::protobuf::Timestamp&>(message);
    AppendJsonString(FormatTimestamp(absl::FromUnixSeconds(time.seconds()) + absl::Nanoseconds(time.nanos())), out);
  } else if (name == kDuration) {
    AppendJsonString(FormatDuration(static_cast<const google::protobuf::Duration&>(message)), out);
  } else {
    AppendJson(message, out);
  }
}

// One value: of a singular field (index -1) or of an element.
void AppendScalar(const Message& message, const FieldDescriptor& field, int index, std::string& out) {
  const Reflection& r = *message.GetReflection();
  const bool one = index < 0;
  switch (field.cpp_type()) {
    case CppType::CPPTYPE_INT32:
      StrAppend(&out, one ? r.GetInt32(message, &field) : r.GetRepeatedInt32(message, &field, index));
      break;
    case CppType::CPPTYPE_UINT32:
      StrAppend(&out, one ? r.GetUInt32(message, &field) : r.GetRepeatedUInt32(message, &field, index));
      break;
    case CppType::CPPTYPE_INT64:
      StrAppend(&out, "\"", one ? r.GetInt64(message, &field) : r.GetRepeatedInt64(message, &field, index), "\"");
      break;
    case CppType::CPPTYPE_UINT64:
      StrAppend(&out, "\"", one ? r.GetUInt64(message, &field) : r.GetRepeatedUInt64(message, &field, index), "\"");
      break;
    case CppType::CPPTYPE_DOUBLE:
      JsonWriter(out).Double(one ? r.GetDouble(message, &field) : r.GetRepeatedDouble(message, &field, index));
      break;
    case CppType::CPPTYPE_FLOAT:
      JsonWriter(out).Double(double(one ? r.GetFloat(message, &field) : r.GetRepeatedFloat(message, &field, index)));
      break;
    case CppType::CPPTYPE_BOOL:
      out += (one ? r.GetBool(message, &field) : r.GetRepeatedBool(message, &field, index)) ? "true" : "false";
      break;
    case CppType::CPPTYPE_ENUM: {
      const int number = one ? r.GetEnumValue(message, &field) : r.GetRepeatedEnumValue(message, &field, index);
      const auto* value = field.enum_type()->FindValueByNumber(number);
      const std::string word = value != nullptr ? Word(*value) : "";
      // A number this binary does not know comes from a newer service.
      word.empty() ? void(out += value == nullptr ? "\"unknown\"" : "null") : AppendJsonString(word, out);
      break;
    }
    case CppType::CPPTYPE_STRING: {
      std::string scratch;
      const std::string& text = one ? r.GetStringReference(message, &field, &scratch)
                                    : r.GetRepeatedStringReference(message, &field, index, &scratch);
      if (IsRawJson(field)) {
        out += text.empty() ? "null" : text;
      } else if (field.type() == FieldDescriptor::TYPE_BYTES) {
        AppendJsonString(Base64UrlEncode(text), out);
      } else {
        AppendJsonString(text, out);
      }
      break;
    }
    case CppType::CPPTYPE_MESSAGE:
      AppendMessage(one ? r.GetMessage(message, &field) : r.GetRepeatedMessage(message, &field, index), out);
      break;
  }
}

void AppendMap(const Message& message, const FieldDescriptor& field, std::string& out) {
  const Reflection& r = *message.GetReflection();
  const FieldDescriptor& key = *field.message_type()->map_key();
  const FieldDescriptor& value = *field.message_type()->map_value();
  // Sorted, so that the same message always gives the same text.
  std::vector<std::pair<std::string, const Message*>> entries;
  for (int i = 0; i < r.FieldSize(message, &field); ++i) {
    const Message& entry = r.GetRepeatedMessage(message, &field, i);
    std::string text;
    AppendScalar(entry, key, -1, text);
    if (text.empty() || text[0] != '"') text = JsonQuote(text);
    entries.emplace_back(std::move(text), &entry);
  }
  std::sort(entries.begin(), entries.end());
  out += '{';
  for (size_t i = 0; i < entries.size(); ++i) {
    if (i > 0) out += ',';
    StrAppend(&out, entries[i].first, ":");
    AppendScalar(*entries[i].second, value, -1, out);
  }
  out += '}';
}

// ---- reading ----

// Sets or adds one value. Returns what is wrong, empty when nothing is; nested messages add their own errors.
std::string SetValue(Message& message, const FieldDescriptor& field, const JsonValue& json, std::string_view pointer,
                     std::vector<FieldError>& errors);

template <typename Int>
std::optional<Int> ReadInt(std::string_view text) {
  Int value;
  // SimpleAtoi takes blanks and a plus sign; JSON and our parameters don't.
  if (text.empty() || !(absl::ascii_isdigit(static_cast<unsigned char>(text[0])) || text[0] == '-') ||
      absl::ascii_isspace(static_cast<unsigned char>(text.back())))
    return std::nullopt;
  if (!absl::SimpleAtoi(ToAbsl(text), &value)) return std::nullopt;
  return value;
}

constexpr std::string_view kOutOfRange = "the number is too large or too small";
constexpr std::string_view kBadCharacter = "U+0000 is not allowed";

// The stable code that goes with a sentence of SetScalar or SetValue.
std::string CodeOf(const FieldDescriptor& field, std::string_view wrong) {
  if (wrong == kOutOfRange) return "out_of_range";
  if (wrong == kBadCharacter) return "invalid_characters";
  return field.cpp_type() == CppType::CPPTYPE_ENUM ? "invalid_value" : "invalid_type";
}

// Scalars from their text. `json` tells strings from numbers; from a parameter everything is text.
std::string SetScalar(Message& message, const FieldDescriptor& field, std::string_view text) {
  const Reflection& r = *message.GetReflection();
  const bool add = field.is_repeated();
  const auto integer = [&](auto value, auto set, auto append) -> std::string {
    if (!value) {
      const std::string_view digits = text.substr(0, 1) == "-" ? text.substr(1) : text;
      const bool whole = !digits.empty() && digits.find_first_not_of("0123456789") == std::string_view::npos;
      return std::string(whole ? kOutOfRange : "an integer is expected");
    }
    add ? (r.*append)(&message, &field, *value) : (r.*set)(&message, &field, *value);
    return "";
  };
  switch (field.cpp_type()) {
    case CppType::CPPTYPE_INT32:
      return integer(ReadInt<int32_t>(text), &Reflection::SetInt32, &Reflection::AddInt32);
    case CppType::CPPTYPE_UINT32:
      return integer(ReadInt<uint32_t>(text), &Reflection::SetUInt32, &Reflection::AddUInt32);
    case CppType::CPPTYPE_INT64:
      return integer(ReadInt<int64_t>(text), &Reflection::SetInt64, &Reflection::AddInt64);
    case CppType::CPPTYPE_UINT64:
      return integer(ReadInt<uint64_t>(text), &Reflection::SetUInt64, &Reflection::AddUInt64);
    case CppType::CPPTYPE_DOUBLE:
    case CppType::CPPTYPE_FLOAT: {
      double value;
      if (!absl::SimpleAtod(ToAbsl(text), &value) || !std::isfinite(value)) return "a finite number is expected";
      if (field.cpp_type() == CppType::CPPTYPE_DOUBLE) {
        add ? r.AddDouble(&message, &field, value) : r.SetDouble(&message, &field, value);
      } else {
        add ? r.AddFloat(&message, &field, float(value)) : r.SetFloat(&message, &field, float(value));
      }
      return "";
    }
    case CppType::CPPTYPE_BOOL:
      if (text != "true" && text != "false") return "true or false is expected";
      add ? r.AddBool(&message, &field, text == "true") : r.SetBool(&message, &field, text == "true");
      return "";
    case CppType::CPPTYPE_ENUM: {
      const EnumValueDescriptor* value = FindWord(*field.enum_type(), text);
      if (value == nullptr) {
        std::string words;
        for (int i = 0; i < field.enum_type()->value_count(); ++i) {
          const std::string word = Word(*field.enum_type()->value(i));
          if (!word.empty()) StrAppend(&words, words.empty() ? "" : ", ", word);
        }
        return StrCat("one of ", words, " is expected");
      }
      add ? r.AddEnum(&message, &field, value) : r.SetEnum(&message, &field, value);
      return "";
    }
    case CppType::CPPTYPE_STRING: {
      std::string value(text);
      if (value.find('\0') != std::string::npos && field.type() == FieldDescriptor::TYPE_STRING)
        return std::string(kBadCharacter);
      if (field.type() == FieldDescriptor::TYPE_BYTES && !IsRawJson(field)) {
        auto bytes = Base64UrlDecode(text);
        if (!bytes) return "base64url without padding is expected";
        value = *std::move(bytes);
      } else if (!IsValidUtf8(text)) {
        return "valid UTF-8 is expected";
      }
      add ? r.AddString(&message, &field, std::move(value)) : r.SetString(&message, &field, std::move(value));
      return "";
    }
    case CppType::CPPTYPE_MESSAGE: {
      const std::string& name = field.message_type()->full_name();
      Message* target = nullptr;
      if (name == kTimestamp) {
        const auto time = ParseTimestamp(text);
        if (!time.ok()) return "a time with zone is expected, e.g. 2026-11-24T08:15:30Z";
        target = add ? r.AddMessage(&message, &field) : r.MutableMessage(&message, &field);
        auto& out = static_cast<google::protobuf::Timestamp&>(*target);
        const absl::Duration since = *time - absl::UnixEpoch();
        const absl::Duration whole = absl::Floor(since, absl::Seconds(1));
        out.set_seconds(absl::ToInt64Seconds(whole));
        out.set_nanos(int32_t(absl::ToInt64Nanoseconds(since - whole)));
        return "";
      }
      if (name == kDuration) {
        const auto duration = ReadDuration(text);
        if (!duration) return "a duration is expected, e.g. 30s";
        target = add ? r.AddMessage(&message, &field) : r.MutableMessage(&message, &field);
        auto& out = static_cast<google::protobuf::Duration&>(*target);
        out.set_seconds(absl::ToInt64Seconds(*duration));
        out.set_nanos(int32_t(absl::ToInt64Nanoseconds(*duration % absl::Seconds(1))));
        return "";
      }
      return "a value of this type cannot be given here";
    }
  }
  return "a value of this type cannot be given here";
}

std::string SetValue(Message& message, const FieldDescriptor& field, const JsonValue& json, std::string_view pointer,
                     std::vector<FieldError>& errors) {
  const Reflection& r = *message.GetReflection();
  if (IsRawJson(field)) {
    const std::string raw(json.raw());
    field.is_repeated() ? r.AddString(&message, &field, raw) : r.SetString(&message, &field, raw);
    return "";
  }
  switch (field.cpp_type()) {
    case CppType::CPPTYPE_INT64:
    case CppType::CPPTYPE_UINT64:
      if (!json.is_number() && !json.is_string()) return "an integer is expected";
      return SetScalar(message, field, json.text());
    case CppType::CPPTYPE_INT32:
    case CppType::CPPTYPE_UINT32:
    case CppType::CPPTYPE_DOUBLE:
    case CppType::CPPTYPE_FLOAT:
      return json.is_number() ? SetScalar(message, field, json.text()) : "a number is expected";
    case CppType::CPPTYPE_BOOL:
      return json.is_bool() ? SetScalar(message, field, json.boolean() ? "true" : "false")
                            : "true or false is expected";
    case CppType::CPPTYPE_ENUM:
    case CppType::CPPTYPE_STRING:
      return json.is_string() ? SetScalar(message, field, json.text()) : "a string is expected";
    case CppType::CPPTYPE_MESSAGE: {
      const std::string& name = field.message_type()->full_name();
      if (name == kTimestamp || name == kDuration)
        return json.is_string() ? SetScalar(message, field, json.text()) : "a string is expected";
      if (!json.is_object()) return "an object is expected";
      ReadJson(json, pointer,
               field.is_repeated() ? *r.AddMessage(&message, &field) : *r.MutableMessage(&message, &field), errors);
      return "";
    }
  }
  return "";
}

// The pointer of a member (RFC 6901).
std::string Below(std::string_view pointer, std::string_view key) {
  std::string out = StrCat(pointer, "/");
  for (const char c : key) {
    if (c == '~' || c == '/') {
      StrAppend(&out, c == '~' ? "~0" : "~1");
    } else {
      out += c;
    }
  }
  return out;
}

void ReadMap(const JsonValue& json, std::string_view pointer, const FieldDescriptor& field, Message& message,
             std::vector<FieldError>& errors) {
  const Reflection& r = *message.GetReflection();
  for (const JsonValue::Member& member : json.members()) {
    Message* entry = r.AddMessage(&message, &field);
    const std::string at = Below(pointer, member.key);
    std::string wrong = SetScalar(*entry, *field.message_type()->map_key(), member.key);
    if (wrong.empty()) wrong = SetValue(*entry, *field.message_type()->map_value(), member.value, at, errors);
    if (!wrong.empty()) errors.push_back({FieldError::Place::kPointer, at, "invalid_type", wrong});
  }
}

}  // namespace

void AppendJson(const Message& message, std::string& out) {
  const Reflection& r = *message.GetReflection();
  const Descriptor& descriptor = *message.GetDescriptor();
  out += '{';
  for (int i = 0; i < descriptor.field_count(); ++i) {
    const FieldDescriptor& field = *descriptor.field(i);
    if (i > 0) out += ',';
    StrAppend(&out, "\"", field.name(), "\":");
    if (field.is_map()) {
      AppendMap(message, field, out);
    } else if (field.is_repeated()) {
      out += '[';
      for (int k = 0; k < r.FieldSize(message, &field); ++k) {
        if (k > 0) out += ',';
        AppendScalar(message, field, k, out);
      }
      out += ']';
    } else if (field.has_presence() && !r.HasField(message, &field)) {
      out += "null";
    } else {
      AppendScalar(message, field, -1, out);
    }
  }
  out += '}';
}

void ReadJson(const JsonValue& json, std::string_view pointer, Message& message, std::vector<FieldError>& errors) {
  const auto fail = [&](std::string at, std::string_view code, std::string_view detail) {
    errors.push_back({FieldError::Place::kPointer, std::move(at), std::string(code), std::string(detail)});
  };
  if (!json.is_object()) return fail(std::string(pointer), "invalid_type", "an object is expected");
  const Descriptor& descriptor = *message.GetDescriptor();
  for (const JsonValue::Member& member : json.members()) {
    const std::string at = Below(pointer, member.key);
    const FieldDescriptor* field = descriptor.FindFieldByName(std::string(member.key));
    if (field == nullptr) {
      fail(at, "unknown_field", "there is no such field");
      continue;
    }
    if (field->options().GetExtension(common::v1::output_only)) {
      fail(at, "read_only", "this field is set by the server");
      continue;
    }
    if (member.value.is_null() && !IsRawJson(*field)) continue;  // as if absent
    if (field->is_map()) {
      member.value.is_object() ? ReadMap(member.value, at, *field, message, errors)
                               : fail(at, "invalid_type", "an object is expected");
    } else if (field->is_repeated()) {
      if (!member.value.is_array()) {
        fail(at, "invalid_type", "an array is expected");
        continue;
      }
      for (size_t i = 0; i < member.value.items().size(); ++i) {
        const std::string element = StrCat(at, "/", i);
        const std::string wrong = SetValue(message, *field, member.value.items()[i], element, errors);
        if (!wrong.empty()) fail(element, "invalid_type", wrong);
      }
    } else {
      const std::string wrong = SetValue(message, *field, member.value, at, errors);
      if (!wrong.empty()) fail(at, CodeOf(*field, wrong), wrong);
    }
  }
  for (int i = 0; i < descriptor.field_count(); ++i) {
    const FieldDescriptor& field = *descriptor.field(i);
    if (!field.options().GetExtension(common::v1::required)) continue;
    const JsonValue* given = json.Find(field.name());
    if (given == nullptr || given->is_null() || (given->is_string() && given->text().empty()))
      fail(StrCat(pointer, "/", field.name()), "required", "this field is required");
  }
}

absl::Status FromJson(const JsonValue& json, Message& message) {
  std::vector<FieldError> errors;
  ReadJson(json, "", message, errors);
  if (errors.empty()) return absl::OkStatus();
  // Counted first: arguments are evaluated in any order, and the errors are moved from.
  const std::string detail = errors.size() == 1 ? "1 field is wrong" : StrCat(errors.size(), " fields are wrong");
  return MakeProblem("validation-failed", detail, std::move(errors));
}

std::string SetFromText(Message& message, const FieldDescriptor& field, std::string_view text) {
  if (!field.is_repeated()) return SetScalar(message, field, text);
  for (const std::string& item : std::vector<std::string>(absl::StrSplit(ToAbsl(text), ','))) {
    if (std::string wrong = SetScalar(message, field, item); !wrong.empty()) return wrong;
  }
  return "";
}

}  // namespace mainstay::rpc
