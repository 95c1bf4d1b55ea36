// SPDX-License-Identifier: Apache-2.0
#include "libs/transfer/values.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/time/civil_time.h"
#include "libs/base/clock.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/catalog/build.h"
#include "libs/records/merge.h"
#include "libs/tabular/encoding.h"

namespace mainstay::transfer {
namespace {

using catalog::TypeFamily;

bool Digit(char c) {
  return c >= '0' && c <= '9';
}

// Quoted for a message; long values are cut.
std::string Shown(std::string_view text) {
  const std::string_view cut = TruncateUtf8(text, 60);
  return StrCat("\"", cut, cut.size() < text.size() ? "…" : "", "\"");
}

// Languages that write 1.234,56.
bool WritesComma(std::string_view locale) {
  static constexpr std::string_view kComma[] = {"de", "fr", "es", "it", "nl", "pt", "pl", "cs", "sk", "da", "sv",
                                                "nb", "nn", "no", "fi", "ru", "uk", "tr", "el", "hu", "ro", "bg",
                                                "hr", "sl", "sr", "et", "lv", "lt", "is", "id", "vi", "ca"};
  if (locale == "de-CH" || locale == "it-CH" || locale == "es-MX") return false;
  const std::string_view language = locale.substr(0, locale.find_first_of("-_"));
  return std::find(std::begin(kComma), std::end(kComma), language) != std::end(kComma);
}

// A mark between groups of digits, and how many bytes it takes; 0: none. The decimal mark is not one.
size_t GroupMark(std::string_view text, char decimal) {
  if (text.empty()) return 0;
  const char c = text[0];
  if ((c == ',' || c == '.') && c != decimal) return 1;
  if (c == '\'' || c == ' ') return 1;
  if (text.substr(0, 2) == "\xC2\xA0") return 2;
  if (text.substr(0, 3) == "\xE2\x80\xAF" || text.substr(0, 3) == "\xE2\x80\x99") return 3;
  return 0;
}

// Groups of three, or Indian 3-2-2; `groups` are their lengths from the left.
bool GroupsFit(const std::vector<int>& groups) {
  if (groups.size() == 1) return true;
  if (groups.back() != 3) return false;
  const bool threes =
      groups[0] >= 1 && groups[0] <= 3 && std::all_of(groups.begin() + 1, groups.end(), [](int n) { return n == 3; });
  const bool indian = groups[0] >= 1 && groups[0] <= 2 &&
                      std::all_of(groups.begin() + 1, groups.end() - 1, [](int n) { return n == 2; });
  return threes || indian;
}

struct Decimal {
  bool negative = false;
  std::string whole;     // without leading zeros, at least "0"
  std::string fraction;  // as written
};

std::optional<Decimal> ReadDecimal(std::string_view text, char mark) {
  Decimal out;
  if (text.size() > 1 && text.front() == '(' && text.back() == ')') {
    out.negative = true;
    text = text.substr(1, text.size() - 2);
    if (!text.empty() && (text.front() == '-' || text.front() == '+')) return std::nullopt;
  } else if (!text.empty() && (text.front() == '-' || text.front() == '+')) {
    out.negative = text.front() == '-';
    text.remove_prefix(1);
  } else if (text.substr(0, 3) == "\xE2\x88\x92") {  // the minus sign of typographers
    out.negative = true;
    text.remove_prefix(3);
  } else if (text.size() > 1 && text.back() == '-') {
    out.negative = true;
    text.remove_suffix(1);
  }
  std::vector<int> groups = {0};
  size_t mark_length = 0;
  std::string_view group_mark;
  while (!text.empty()) {
    if (Digit(text[0])) {
      out.whole += text[0];
      ++groups.back();
      text.remove_prefix(1);
      continue;
    }
    mark_length = GroupMark(text, mark);
    if (mark_length == 0) break;
    // One kind of mark only, and digits on both sides.
    if (!group_mark.empty() && group_mark != text.substr(0, mark_length)) return std::nullopt;
    group_mark = text.substr(0, mark_length);
    text.remove_prefix(mark_length);
    groups.push_back(0);
  }
  if (!GroupsFit(groups) || std::any_of(groups.begin() + 1, groups.end(), [](int n) { return n == 0; }))
    return std::nullopt;
  if (!text.empty() && text[0] == mark) {
    text.remove_prefix(1);
    while (!text.empty() && Digit(text[0])) {
      out.fraction += text[0];
      text.remove_prefix(1);
    }
  }
  if (out.whole.empty() && out.fraction.empty()) return std::nullopt;
  if (!text.empty() && (text[0] == 'e' || text[0] == 'E')) {
    std::string_view exponent_text = text.substr(1);
    int exponent = 0;
    if (!exponent_text.empty() && exponent_text[0] == '+') exponent_text.remove_prefix(1);
    if (!absl::SimpleAtoi(ToAbsl(exponent_text), &exponent) || exponent > 400 || exponent < -400) return std::nullopt;
    for (; exponent > 0; --exponent) {
      out.whole += out.fraction.empty() ? '0' : out.fraction[0];
      if (!out.fraction.empty()) out.fraction.erase(0, 1);
    }
    for (; exponent < 0; ++exponent) {
      out.fraction.insert(0, 1, out.whole.empty() ? '0' : out.whole.back());
      if (!out.whole.empty()) out.whole.pop_back();
    }
    text = {};
  }
  if (!text.empty()) return std::nullopt;
  out.whole.erase(0, std::min(out.whole.find_first_not_of('0'), out.whole.size()));
  if (out.whole.empty()) out.whole.push_back('0');
  return out;
}

bool AllZeros(std::string_view digits) {
  return digits.find_first_not_of('0') == std::string_view::npos;
}

bool TakeNumber(std::string_view* text, size_t digits, int* out) {
  if (text->size() < digits) return false;
  *out = 0;
  for (size_t i = 0; i < digits; ++i) {
    if (!Digit((*text)[i])) return false;
    *out = *out * 10 + ((*text)[i] - '0');
  }
  text->remove_prefix(digits);
  return true;
}
bool TakeChar(std::string_view* text, std::string_view any) {
  if (text->empty() || any.find(text->front()) == std::string_view::npos) return false;
  text->remove_prefix(1);
  return true;
}

// 2026-02-28 off the front; the calendar is checked.
std::optional<absl::CivilDay> TakeDate(std::string_view* text) {
  int year = 0, month = 0, day = 0;
  if (!TakeNumber(text, 4, &year) || !TakeChar(text, "-") || !TakeNumber(text, 2, &month) || !TakeChar(text, "-") ||
      !TakeNumber(text, 2, &day))
    return std::nullopt;
  const absl::CivilDay civil(year, month, day);
  if (civil.year() != year || civil.month() != month || civil.day() != day || year == 0) return std::nullopt;
  return civil;
}

std::string TwoDigits(int n) {
  return n < 10 ? StrCat("0", n) : StrCat(n);
}
std::string DateText(absl::CivilDay day) {
  std::string year = StrCat(day.year());
  while (year.size() < 4) year.insert(0, 1, '0');
  return StrCat(year, "-", TwoDigits(day.month()), "-", TwoDigits(day.day()));
}

}  // namespace

std::string CellCode(std::string_view code, const catalog::Field& field) {
  if (code == "invalid_characters") return "cell.invalid_character";
  if (code == "one_of") return "cell.not_in_list";
  if (code == "pattern" || code == "invalid_format")
    return field.name.find("email") != std::string::npos ? "cell.invalid_email" : "cell.invalid_format";
  if (code == "invalid_type") return "cell.invalid_value";
  return StrCat("cell.", code);
}

std::string_view TrimCell(std::string_view text) {
  const auto blank_at_front = [&]() -> size_t {
    if (text.empty()) return 0;
    if (absl::ascii_isspace(static_cast<unsigned char>(text[0]))) return 1;
    if (text.substr(0, 2) == "\xC2\xA0") return 2;
    if (text.substr(0, 3) == "\xE2\x80\x8B" || text.substr(0, 3) == "\xEF\xBB\xBF" ||
        text.substr(0, 3) == "\xE3\x80\x80")
      return 3;
    return 0;
  };
  const auto blank_at_back = [&]() -> size_t {
    if (text.empty()) return 0;
    if (absl::ascii_isspace(static_cast<unsigned char>(text.back()))) return 1;
    if (text.size() >= 2 && text.substr(text.size() - 2) == "\xC2\xA0") return 2;
    if (text.size() < 3) return 0;
    const std::string_view tail = text.substr(text.size() - 3);
    return tail == "\xE2\x80\x8B" || tail == "\xEF\xBB\xBF" || tail == "\xE3\x80\x80" ? 3 : 0;
  };
  while (const size_t n = blank_at_front()) text.remove_prefix(n);
  while (const size_t n = blank_at_back()) text.remove_suffix(n);
  return text;
}

char ProvenDecimalMark(std::string_view text) {
  const size_t point = text.rfind('.'), comma = text.rfind(',');
  const bool has_point = point != std::string_view::npos, has_comma = comma != std::string_view::npos;
  if (has_point && has_comma) return point > comma ? '.' : ',';
  if (!has_point && !has_comma) return 0;
  const char mark = has_point ? '.' : ',';
  const size_t place = has_point ? point : comma;
  const char other = has_point ? ',' : '.';
  const bool several = text.find(mark) != place;
  if (several) return other;  // 1.234.567 can only be groups
  size_t after = 0;
  while (place + 1 + after < text.size() && Digit(text[place + 1 + after])) ++after;
  size_t before = 0;
  while (before < place && Digit(text[place - 1 - before])) ++before;
  const bool could_be_group = after == 3 && before >= 1 && before <= 3 && !(before == 1 && text[place - 1] == '0');
  return could_be_group ? 0 : mark;
}

ValueParser::ValueParser(const catalog::Field& field, std::string_view locale, std::string_view zone)
    : field_(field), locale_mark_(WritesComma(locale) ? ',' : '.') {
  absl::TimeZone loaded;
  if (!zone.empty() && absl::LoadTimeZone(ToAbsl(zone), &loaded)) zone_ = loaded;
}

void ValueParser::Learn(std::string_view cell) {
  switch (field_.type.family) {
    case TypeFamily::kInt16:
    case TypeFamily::kInt32:
    case TypeFamily::kInt64:
    case TypeFamily::kDecimal:
    case TypeFamily::kFloat32:
    case TypeFamily::kFloat64:
      break;
    default:
      return;
  }
  const std::string_view text = TrimCell(cell);
  if (text.empty() || !std::any_of(text.begin(), text.end(), Digit)) return;
  // Only what reads as a number with the mark that it proves is a proof.
  const char mark = ProvenDecimalMark(text);
  if (mark == 0) {
    if (text.find_first_of(".,") != std::string_view::npos) ++undecided_;
  } else if (ReadDecimal(text, mark)) {
    ++(mark == '.' ? proofs_of_point_ : proofs_of_comma_);
  }
}

char ValueParser::decimal_mark() const {
  if (proofs_of_point_ > 0 && proofs_of_comma_ == 0) return '.';
  if (proofs_of_comma_ > 0 && proofs_of_point_ == 0) return ',';
  return locale_mark_;
}

std::string ValueParser::warning() const {
  if (proofs_of_point_ > 0 && proofs_of_comma_ > 0) return "column.mixed_locale";
  if (undecided_ > 0 && proofs_of_point_ == 0 && proofs_of_comma_ == 0) return "column.ambiguous_number";
  return "";
}

std::optional<std::string> ValueParser::ParseBool(std::string_view text, std::vector<CellError>& errors) const {
  static constexpr std::string_view kTrue[] = {
      "true", "yes", "y", "1", "on", "x", "t", "ja", "j", "oui", "si", "s\xC3\xAD", "sim", "\xE3\x81\xAF\xE3\x81\x84"};
  static constexpr std::string_view kFalse[] = {
      "false", "no", "n", "0", "off", "f", "nein", "non", "nee", "n\xC3\xA3o", "\xE3\x81\x84\xE3\x81\x84\xE3\x81\x88"};
  for (std::string_view word : kTrue)
    if (absl::EqualsIgnoreCase(ToAbsl(word), ToAbsl(text))) return "true";
  for (std::string_view word : kFalse)
    if (absl::EqualsIgnoreCase(ToAbsl(word), ToAbsl(text))) return "false";
  errors.push_back(
      {"cell.invalid_boolean", StrCat(Shown(text), " is neither yes nor no; expected e.g. true or false"), ""});
  return std::nullopt;
}

std::optional<std::string> ValueParser::ParseNumber(std::string_view text, bool integer,
                                                    std::vector<CellError>& errors) const {
  const char mark = decimal_mark();
  const std::optional<Decimal> number = ReadDecimal(text, mark);
  if (!number || (integer && text.find_first_of("eE") != std::string_view::npos)) {
    if (integer) {
      errors.push_back({"cell.invalid_number", StrCat(Shown(text), " is not a whole number; expected e.g. 12"), ""});
    } else {
      errors.push_back({"cell.invalid_number",
                        StrCat(Shown(text), " is not a decimal; expected e.g. 12", mark == ',' ? "," : ".", "50"), ""});
    }
    return std::nullopt;
  }
  std::string whole = number->whole, fraction = number->fraction;
  if (integer) {
    if (!AllZeros(fraction)) {
      errors.push_back({"cell.not_integer", StrCat(Shown(text), " has decimals; the field takes whole numbers"), ""});
      return std::nullopt;
    }
    const std::string digits = StrCat(number->negative && whole != "0" ? "-" : "", whole);
    int64_t value = 0;
    const bool fits = absl::SimpleAtoi(digits, &value) &&
                      (field_.type.family != TypeFamily::kInt32 || (value >= INT32_MIN && value <= INT32_MAX)) &&
                      (field_.type.family != TypeFamily::kInt16 || (value >= INT16_MIN && value <= INT16_MAX));
    if (!fits) {
      errors.push_back({"cell.out_of_range", StrCat(Shown(text), " is too large for the field"), ""});
      return std::nullopt;
    }
    return digits;
  }
  if (field_.type.family == TypeFamily::kDecimal && field_.type.precision > 0) {
    const auto scale = static_cast<size_t>(std::max(0, field_.type.scale));
    if (fraction.size() > scale) {
      if (!AllZeros(std::string_view(fraction).substr(scale))) {
        errors.push_back(
            {"cell.too_precise", StrCat(Shown(text), " has more than ", scale, " decimals; nothing is rounded"), ""});
        return std::nullopt;
      }
      fraction.resize(scale);
    }
    const int digits = whole == "0" ? 0 : static_cast<int>(whole.size());
    if (digits > field_.type.precision - field_.type.scale) {
      errors.push_back({"cell.out_of_range",
                        StrCat(Shown(text), " has more than ", field_.type.precision - field_.type.scale,
                               " digits before the decimal mark"),
                        ""});
      return std::nullopt;
    }
  }
  const bool zero = whole == "0" && AllZeros(fraction);
  return StrCat(number->negative && !zero ? "-" : "", whole, fraction.empty() ? "" : ".", fraction);
}

std::optional<std::string> ValueParser::ParseDate(std::string_view text, std::vector<CellError>& errors) const {
  std::string_view rest = text;
  const std::optional<absl::CivilDay> day = TakeDate(&rest);
  // A time of midnight behind it is what spreadsheet programs add.
  if (day && (rest.empty() || rest == " 00:00:00" || rest == "T00:00:00" || rest == " 00:00")) return DateText(*day);
  errors.push_back({"cell.invalid_date", StrCat(Shown(text), " is not a date; expected e.g. 2026-11-24"), ""});
  return std::nullopt;
}

std::optional<std::string> ValueParser::ParseTimestamp(std::string_view text, bool with_zone,
                                                       std::vector<CellError>& errors) const {
  const auto wrong = [&]() -> std::optional<std::string> {
    errors.push_back({"cell.invalid_timestamp",
                      StrCat(Shown(text), " is not a time; expected e.g. 2026-11-24T08:15:30", with_zone ? "Z" : ""),
                      ""});
    return std::nullopt;
  };
  std::string_view rest = text;
  const std::optional<absl::CivilDay> day = TakeDate(&rest);
  if (!day) return wrong();
  int hour = 0, minute = 0, second = 0;
  std::string fraction;
  if (!rest.empty()) {
    if (!TakeChar(&rest, "T t") || !TakeNumber(&rest, 2, &hour) || !TakeChar(&rest, ":") ||
        !TakeNumber(&rest, 2, &minute))
      return wrong();
    if (TakeChar(&rest, ":")) {
      if (!TakeNumber(&rest, 2, &second)) return wrong();
      if (TakeChar(&rest, ".")) {
        while (!rest.empty() && Digit(rest[0])) {
          fraction += rest[0];
          rest.remove_prefix(1);
        }
        if (fraction.empty() || fraction.size() > 9) return wrong();
      }
    }
    if (hour > 23 || minute > 59 || second > 59) return wrong();
  }
  const std::string local = StrCat(DateText(*day), "T", TwoDigits(hour), ":", TwoDigits(minute), ":", TwoDigits(second),
                                   fraction.empty() ? "" : ".", fraction);
  if (!with_zone) {
    // A column without zone holds UTC, as everywhere in the suite.
    if (rest.empty() || rest == "Z") return StrCat(local, "Z");
    return wrong();
  }
  if (!rest.empty()) {
    if (rest.front() == ' ') rest.remove_prefix(1);
    if (rest == "Z" || rest == "z") return StrCat(local, "Z");
    const char sign = rest.empty() ? 0 : rest.front();
    int hours = 0, minutes = 0;
    if (!TakeChar(&rest, "+-") || !TakeNumber(&rest, 2, &hours)) return wrong();
    if (!rest.empty()) {
      TakeChar(&rest, ":");
      if (!TakeNumber(&rest, 2, &minutes)) return wrong();
    }
    if (!rest.empty() || hours > 15 || minutes > 59) return wrong();
    return StrCat(local, std::string(1, sign), TwoDigits(hours), ":", TwoDigits(minutes));
  }
  if (!zone_) {
    errors.push_back({"cell.ambiguous_time",
                      StrCat(Shown(text), " has no offset, and the import declares no zone; write e.g. ", text, "Z"),
                      StrCat(text, "Z")});
    return std::nullopt;
  }
  const absl::TimeZone::TimeInfo info =
      zone_->At(absl::CivilSecond(day->year(), day->month(), day->day(), hour, minute, second));
  if (info.kind != absl::TimeZone::TimeInfo::UNIQUE) {
    errors.push_back(
        {"cell.ambiguous_time",
         StrCat(Shown(text), " does not exist, or exists twice, in the zone ", zone_->name(), "; write the offset"),
         ""});
    return std::nullopt;
  }
  const std::string seconds = absl::FormatTime("%Y-%m-%dT%H:%M:%S", info.pre, absl::UTCTimeZone());
  return StrCat(seconds, fraction.empty() ? "" : ".", fraction, "Z");
}

std::optional<std::string> ValueParser::ParseEnum(std::string_view text, std::vector<CellError>& errors) const {
  const std::vector<std::string>& words =
      field_.type.family == TypeFamily::kEnum ? field_.type.enum_values : field_.one_of;
  for (const std::string& word : words)
    if (word == text) return word;
  for (const std::string& word : words)
    if (absl::EqualsIgnoreCase(word, ToAbsl(text))) return word;
  std::vector<std::string> rest = words, near;
  while (near.size() < 3) {
    const std::string word = catalog::Nearest(text, rest);
    if (word.empty()) break;
    near.push_back(word);
    rest.erase(std::remove(rest.begin(), rest.end(), word), rest.end());
  }
  std::string suggestion, allowed;
  for (const std::string& word : near) StrAppend(&suggestion, suggestion.empty() ? "" : ", ", word);
  for (size_t i = 0; i < words.size() && i < 10; ++i) StrAppend(&allowed, i == 0 ? "" : ", ", words[i]);
  errors.push_back({"cell.not_in_list", StrCat(Shown(text), " is not one of ", allowed, words.size() > 10 ? ", …" : ""),
                    suggestion});
  return std::nullopt;
}

std::optional<std::string> ValueParser::Parse(std::string_view cell, std::vector<CellError>& errors) const {
  const std::string_view text = TrimCell(cell);
  if (text.empty()) return std::nullopt;
  if (text.find('\0') != std::string_view::npos) {
    errors.push_back({"cell.invalid_character", "the cell has a NUL character, which cannot be stored", ""});
    return std::nullopt;
  }
  std::optional<std::string> value;
  if (field_.type.array) {
    value = std::string(text);  // as JSON or PostgreSQL writes arrays: ValidateValue decides
  } else {
    switch (field_.type.family) {
      case TypeFamily::kBool:
        value = ParseBool(text, errors);
        break;
      case TypeFamily::kInt16:
      case TypeFamily::kInt32:
      case TypeFamily::kInt64:
        value = ParseNumber(text, true, errors);
        break;
      case TypeFamily::kDecimal:
      case TypeFamily::kFloat32:
      case TypeFamily::kFloat64:
        value = ParseNumber(text, false, errors);
        break;
      case TypeFamily::kDate:
        value = ParseDate(text, errors);
        break;
      case TypeFamily::kTimestamp:
        value = ParseTimestamp(text, false, errors);
        break;
      case TypeFamily::kTimestampTz:
        value = ParseTimestamp(text, true, errors);
        break;
      case TypeFamily::kEnum:
        value = ParseEnum(text, errors);
        break;
      case TypeFamily::kUuid:
        value = absl::AsciiStrToLower(ToAbsl(text));
        break;
      case TypeFamily::kText:
        value = field_.one_of.empty() ? tabular::NormalizeNfc(text) : ParseEnum(text, errors);
        break;
      default:
        value = std::string(text);
        break;
    }
  }
  if (!value) return std::nullopt;
  // An identifier that a spreadsheet turned into 1.23E+15 has lost its digits.
  if (field_.identifier && field_.type.family == TypeFamily::kText) {
    const size_t e = text.find_first_of("eE");
    if (e != std::string_view::npos && e > 0 && e + 2 < text.size() && (text[e + 1] == '+' || text[e + 1] == '-') &&
        Digit(text[0]) && Digit(text.back()) && text.find_first_not_of("0123456789.,eE+-") == std::string_view::npos) {
      errors.push_back({"cell.scientific_id",
                        StrCat(Shown(text), " was shortened by a spreadsheet program; its digits are lost"), ""});
      return std::nullopt;
    }
  }
  std::vector<FieldError> violations;
  std::optional<std::string> valid = records::ValidateValue(field_, *value, violations);
  for (const FieldError& violation : violations)
    errors.push_back({CellCode(violation.code, field_), StrCat(Shown(text), ": ", violation.detail), ""});
  if (!violations.empty()) return std::nullopt;
  return valid;
}

}  // namespace mainstay::transfer
