// SPDX-License-Identifier: Apache-2.0
#include "libs/records/value.h"

#include <unicode/normalizer2.h>
#include <unicode/unistr.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <limits>

#include "absl/time/civil_time.h"
#include "absl/time/time.h"
#include "libs/base/clock.h"
#include "libs/base/ids.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/records/list.h"
#include "libs/records/merge.h"
#include "libs/records/patterns.h"

namespace mainstay::records {
namespace {

using catalog::ColumnType;
using catalog::TypeFamily;

ValueError Bad(std::string_view detail) {
  return {"invalid_type", std::string(detail)};
}
ValueError Range(std::string_view detail) {
  return {"out_of_range", std::string(detail)};
}

bool IsDigit(char c) {
  return c >= '0' && c <= '9';
}

// Reads exactly `n` digits.
bool Digits(std::string_view& text, int n, int& out) {
  if (text.size() < static_cast<size_t>(n)) return false;
  out = 0;
  for (int i = 0; i < n; ++i) {
    if (!IsDigit(text[i])) return false;
    out = out * 10 + (text[i] - '0');
  }
  text.remove_prefix(n);
  return true;
}
bool Skip(std::string_view& text, char c) {
  if (text.empty() || text[0] != c) return false;
  text.remove_prefix(1);
  return true;
}

ValueError ConvertInteger(std::string_view text, int64_t low, int64_t high, std::string& out) {
  std::string_view digits = text;
  if (!digits.empty() && digits[0] == '-') digits.remove_prefix(1);
  if (digits.empty() || !std::all_of(digits.begin(), digits.end(), IsDigit)) return Bad("integer expected");
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc::result_out_of_range || value < low || value > high)
    return Range(StrCat("between ", low, " and ", high));
  if (error != std::errc() || end != text.data() + text.size()) return Bad("integer expected");
  out = StrCat(value);
  return {};
}

// Digits are shifted as text: exact, whatever the exponent. Never rounded: more decimals than the column keeps are
// refused.
ValueError ConvertDecimal(const ColumnType& type, std::string_view text, std::string& out) {
  std::string_view rest = text;
  const bool negative = Skip(rest, '-');
  std::string digits;
  int64_t point = 0;  // decimals in `digits`
  while (!rest.empty() && IsDigit(rest[0])) {
    digits += rest[0];
    rest.remove_prefix(1);
  }
  const bool whole = !digits.empty();
  if (Skip(rest, '.')) {
    size_t before = digits.size();
    while (!rest.empty() && IsDigit(rest[0])) {
      digits += rest[0];
      rest.remove_prefix(1);
      ++point;
    }
    if (digits.size() == before) return Bad("decimal number expected");
  }
  if (!whole) return Bad("decimal number expected");
  if (!rest.empty() && (rest[0] == 'e' || rest[0] == 'E')) {
    rest.remove_prefix(1);
    int64_t exponent = 0;
    const bool minus = Skip(rest, '-');
    if (!minus) Skip(rest, '+');
    if (rest.empty() || rest.size() > 4 || !std::all_of(rest.begin(), rest.end(), IsDigit))
      return Bad("decimal number expected");
    for (char c : rest) exponent = exponent * 10 + (c - '0');
    rest = {};
    point -= minus ? -exponent : exponent;
  }
  if (!rest.empty()) return Bad("decimal number expected");
  if (digits.size() > 1000 || point > 1000 || point < -1000) return Range("too many digits");
  while (point > 0 && !digits.empty() && digits.back() == '0') {
    digits.pop_back();
    --point;
  }
  const size_t first = digits.find_first_not_of('0');
  if (first == std::string::npos) {
    out = "0";
    return {};
  }
  if (point < 0) {
    digits.append(static_cast<size_t>(-point), '0');
    point = 0;
  }
  if (static_cast<int64_t>(digits.size()) <= point)
    digits.insert(0, static_cast<size_t>(point + 1 - static_cast<int64_t>(digits.size())), '0');
  const size_t split = digits.size() - static_cast<size_t>(point);
  std::string integral = digits.substr(0, split), fraction = digits.substr(split);
  const size_t leading = integral.find_first_not_of('0');
  integral = leading == std::string::npos ? "0" : integral.substr(leading);
  if (type.precision > 0) {
    const int places = std::max(0, type.precision - type.scale);
    if (static_cast<int>(fraction.size()) > std::max(0, type.scale))
      return Range(StrCat("at most ", std::max(0, type.scale), " decimals"));
    if (static_cast<int>(integral == "0" ? 0 : integral.size()) > places) {
      return Range(StrCat("at most ", places, " digits before the point"));
    }
    if (type.scale < 0) {
      for (int i = 0; i < -type.scale; ++i)
        if (integral != "0" && (static_cast<size_t>(i) >= integral.size() || integral[integral.size() - 1 - i] != '0'))
          return Range(StrCat("a multiple of 10^", -type.scale));
    }
  }
  out.clear();
  if (negative) out += '-';
  out += integral;
  if (!fraction.empty()) StrAppend(&out, ".", fraction);
  return {};
}

ValueError ConvertFloat(std::string_view text, bool single, std::string& out) {
  if (text == "NaN" || text == "Infinity" || text == "-Infinity") {
    out = text;
    return {};
  }
  if (text.empty() || !(IsDigit(text[0]) || (text[0] == '-' && text.size() > 1 && IsDigit(text[1]))))
    return Bad("number expected");
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (end != text.data() + text.size() || (error != std::errc() && error != std::errc::result_out_of_range))
    return Bad("number expected");
  if (error == std::errc::result_out_of_range || (single && std::abs(value) > std::numeric_limits<float>::max()))
    return Range("the number does not fit");
  out = text;
  return {};
}

ValueError ConvertDate(std::string_view text, std::string& out) {
  std::string_view rest = text;
  int year, month, day;
  if (!Digits(rest, 4, year) || !Skip(rest, '-') || !Digits(rest, 2, month) || !Skip(rest, '-') ||
      !Digits(rest, 2, day) || !rest.empty())
    return Bad("date expected, such as 2026-11-24");
  const absl::CivilDay date(year, month, day);
  if (year < 1 || date.month() != month || date.day() != day) return Bad("there is no such day");
  out = text;
  return {};
}

ValueError ConvertTime(std::string_view text, std::string& out) {
  std::string_view rest = text;
  int hour, minute, second = 0;
  bool good = Digits(rest, 2, hour) && Skip(rest, ':') && Digits(rest, 2, minute) && hour < 24 && minute < 60;
  if (good && Skip(rest, ':')) {
    good = Digits(rest, 2, second) && second < 60;
    if (good && Skip(rest, '.'))
      good = !rest.empty() && rest.size() <= 6 && std::all_of(rest.begin(), rest.end(), IsDigit), rest = {};
  }
  if (!good || !rest.empty()) return Bad("time expected, such as 08:15:30");
  out = text;
  return {};
}

ValueError CheckCharacters(std::string_view text) {
  if (text.find('\0') != std::string_view::npos) return {"invalid_characters", "the character U+0000 can't be stored"};
  if (!IsValidUtf8(text)) return {"invalid_characters", "not UTF-8"};
  return {};
}

size_t CodePoints(std::string_view text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

// Marks that make two texts look alike or run the other way: refused where text identifies something.
bool HasDeceptiveMarks(std::string_view text) {
  for (size_t i = 0; i + 2 < text.size(); ++i) {
    const auto a = static_cast<unsigned char>(text[i]), b = static_cast<unsigned char>(text[i + 1]),
               c = static_cast<unsigned char>(text[i + 2]);
    if (a == 0xE2 && b == 0x80 && ((c >= 0x8B && c <= 0x8F) || (c >= 0xAA && c <= 0xAE)))
      return true;                                                      // U+200B–200F, U+202A–202E
    if (a == 0xE2 && b == 0x81 && c >= 0xA0 && c <= 0xAF) return true;  // U+2060–206F
    if (a == 0xEF && b == 0xBB && c == 0xBF) return true;               // U+FEFF
  }
  for (size_t i = 0; i + 1 < text.size(); ++i) {
    const auto a = static_cast<unsigned char>(text[i]), b = static_cast<unsigned char>(text[i + 1]);
    if ((a == 0xC2 && b == 0xAD) || (a == 0xD8 && b == 0x9C)) return true;  // U+00AD, U+061C
  }
  return false;
}

// An escape \u0000 inside JSON: jsonb can't hold it. Backslashes are counted, so that \\u0000 passes.
bool HasEscapedNul(std::string_view json) {
  for (size_t i = 0; i + 5 < json.size(); ++i) {
    if (json[i] != '\\') continue;
    if (json.substr(i, 6) == "\\u0000") return true;
    ++i;
  }
  return false;
}

ValueError ConvertScalar(const ColumnType& type, std::string_view text, std::string& out) {
  switch (type.family) {
    case TypeFamily::kBool:
      if (text != "true" && text != "false") return Bad("true or false expected");
      out = text;
      return {};
    case TypeFamily::kInt16:
      return ConvertInteger(text, std::numeric_limits<int16_t>::min(), std::numeric_limits<int16_t>::max(), out);
    case TypeFamily::kInt32:
      return ConvertInteger(text, std::numeric_limits<int32_t>::min(), std::numeric_limits<int32_t>::max(), out);
    case TypeFamily::kInt64:
      return ConvertInteger(text, std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max(), out);
    case TypeFamily::kDecimal:
      return ConvertDecimal(type, text, out);
    case TypeFamily::kFloat32:
      return ConvertFloat(text, true, out);
    case TypeFamily::kFloat64:
      return ConvertFloat(text, false, out);
    case TypeFamily::kUuid: {
      out = text;
      std::transform(out.begin(), out.end(), out.begin(),
                     [](char c) { return c >= 'A' && c <= 'F' ? static_cast<char>(c + 32) : c; });
      if (!ParseUuid(out).ok()) return Bad("UUID expected");
      return {};
    }
    case TypeFamily::kDate:
      return ConvertDate(text, out);
    case TypeFamily::kTime:
      return ConvertTime(text, out);
    case TypeFamily::kTimestamp:
    case TypeFamily::kTimestampTz: {
      const absl::StatusOr<absl::Time> time = ParseTimestamp(text);
      if (!time.ok()) return Bad("time with zone expected, such as 2026-11-24T08:15:30Z");
      const int64_t year = absl::ToCivilYear(*time, absl::UTCTimeZone()).year();
      if (year < 1 || year > 9999) return Range("years 0001 to 9999");
      out = FormatTimestamp(*time);  // a column without zone holds UTC; PostgreSQL ignores the Z there
      return {};
    }
    case TypeFamily::kBytes: {
      const std::optional<std::string> bytes = Base64UrlDecode(text);
      if (!bytes.has_value()) return Bad("base64url without padding expected");
      out = "\\x" + HexEncode(*bytes);
      return {};
    }
    case TypeFamily::kJson: {
      const auto document = JsonDocument::Parse(std::string(text));
      if (!document.ok()) return Bad("JSON expected");
      if (HasEscapedNul(text)) return {"invalid_characters", "the character U+0000 can't be stored"};
      out = text;
      return {};
    }
    case TypeFamily::kEnum:
      if (std::find(type.enum_values.begin(), type.enum_values.end(), text) == type.enum_values.end()) {
        std::string all;
        for (const std::string& label : type.enum_values) StrAppend(&all, all.empty() ? "" : ", ", label);
        return {"one_of", "one of " + all};
      }
      out = text;
      return {};
    case TypeFamily::kText:
    case TypeFamily::kInterval:
    case TypeFamily::kRange:
    case TypeFamily::kInet:
    case TypeFamily::kOther:
      break;
  }
  ValueError error = CheckCharacters(text);
  if (!error.ok()) return error;
  if (type.family != TypeFamily::kText && text.size() > 1000 && type.family != TypeFamily::kOther)
    return {"too_long", "at most 1000 characters"};
  out = text;
  return {};
}

void AppendTimestamp(std::string_view text, std::string& out) {
  // "2024-01-02 03:04:05.123+00" → "2024-01-02T03:04:05.123000Z"; anything else (infinity, BC) as it is.
  if (text.size() < 19 || text[10] != ' ' || text.ends_with("BC")) {
    AppendJsonString(text, out);
    return;
  }
  std::string_view time = text.substr(11);
  const auto zone = std::find_if(time.begin() + 8, time.end(), [](char c) { return c == '+' || c == '-'; });
  time = time.substr(0, static_cast<size_t>(zone - time.begin()));  // connections run in UTC
  char made[] = "\"0000-00-00T00:00:00.000000Z\"";
  text.copy(made + 1, 10);
  time.substr(0, 8).copy(made + 12, 8);
  if (time.size() > 9) time.substr(9).copy(made + 21, 6);
  out.append(made, sizeof made - 1);
}

// One level of an array's text; `text` starts at "{" and is advanced behind the matching "}".
bool AppendJsonArray(const ColumnType& element, std::string_view& text, std::string& out, int depth) {
  if (depth > 6 || !Skip(text, '{')) return false;
  out += '[';
  bool first = true;
  while (!text.empty() && text[0] != '}') {
    if (!first && !Skip(text, ',')) return false;
    if (!first) out += ',';
    first = false;
    if (text.empty()) return false;
    if (text[0] == '{') {
      if (!AppendJsonArray(element, text, out, depth + 1)) return false;
    } else if (text[0] == '"') {
      text.remove_prefix(1);
      std::string item;
      while (!text.empty() && text[0] != '"') {
        if (text[0] == '\\') text.remove_prefix(1);
        if (text.empty()) return false;
        item += text[0];
        text.remove_prefix(1);
      }
      if (!Skip(text, '"')) return false;
      AppendJsonValue(element, item, out);
    } else {
      const size_t end = text.find_first_of(",}");
      if (end == std::string_view::npos) return false;
      const std::string_view item = text.substr(0, end);
      text.remove_prefix(end);
      if (item == "NULL") {
        out += "null";
      } else {
        AppendJsonValue(element, item, out);
      }
    }
  }
  if (!Skip(text, '}')) return false;
  out += ']';
  return true;
}

}  // namespace

ColumnType ElementType(const ColumnType& type) {
  ColumnType element = type;
  element.array = false;
  if (element.name.ends_with("[]")) element.name.resize(element.name.size() - 2);
  return element;
}

const std::string& CastName(const ColumnType& type) {
  static const std::string kPlainText = "text";
  // varchar compares as text anyway, and this keeps plans alike.
  if (type.name == "character varying") return kPlainText;
  return type.name;
}

std::optional<std::vector<std::optional<std::string>>> ParsePgArray(std::string_view text) {
  std::vector<std::optional<std::string>> out;
  if (!Skip(text, '{')) return std::nullopt;
  while (!text.empty() && text[0] != '}') {
    if (!out.empty() && !Skip(text, ',')) return std::nullopt;
    if (text.empty() || text[0] == '{') return std::nullopt;
    if (text[0] == '"') {
      text.remove_prefix(1);
      std::string item;
      while (!text.empty() && text[0] != '"') {
        if (text[0] == '\\') text.remove_prefix(1);
        if (text.empty()) return std::nullopt;
        item += text[0];
        text.remove_prefix(1);
      }
      if (!Skip(text, '"')) return std::nullopt;
      out.emplace_back(std::move(item));
    } else {
      const size_t end = text.find_first_of(",}");
      if (end == std::string_view::npos || end == 0) return std::nullopt;
      const std::string_view item = text.substr(0, end);
      text.remove_prefix(end);
      if (item == "NULL") {
        out.emplace_back(std::nullopt);
      } else {
        out.emplace_back(std::string(item));
      }
    }
  }
  if (!Skip(text, '}') || !text.empty()) return std::nullopt;
  return out;
}

ValueError ConvertText(const ColumnType& type, std::string_view text, std::string& out) {
  if (!type.array) return ConvertScalar(type, text, out);
  const ColumnType element = ElementType(type);
  PgArray array;
  std::string converted;
  if (!text.empty() && text[0] == '[') {
    const auto document = JsonDocument::Parse(std::string(text));
    if (!document.ok() || !document->root().is_array()) return Bad("list expected");
    for (const JsonValue& item : document->root().items()) {
      if (item.is_null()) {
        array.AddNull();
        continue;
      }
      std::string plain;
      ValueError error = TextFromJson(element, item, plain);
      if (error.ok()) error = ConvertScalar(element, plain, converted);
      if (!error.ok()) return error;
      array.Add(converted);
    }
  } else {
    const auto items = ParsePgArray(text);
    if (!items.has_value()) return Bad("list expected");
    for (const auto& item : *items) {
      if (!item.has_value()) {
        array.AddNull();
        continue;
      }
      ValueError error = ConvertScalar(element, *item, converted);
      if (!error.ok()) return error;
      array.Add(converted);
    }
  }
  out = std::move(array).Finish();
  return {};
}

ValueError TextFromJson(const ColumnType& type, const JsonValue& value, std::string& out) {
  if (type.array) {
    if (!value.is_array()) return Bad("list expected");
    out = value.raw();
    return {};
  }
  switch (type.family) {
    case TypeFamily::kJson:
      out = value.raw();
      return {};
    case TypeFamily::kBool:
      if (!value.is_bool()) return Bad("true or false expected");
      out = value.boolean() ? "true" : "false";
      return {};
    case TypeFamily::kInt16:
    case TypeFamily::kInt32:
      if (!value.is_number()) return Bad("integer expected");
      out = value.text();
      return {};
    case TypeFamily::kInt64:
    case TypeFamily::kDecimal:
    case TypeFamily::kFloat32:
    case TypeFamily::kFloat64:
      if (!value.is_number() && !value.is_string())
        return Bad(type.family == TypeFamily::kInt64 ? "integer expected" : "number expected");
      out = value.text();
      return {};
    default:
      if (!value.is_string()) return Bad("text expected");
      out = value.text();
      return {};
  }
}

void AppendJsonValue(const ColumnType& type, std::string_view text, std::string& out) {
  if (type.array) {
    std::string_view rest = text;
    if (!rest.empty() && rest[0] == '[') rest.remove_prefix(std::min(rest.size(), rest.find('{')));  // "[0:2]={…}"
    const size_t mark = out.size();
    if (AppendJsonArray(ElementType(type), rest, out, 0) && rest.empty()) return;
    out.resize(mark);
    AppendJsonString(text, out);
    return;
  }
  switch (type.family) {
    case TypeFamily::kBool:
      out += text == "t" || text == "true" ? "true" : "false";
      return;
    case TypeFamily::kInt16:
    case TypeFamily::kInt32:
    case TypeFamily::kJson:
      out.append(text);
      return;
    case TypeFamily::kInt64:
    case TypeFamily::kDecimal:
    case TypeFamily::kUuid:
    case TypeFamily::kDate:
    case TypeFamily::kTime:
      out += '"';
      out.append(text);
      out += '"';
      return;
    case TypeFamily::kFloat32:
    case TypeFamily::kFloat64:
      if (text == "NaN" || text.ends_with("nfinity")) {
        out += '"';
        out.append(text);
        out += '"';
      } else {
        out.append(text);
      }
      return;
    case TypeFamily::kTimestamp:
    case TypeFamily::kTimestampTz:
      AppendTimestamp(text, out);
      return;
    case TypeFamily::kBytes: {
      const std::optional<std::string> bytes = text.starts_with("\\x") ? HexDecode(text.substr(2)) : std::nullopt;
      out += '"';
      out += Base64UrlEncode(bytes.value_or(std::string(text)));
      out += '"';
      return;
    }
    default:
      AppendJsonString(text, out);
  }
}

std::string PlainText(const ColumnType& type, std::string_view text) {
  std::string out;
  if (!type.array) {
    switch (type.family) {
      case TypeFamily::kBool:
      case TypeFamily::kTimestamp:
      case TypeFamily::kTimestampTz:
      case TypeFamily::kBytes:
        AppendJsonValue(type, text, out);
        if (out.size() >= 2 && out.front() == '"') out = out.substr(1, out.size() - 2);
        return out;
      default:
        return std::string(text);
    }
  }
  AppendJsonValue(type, text, out);
  return out;
}

std::string MergePatch(std::string_view target, const JsonValue& patch) {
  if (!patch.is_object()) return std::string(patch.raw());
  std::string out;
  JsonWriter writer(out);
  const auto document =
      target.empty()
          ? absl::StatusOr<JsonDocument>(absl::NotFoundError(""))
          : JsonDocument::Parse(std::string(target),
                                JsonLimits{.depth = 1000, .number_digits = 200000, .number_exponent = 200000});
  writer.BeginObject();
  if (document.ok() && document->root().is_object()) {
    for (const JsonValue::Member& member : document->root().members()) {
      const JsonValue* change = patch.Find(member.key);
      if (change == nullptr) {
        writer.Key(member.key).Raw(member.value.raw());
      } else if (!change->is_null()) {
        writer.Key(member.key).Raw(MergePatch(member.value.raw(), *change));
      }
    }
  }
  for (const JsonValue::Member& member : patch.members()) {
    if (member.value.is_null()) continue;
    if (document.ok() && document->root().is_object() && document->root().Find(member.key) != nullptr) continue;
    writer.Key(member.key).Raw(MergePatch("", member.value));
  }
  writer.EndObject();
  return out;
}

std::optional<std::string> ValidateValue(const catalog::Field& field, std::string_view text,
                                         std::vector<FieldError>& errors) {
  const size_t before = errors.size();
  auto add = [&](std::string_view code, std::string_view detail) {
    errors.push_back({.place = FieldError::Place::kPointer,
                      .name = field.name,
                      .code = std::string(code),
                      .detail = std::string(detail)});
  };
  std::string value;
  const ColumnType& type = field.type;
  if (ValueError error = ConvertText(type, text, value); !error.ok()) {
    add(error.code, error.detail);
    return std::nullopt;
  }
  if (type.family == TypeFamily::kText && !type.array) {
    if (field.normalize) {
      UErrorCode code = U_ZERO_ERROR;
      const icu::Normalizer2* nfc = icu::Normalizer2::getNFCInstance(code);
      std::string normal;
      icu::UnicodeString source = icu::UnicodeString::fromUTF8(value), result;
      if (U_SUCCESS(code)) result = nfc->normalize(source, code);
      if (U_SUCCESS(code)) {
        result.toUTF8String(normal);
        value = std::move(normal);
      }
    }
    if (field.identifier && HasDeceptiveMarks(value))
      add("invalid_characters", "invisible or direction marks are not allowed here");
    const size_t length = CodePoints(value);
    int longest = type.max_length > 0 ? type.max_length : std::numeric_limits<int>::max();
    if (field.max_length.has_value()) longest = std::min(longest, *field.max_length);
    if (length > static_cast<size_t>(longest)) add("too_long", StrCat("at most ", longest, " characters"));
    if (field.min_length.has_value() && length < static_cast<size_t>(*field.min_length))
      add("too_short", StrCat("at least ", *field.min_length, " characters"));
  } else if (type.array) {
    if (type.max_length > 0 && type.family == TypeFamily::kText) {
      const auto items = ParsePgArray(value);
      for (const auto& item : items.value_or(std::vector<std::optional<std::string>>()))
        if (item.has_value() && CodePoints(*item) > static_cast<size_t>(type.max_length)) {
          add("too_long", StrCat("at most ", type.max_length, " characters each"));
          break;
        }
    }
    return errors.size() == before ? std::optional<std::string>(std::move(value)) : std::nullopt;
  }
  if (field.minimum.has_value() && CompareValues(type, value, *field.minimum) < 0)
    add("out_of_range", StrCat("at least ", *field.minimum));
  if (field.maximum.has_value() && CompareValues(type, value, *field.maximum) > 0)
    add("out_of_range", StrCat("at most ", *field.maximum));
  if (!field.pattern.empty() && !FullMatch(field.pattern, value)) add("pattern", "does not have the expected form");
  if (!field.one_of.empty() && std::find(field.one_of.begin(), field.one_of.end(), value) == field.one_of.end()) {
    std::string all;
    for (const std::string& one : field.one_of) StrAppend(&all, all.empty() ? "" : ", ", one);
    add("one_of", "one of " + all);
  }
  if (errors.size() != before) return std::nullopt;
  return value;
}

}  // namespace mainstay::records
