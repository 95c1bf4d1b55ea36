// SPDX-License-Identifier: Apache-2.0
#include "libs/postgres/copy.h"

#include <atomic>
#include <pqxx/pqxx>

#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/postgres/errors.h"

namespace mainstay::postgres {

// pqxx::stream_to sends whatever the overload of separated_list() for the row's type makes of it. This type's is found
// by its namespace and gives the text as it is, so that several lines, already escaped, go out as one message.
struct RawLines {
  const std::string& text;
};
static std::string separated_list(const std::string&, const RawLines& lines, pqxx::internal::TypedCopyEscaper) {
  return lines.text;
}

namespace {

constexpr size_t kPiece = 64 << 10;

void AppendEscaped(std::string_view text, std::string& out) {
  size_t start = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    char letter = 0;
    switch (text[i]) {
      case '\\':
        letter = '\\';
        break;
      case '\n':
        letter = 'n';
        break;
      case '\r':
        letter = 'r';
        break;
      case '\t':
        letter = 't';
        break;
      default:
        continue;
    }
    out.append(text, start, i - start);
    out += '\\';
    out += letter;
    start = i + 1;
  }
  out.append(text, start, text.size() - start);
}

}  // namespace

std::string QuoteIdentifier(std::string_view name) {
  std::string out = "\"";
  for (const char c : name) {
    if (c == '"') out += '"';
    out += c;
  }
  return out + "\"";
}

std::string QuoteQualified(std::string_view name) {
  const size_t dot = name.find('.');
  if (dot == std::string_view::npos) return QuoteIdentifier(name);
  return StrCat(QuoteIdentifier(name.substr(0, dot)), ".", QuoteIdentifier(name.substr(dot + 1)));
}

struct CopyIn::Impl {
  std::unique_ptr<pqxx::stream_to> stream;
  absl::Status failed;
};

CopyIn::CopyIn(pqxx::transaction_base& tx, std::string_view table, absl::Span<const std::string> columns)
    : impl_(std::make_unique<Impl>()), columns_(columns.size()) {
  std::vector<std::string> quoted;
  for (const auto& column : columns) quoted.push_back(QuoteIdentifier(column));
  try {
    impl_->stream = std::make_unique<pqxx::stream_to>(tx, QuoteQualified(table), quoted);
  } catch (...) {
    impl_->failed = StatusFromCurrentException();
  }
}

CopyIn::~CopyIn() {
  try {
    impl_->stream.reset();  // ends the COPY on the wire, else the connection could not even roll back
  } catch (...) {
  }
}

absl::Status CopyIn::Row(absl::Span<const std::optional<std::string_view>> cells) {
  RETURN_IF_ERROR(impl_->failed);
  if (cells.size() != columns_)
    return absl::InvalidArgumentError(StrCat("a row of ", cells.size(), " cells for ", columns_, " columns"));
  const size_t before = buffer_.size();
  for (size_t i = 0; i < cells.size(); ++i) {
    if (i > 0) buffer_ += '\t';
    if (!cells[i].has_value()) {
      buffer_ += "\\N";
    } else if (absl::Status status = CheckText(*cells[i]); !status.ok()) {
      buffer_.resize(before);
      return status;
    } else {
      AppendEscaped(*cells[i], buffer_);
    }
  }
  buffer_ += '\n';
  ++rows_;
  return buffer_.size() >= kPiece ? Send() : absl::OkStatus();
}

absl::Status CopyIn::Send() {
  if (buffer_.empty()) return absl::OkStatus();
  buffer_.pop_back();  // stream_to ends the line itself
  try {
    *impl_->stream << RawLines{buffer_};
  } catch (...) {
    impl_->failed = StatusFromCurrentException();
  }
  buffer_.clear();
  return impl_->failed;
}

absl::Status CopyIn::Finish() {
  RETURN_IF_ERROR(impl_->failed);
  RETURN_IF_ERROR(Send());
  try {
    impl_->stream->complete();
  } catch (...) {
    impl_->failed = StatusFromCurrentException();
  }
  return impl_->failed;
}

absl::Status StreamRows(pqxx::transaction_base& tx, std::string_view sql,
                        absl::Span<const std::optional<std::string>> parameters,
                        absl::FunctionRef<absl::Status(const pqxx::result&)> rows, int batch) {
  static std::atomic<uint64_t> counter{0};
  const std::string cursor = StrCat("mainstay_stream_", ++counter);
  std::vector<const char*> values;
  for (const auto& parameter : parameters) {
    if (parameter.has_value()) RETURN_IF_ERROR(CheckText(*parameter));
    values.push_back(parameter.has_value() ? parameter->c_str() : nullptr);
  }
  try {
    tx.exec_params(StrCat("DECLARE ", cursor, " NO SCROLL CURSOR FOR ", sql),
                   pqxx::prepare::make_dynamic_params(values));
    const std::string fetch = StrCat("FETCH FORWARD ", batch, " FROM ", cursor);
    for (;;) {
      const pqxx::result result = tx.exec(fetch);
      if (!result.empty()) RETURN_IF_ERROR(rows(result));
      if (result.size() < static_cast<size_t>(batch)) break;
    }
    tx.exec(StrCat("CLOSE ", cursor));
  } catch (...) {
    return StatusFromCurrentException();
  }
  return absl::OkStatus();
}

}  // namespace mainstay::postgres
