// SPDX-License-Identifier: Apache-2.0
#include "libs/transfer/decode.h"

#include "absl/strings/numbers.h"
#include "libs/base/json.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"

namespace mainstay::transfer {
namespace {

constexpr int kLearnRecords = 1000;

// What was read ahead for the sample, then the rest of the blob.
class Replayed : public tabular::ByteSource {
 public:
  Replayed(std::string head, std::unique_ptr<BlobReader> blob) : head_(std::move(head)), blob_(std::move(blob)) {}
  absl::StatusOr<std::string_view> Next() override {
    if (!replayed_) {
      replayed_ = true;
      if (!head_.empty()) return std::string_view(head_);
    }
    head_.clear();
    return blob_->Next();
  }

 private:
  std::string head_;
  std::unique_ptr<BlobReader> blob_;
  bool replayed_ = false;
};

std::string_view Word(tabular::Detection::Header header) {
  switch (header) {
    case tabular::Detection::Header::kPresent:
      return "present";
    case tabular::Detection::Header::kAbsent:
      return "absent";
    case tabular::Detection::Header::kUnknown:
      break;
  }
  return "unknown";
}

}  // namespace

std::string DetectionJson(const tabular::Detection& detection, const std::vector<std::string>& warnings) {
  std::string out;
  JsonWriter json(out);
  json.BeginObject().Key("encoding").String(detection.encoding);
  json.Key("delimiter").String(std::string(1, detection.dialect.delimiter));
  json.Key("quote").String(detection.dialect.quote == 0 ? std::string() : std::string(1, detection.dialect.quote));
  json.Key("backslash_escape")
      .Bool(detection.dialect.backslash_escape)
      .Key("separator_line")
      .Bool(detection.separator_line);
  json.Key("preamble")
      .Int(detection.preamble)
      .Key("header")
      .String(Word(detection.header))
      .Key("header_line")
      .Int(detection.header_line);
  json.Key("width").Int(detection.width).Key("widest").Int(detection.widest);
  json.Key("columns").BeginArray();
  for (const std::string& column : detection.columns) json.String(column);
  json.EndArray().Key("raw_columns").BeginArray();
  for (const std::string& column : detection.raw_columns) json.String(column);
  json.EndArray().Key("warnings").BeginArray();
  for (const std::string& warning : detection.warnings) json.String(warning);
  for (const std::string& warning : warnings) json.String(warning);
  json.EndArray().EndObject();
  return out;
}

absl::StatusOr<tabular::Detection> ParseDetection(std::string_view text) {
  ASSIGN_OR_RETURN(const JsonDocument document, JsonDocument::Parse(std::string(text)));
  const JsonValue& root = document.root();
  tabular::Detection out;
  const auto string = [&](std::string_view key) {
    const JsonValue* value = root.Find(key);
    return value != nullptr && value->is_string() ? std::string(value->text()) : std::string();
  };
  const auto number = [&](std::string_view key) {
    const JsonValue* value = root.Find(key);
    int64_t n = 0;
    return value != nullptr && value->is_number() && absl::SimpleAtoi(ToAbsl(value->text()), &n) ? n : 0;
  };
  const auto boolean = [&](std::string_view key) {
    const JsonValue* value = root.Find(key);
    return value != nullptr && value->is_bool() && value->boolean();
  };
  const auto list = [&](std::string_view key, std::vector<std::string>* items) {
    if (const JsonValue* value = root.Find(key); value != nullptr && value->is_array())
      for (const JsonValue& item : value->items()) items->emplace_back(item.text());
  };
  out.encoding = string("encoding");
  const std::string delimiter = string("delimiter"), quote = string("quote"), header = string("header");
  if (out.encoding.empty() || delimiter.size() != 1) return absl::InternalError("the stored detection is not one");
  out.dialect = {delimiter[0], quote.empty() ? '\0' : quote[0], boolean("backslash_escape")};
  out.separator_line = boolean("separator_line");
  out.preamble = static_cast<int>(number("preamble"));
  out.header = header == "present"  ? tabular::Detection::Header::kPresent
               : header == "absent" ? tabular::Detection::Header::kAbsent
                                    : tabular::Detection::Header::kUnknown;
  out.header_line = number("header_line");
  out.width = static_cast<int>(number("width"));
  out.widest = static_cast<int>(number("widest"));
  list("columns", &out.columns);
  list("raw_columns", &out.raw_columns);
  list("warnings", &out.warnings);
  return out;
}

absl::StatusOr<Decoded> OpenFile(std::unique_ptr<BlobReader> blob, std::string_view known,
                                 std::function<bool(std::string_view)> known_name) {
  Decoded out;
  std::string head;
  bool complete = false;
  while (head.size() < tabular::kSampleBytes) {
    ASSIGN_OR_RETURN(const std::string_view piece, blob->Next());
    if (piece.empty()) {
      complete = true;
      break;
    }
    head += piece;
  }
  const std::string_view sample = std::string_view(head).substr(0, tabular::kSampleBytes);
  if (known.empty()) {
    ASSIGN_OR_RETURN(out.detection, tabular::Detect(sample, complete && sample.size() == head.size(),
                                                    {.known_name = std::move(known_name)}));
  } else {
    ASSIGN_OR_RETURN(out.detection, ParseDetection(known));
  }
  {
    ASSIGN_OR_RETURN(auto first,
                     tabular::OpenRecords(std::make_unique<tabular::MemorySource>(sample), out.detection, {}));
    tabular::Record record;
    while (static_cast<int>(out.sample.size()) < kLearnRecords) {
      const auto more = first->Next(&record);
      if (!more.ok() || !*more)
        break;  // what is wrong further down is found again, with its place, by the real reading
      out.sample.push_back(record);
    }
  }
  ASSIGN_OR_RETURN(out.records, tabular::OpenRecords(std::make_unique<Replayed>(std::move(head), std::move(blob)),
                                                     out.detection, {}));
  return out;
}

}  // namespace mainstay::transfer
