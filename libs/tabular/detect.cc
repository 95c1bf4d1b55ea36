// SPDX-License-Identifier: Apache-2.0
#include "libs/tabular/detect.h"

#include <algorithm>
#include <map>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/strip.h"
#include "libs/base/json.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"

namespace mainstay::tabular {
namespace {

constexpr int kSampleRecords = 500;

// Kinds of cells, as far as they tell data from names.
enum class Kind { kBlank, kText, kNumber, kDate, kBool };

bool Digit(char c) {
  return c >= '0' && c <= '9';
}

Kind KindOf(std::string_view text) {
  const absl::string_view trimmed = absl::StripAsciiWhitespace(ToAbsl(text));
  if (trimmed.empty()) return Kind::kBlank;
  size_t digits = 0, marks = 0, others = 0, separators = 0;
  for (size_t i = 0; i < trimmed.size(); ++i) {
    const char c = trimmed[i];
    if (Digit(c)) {
      ++digits;
    } else if (c == '.' || c == ',' || c == '\'' || c == ' ') {
      ++marks;
    } else if (c == '-' || c == '/' || c == ':' || c == 'T' || c == 'Z') {
      if (i > 0 || c != '-') ++separators;
    } else if (c == '+' || c == '%' || ((c == 'e' || c == 'E') && digits > 0)) {
    } else {
      ++others;
    }
  }
  if (digits > 0 && others == 0 && separators == 0 && marks <= digits) return Kind::kNumber;
  if (digits >= 4 && others == 0 && separators >= 1 && separators <= 7 && Digit(trimmed[0])) return Kind::kDate;
  if (absl::EqualsIgnoreCase(trimmed, "true") || absl::EqualsIgnoreCase(trimmed, "false")) return Kind::kBool;
  return Kind::kText;
}

std::vector<Record> ReadSample(std::string_view text, bool complete, const Dialect& dialect, const Limits& limits,
                               int64_t* blank) {
  CsvReader reader(std::make_unique<MemorySource>(text), dialect, limits);
  std::vector<Record> records;
  Record record;
  while (static_cast<int>(records.size()) < kSampleRecords) {
    const auto more = reader.Next(&record);
    if (!more.ok()) break;  // too many columns and the like: this dialect fits that far only
    if (!*more) {
      // The sample's last record may be cut.
      if (!complete && records.size() > 1) records.pop_back();
      break;
    }
    records.push_back(record);
  }
  if (blank != nullptr) *blank = reader.blank_records();
  return records;
}

int Width(const Record& record) {
  int width = static_cast<int>(record.cells.size());
  while (width > 1 && record.cells[static_cast<size_t>(width) - 1].text.empty()) --width;
  return width;
}

// The width that most records have, and how many have it.
std::pair<int, int> ModalWidth(const std::vector<Record>& records) {
  std::map<int, int> counts;
  for (const Record& record : records) ++counts[static_cast<int>(record.cells.size())];
  std::pair<int, int> best{0, 0};
  for (const auto& [width, count] : counts)
    if (count >= best.second) best = {width, count};
  return best;
}

double Score(const std::vector<Record>& records) {
  if (records.empty()) return 0;
  const auto [width, fitting] = ModalWidth(records);
  int64_t cells = 0, typed = 0, faults = 0;
  for (const Record& record : records) {
    if (!record.issues.empty()) ++faults;
    if (static_cast<int>(record.cells.size()) != width) continue;
    for (const Cell& cell : record.cells) {
      ++cells;
      if (KindOf(cell.text) != Kind::kText) ++typed;
    }
  }
  const double count = static_cast<double>(records.size());
  const double same = fitting / count;
  const double typed_share = cells == 0 ? 0 : static_cast<double>(typed) / static_cast<double>(cells);
  // One column fits everything: it only wins where nothing splits the records evenly.
  const double split = width > 1 ? 1.0 : 0.45;
  return split * (same - 0.5 * static_cast<double>(faults) / count) + (width > 1 ? 0.15 * typed_share : 0);
}

// Whether cells are really quoted in this dialect, not just apostrophes in words.
bool Quotes(const std::vector<Record>& records) {
  int64_t quoted = 0;
  for (const Record& record : records)
    for (const Cell& cell : record.cells)
      if (cell.quoted) ++quoted;
  return quoted * 4 >= static_cast<int64_t>(records.size());
}

Dialect DetectDialect(std::string_view text, bool complete, const Limits& limits) {
  Dialect best;
  double best_score = -1;
  const std::string_view head = text.substr(0, 128 << 10);
  const bool all = complete && head.size() == text.size();
  for (const char quote : {'"', '\''}) {
    if (quote == '\'' && head.find('\'') == std::string_view::npos) continue;
    for (const bool backslash : {false, true}) {
      if (backslash && head.find(quote == '"' ? "\\\"" : "\\'") == std::string_view::npos) continue;
      for (const char delimiter : {',', ';', '\t', '|', '^', '\x1f'}) {
        if (head.find(delimiter) == std::string_view::npos) continue;
        const Dialect dialect{delimiter, quote, backslash};
        const std::vector<Record> records = ReadSample(head, all, dialect, limits, nullptr);
        if (quote != '"' && !Quotes(records)) continue;
        const double score = Score(records);
        // RFC 4180 comes first and wins ties; what departs from it must be clearly better.
        if (score > best_score + (quote == '"' && !backslash ? 1e-9 : 0.02)) {
          best_score = score;
          best = dialect;
        }
      }
    }
  }
  if (best_score < 0) return Dialect{};
  return best;
}

absl::Status RefuseByMagic(std::string_view sample, bool complete) {
  const auto starts = [&](std::string_view magic) { return sample.substr(0, magic.size()) == magic; };
  if (sample.empty()) return Refuse("file.empty", "the file has no bytes");
  if (starts("PK\x03\x04"))
    return Refuse("file.unsupported_format", sample.find("[Content_Types].xml") != std::string_view::npos ||
                                                     sample.find("xl/") != std::string_view::npos
                                                 ? "this is an Excel workbook; save it as CSV"
                                                 : "this is a zip archive; send the CSV file in it");
  if (starts("\xD0\xCF\x11\xE0"))
    return Refuse("file.unsupported_format", "this is an old Excel or an encrypted file; save it as CSV");
  if (starts("\x1F\x8B"))
    return Refuse("file.unsupported_format", "the file is compressed with gzip; send it uncompressed");
  if (starts(std::string_view("\x28\xB5\x2F\xFD", 4)))
    return Refuse("file.unsupported_format", "the file is compressed with zstd; send it uncompressed");
  if (starts("%PDF")) return Refuse("file.unsupported_format", "this is a PDF document; send CSV");
  const size_t first = sample.find_first_not_of(" \t\r\n\xEF\xBB\xBF");
  if (first != std::string_view::npos && (sample[first] == '{' || sample[first] == '[')) {
    const std::string_view line = sample.substr(first, sample.find_first_of("\r\n", first) - first);
    if (JsonDocument::Parse(std::string(line)).ok()) return Refuse("file.unsupported_format", "this is JSON; send CSV");
  }
  if (complete && first == std::string_view::npos) return Refuse("file.no_rows", "the file holds nothing but blanks");
  return absl::OkStatus();
}

// Drops a first line "sep=;"; the delimiter it names, or 0.
char TakeSeparatorLine(std::string_view* text) {
  if (text->size() < 5 || !absl::EqualsIgnoreCase(ToAbsl(text->substr(0, 4)), "sep=")) return 0;
  const char delimiter = (*text)[4];
  const std::string_view rest = text->substr(5);
  if (delimiter == '\r' || delimiter == '\n' || (!rest.empty() && rest.front() != '\r' && rest.front() != '\n'))
    return 0;
  *text = rest.substr(rest.substr(0, 2) == "\r\n" ? 2 : rest.empty() ? 0 : 1);
  return delimiter;
}

int Filled(const Record& record) {
  return static_cast<int>(std::count_if(record.cells.begin(), record.cells.end(),
                                        [](const Cell& cell) { return KindOf(cell.text) != Kind::kBlank; }));
}

Detection::Header DetectHeader(const std::vector<Record>& records, size_t first, int width,
                               const DetectOptions& options) {
  const Record& candidate = records[first];
  int text = 0, known = 0, blank = 0, filled = 0;
  for (int c = 0; c < width && c < static_cast<int>(candidate.cells.size()); ++c) {
    const std::string_view cell = candidate.cells[static_cast<size_t>(c)].text;
    const Kind kind = KindOf(cell);
    if (kind == Kind::kBlank) {
      ++blank;
      continue;
    }
    ++filled;
    if (kind == Kind::kText) ++text;
    if (options.known_name && options.known_name(CleanHeader(cell))) ++known;
  }
  if (known > 0 && known * 2 >= std::min(filled, 4)) return Detection::Header::kPresent;
  if (filled == 0) return Detection::Header::kUnknown;
  // Names are text; where the cells below one are of another kind, it is a name.
  int differing = 0, contradicting = 0;
  for (int c = 0; c < width; ++c) {
    const auto cell_kind = [&](const Record& record) {
      return c < static_cast<int>(record.cells.size()) ? KindOf(record.cells[static_cast<size_t>(c)].text)
                                                       : Kind::kBlank;
    };
    int below = 0, typed = 0;
    for (size_t r = first + 1; r < records.size(); ++r) {
      const Kind kind = cell_kind(records[r]);
      if (kind == Kind::kBlank) continue;
      ++below;
      if (kind != Kind::kText) ++typed;
    }
    if (below == 0) continue;
    const Kind top = cell_kind(candidate);
    if (typed * 10 >= below * 8 && top == Kind::kText) ++differing;
    if (typed * 10 >= below * 8 && top != Kind::kText && top != Kind::kBlank) ++contradicting;
  }
  if (text == filled && differing > 0 && contradicting == 0 && blank * 2 <= width) return Detection::Header::kPresent;
  if (contradicting > 0 && differing == 0) return Detection::Header::kAbsent;
  return Detection::Header::kUnknown;
}

}  // namespace

std::string CleanHeader(std::string_view text) {
  std::string out;
  bool gap = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool nbsp = text.substr(i, 2) == "\xC2\xA0";
    if (absl::ascii_isspace(static_cast<unsigned char>(text[i])) || nbsp) {
      gap = !out.empty();
      if (nbsp) ++i;
      continue;
    }
    if (text.substr(i, 3) == "\xEF\xBB\xBF" || text.substr(i, 3) == "\xE2\x80\x8B") {
      i += 2;
      continue;
    }
    if (gap) out += ' ';
    gap = false;
    out += text[i];
  }
  return IsValidUtf8(out) ? NormalizeNfc(out) : out;
}

absl::StatusOr<Detection> Detect(std::string_view sample, bool complete, const DetectOptions& options) {
  RETURN_IF_ERROR(RefuseByMagic(sample, complete));
  Detection out;
  const EncodingGuess guess = DetectEncoding(sample, complete);
  out.encoding = guess.name;
  out.encoding_certain = guess.certain;
  if (!guess.certain) out.warnings.push_back("file.encoding_guessed");

  std::string text;
  {
    ASSIGN_OR_RETURN(auto decoded, DecodeToUtf8(std::make_unique<MemorySource>(sample), out.encoding));
    while (true) {
      ASSIGN_OR_RETURN(const std::string_view piece, decoded->Next());
      if (piece.empty()) break;
      text += piece;
    }
  }
  std::string_view rest = text;
  const char named = TakeSeparatorLine(&rest);
  out.separator_line = named != 0;
  out.dialect = DetectDialect(rest, complete, options.limits);
  if (named != 0) out.dialect.delimiter = named;

  const std::vector<Record> records = ReadSample(rest, complete, out.dialect, options.limits, nullptr);
  if (records.empty()) {
    // Not even one record of the sample can be read within the limits: let the reader say why.
    CsvReader reader(std::make_unique<MemorySource>(rest), out.dialect, options.limits);
    Record record;
    RETURN_IF_ERROR(reader.Next(&record).status());
    return Refuse("file.no_rows", "the file holds no record");
  }
  // Preamble: remarks, and titles in front of a wider table.
  size_t first = 0;
  // The width that more than half of the records from there on have; 0: none.
  const auto later_width = [&](size_t from) {
    const std::vector<Record> below(records.begin() + static_cast<std::ptrdiff_t>(from), records.end());
    const auto [common, count] = ModalWidth(below);
    return count * 2 > static_cast<int>(below.size()) ? common : 0;
  };
  while (first + 1 < records.size() && static_cast<int>(first) < options.max_preamble) {
    const Record& record = records[first];
    const bool remark = !record.cells[0].quoted && absl::StartsWith(record.cells[0].text, "#");
    if (!remark && !(Filled(record) <= 1 && later_width(first + 1) > 1 && Width(record) < later_width(first + 1)))
      break;
    ++first;
  }
  out.preamble = static_cast<int>(first);

  // Columns at the right edge that hold nothing at all are not there.
  int width = static_cast<int>(records[first].cells.size());
  const auto empty_column = [&](int c) {
    for (size_t r = first; r < records.size(); ++r) {
      const auto& cells = records[r].cells;
      if (c < static_cast<int>(cells.size()) && KindOf(cells[static_cast<size_t>(c)].text) != Kind::kBlank)
        return false;
    }
    return true;
  };
  while (width > 1 && empty_column(width - 1)) --width;
  out.header = DetectHeader(records, first, width, options);
  if (out.header == Detection::Header::kAbsent) {
    out.width = out.widest = std::max(width, ModalWidth(records).first);
    return out;
  }
  out.width = width;
  out.widest = std::max(static_cast<int>(records[first].cells.size()), later_width(first));
  out.header_line = records[first].line + (out.separator_line ? 1 : 0);
  std::map<std::string, int> seen;
  for (int c = 0; c < width; ++c) {
    const std::string& raw = records[first].cells[static_cast<size_t>(c)].text;
    std::string name = CleanHeader(raw);
    if (name.empty()) name = StrCat("column_", c + 1);
    if (++seen[name] == 2) out.warnings.push_back("header.duplicate");
    out.columns.push_back(std::move(name));
    out.raw_columns.push_back(raw);
  }
  return out;
}

namespace {

// Counts lines from the file's own first one, though "sep=" was taken off.
class DataRecords : public RecordSource {
 public:
  DataRecords(std::unique_ptr<CsvReader> reader, int64_t first_line)
      : reader_(std::move(reader)), first_line_(first_line) {}
  absl::StatusOr<bool> Next(Record* record) override {
    auto more = reader_->Next(record);
    if (more.ok() && *more) record->line += first_line_;
    return more;
  }

 private:
  std::unique_ptr<CsvReader> reader_;
  const int64_t first_line_;
};

// A source with its first line cut off.
class WithoutFirstLine : public ByteSource {
 public:
  explicit WithoutFirstLine(std::unique_ptr<ByteSource> source) : source_(std::move(source)) {}
  absl::StatusOr<std::string_view> Next() override {
    while (!done_) {
      ASSIGN_OR_RETURN(const std::string_view piece, source_->Next());
      if (piece.empty()) return piece;
      head_ += piece;
      const size_t stop = head_.find_first_of("\r\n");
      if (stop == std::string::npos || (head_[stop] == '\r' && stop + 1 == head_.size())) {
        if (head_.size() > 64) return Refuse("file.corrupt", "the first line is no sep= line");
        continue;
      }
      done_ = true;
      const std::string_view rest = std::string_view(head_).substr(stop + (head_.substr(stop, 2) == "\r\n" ? 2 : 1));
      if (!rest.empty()) return rest;
    }
    return source_->Next();
  }

 private:
  std::unique_ptr<ByteSource> source_;
  std::string head_;
  bool done_ = false;
};

}  // namespace

absl::StatusOr<std::unique_ptr<RecordSource>> OpenRecords(std::unique_ptr<ByteSource> file, const Detection& detection,
                                                          const Limits& limits) {
  ASSIGN_OR_RETURN(auto decoded, DecodeToUtf8(std::move(file), detection.encoding));
  if (detection.separator_line) decoded = std::make_unique<WithoutFirstLine>(std::move(decoded));
  auto reader = std::make_unique<CsvReader>(std::move(decoded), detection.dialect, limits);
  Record skipped;
  const int skip = detection.preamble + (detection.header == Detection::Header::kPresent ? 1 : 0);
  for (int i = 0; i < skip; ++i) {
    ASSIGN_OR_RETURN(const bool more, reader->Next(&skipped));
    if (!more) break;
  }
  reader->ExpectWidth(detection.width, detection.widest);
  return std::unique_ptr<RecordSource>(new DataRecords(std::move(reader), detection.separator_line ? 1 : 0));
}

}  // namespace mainstay::tabular
