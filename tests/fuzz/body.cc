// SPDX-License-Identifier: Apache-2.0
// Bodies of writes against the binding of JSON to rows: whatever is let through is a value of its column.
#include "libs/base/problem.h"
#include "libs/base/strings.h"
#include "libs/records/value.h"
#include "libs/records/write.h"
#include "tests/fuzz/fuzz.h"

namespace mainstay::records {
namespace {

void CheckRows(const catalog::Resource& resource, const CheckedWrite& checked) {
  const MergeRows& rows = checked.rows;
  for (size_t i = 0; i < rows.rows.size(); ++i) {
    FUZZ_REQUIRE(rows.rows[i].size() == rows.fields.size());
    for (size_t c = 0; c < rows.fields.size(); ++c) {
      const catalog::Field* field = resource.FindField(rows.fields[c]);
      FUZZ_REQUIRE(field != nullptr);
      FUZZ_REQUIRE(!field->hidden);
      if (!rows.rows[i][c].has_value()) continue;
      std::vector<FieldError> errors;
      const auto bound = ValidateValue(*field, *rows.rows[i][c], errors);
      FUZZ_REQUIRE(errors.empty());
      FUZZ_REQUIRE(bound.has_value());
      FUZZ_REQUIRE(bound->find('\0') == std::string::npos);
    }
  }
}

// True: something of it would have been written.
bool Try(const catalog::Model& model, const std::string& body) {
  auto document = JsonDocument::Parse(body);
  if (!document.ok()) return false;
  const AccessSource access_of = [&](const catalog::Resource& resource) {
    return MakeAccess(model, resource, {"admin"});
  };
  const catalog::Resource& resource = *model.FindResource("rows");
  bool passed = false;
  for (const WriteRequest::Kind kind : {WriteRequest::Kind::kCreate, WriteRequest::Kind::kPatch,
                                        WriteRequest::Kind::kUpsert, WriteRequest::Kind::kDelete}) {
    for (const bool refs : {false, true}) {
      WriteRequest request{.kind = kind, .resource = &resource, .access = access_of(resource)};
      request.keys_inside = kind == WriteRequest::Kind::kPatch || kind == WriteRequest::Kind::kDelete;
      request.refs = refs;
      if (document->root().is_array()) {
        for (const JsonValue& item : document->root().items())
          request.items.push_back({.body = &item, .pointer = StrCat("/items/", request.items.size())});
      } else {
        request.items.push_back({.body = &document->root()});
      }
      CheckedWrite checked;
      const absl::Status status = CheckWrite(request, model, access_of, false, checked);
      if (!status.ok()) {
        FUZZ_REQUIRE(FindProblemType(ProblemFromStatus(status).type).http_status < 500);
        continue;
      }
      if (!refs) {
        CheckRows(resource, checked);
        for (const auto& children : checked.children) CheckRows(*children.request.resource, *children.checked);
      }
      passed = true;
    }
  }
  return passed;
}

}  // namespace
}  // namespace mainstay::records

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const mainstay::catalog::Model model = mainstay::fuzz::EveryType();
  if (mainstay::records::Try(model, std::string(reinterpret_cast<const char*>(data), size))) ++mainstay::fuzz::accepted;
  return 0;
}
