// SPDX-License-Identifier: Apache-2.0
#include "libs/records/list.h"

#include <google/protobuf/message.h>
#include <google/protobuf/timestamp.pb.h>
#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <charconv>

#include "libs/base/clock.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/records/read.h"
#include "libs/records/value.h"

namespace mainstay::records {

using catalog::ColumnType;
using catalog::Resource;
using catalog::TypeFamily;

namespace {

RowsPage EmptyPage(const ListQuery& query) {
  RowsPage page;
  for (int position : query.output) {
    const catalog::Field& field = query.resource->fields[static_cast<size_t>(position)];
    page.fields.push_back(field.name);
    page.types.push_back(field.type);
  }
  return page;
}

void AddRow(const ListQuery& query, const Columns& columns, const Rows& rows, int row, RowsPage& page) {
  std::vector<std::optional<std::string>>& cells = page.rows.emplace_back();
  for (int position : query.output) {
    const int column = columns.at[static_cast<size_t>(position)];
    cells.push_back(rows.IsNull(row, column) ? std::nullopt : std::optional<std::string>(rows.Get(row, column)));
  }
}

}  // namespace

absl::StatusOr<RowsPage> ListRows(pqxx::transaction_base& tx, const Resource& resource, const catalog::Model& model,
                                  const CallContext& context, const common::v1::ListQuery& query,
                                  std::string_view cursor_key) {
  if (cursor_key.size() != 32) return absl::InternalError("the cursor key has 32 bytes");
  Resolver resolver(model, context, ResolveOptions{.expansions = false});
  ASSIGN_OR_RETURN(std::unique_ptr<ListQuery> resolved, resolver.Resolve(resource, query));
  const std::unique_ptr<Runner> runner = OnTransaction(tx);
  const ReadOptions options{.cursor_key = cursor_key, .now = absl::Now()};
  ReadPlan plan(ReadPlan::Of::kPage, std::move(resolved), context, /*versions=*/false, nullptr);
  ASSIGN_OR_RETURN(PageOfRows fetched,
                   RunBlocking(FetchPage(*runner, model, context, plan, plan.query().given, options)));
  RowsPage page = EmptyPage(plan.query());
  page.page = std::move(fetched.page);
  for (int row : fetched.shown) AddRow(plan.query(), plan.level().columns, *fetched.level->rows, row, page);
  return page;
}

absl::StatusOr<RowsPage> GetRow(pqxx::transaction_base& tx, const Resource& resource, const catalog::Model& model,
                                const CallContext& context, const std::vector<std::string>& key) {
  Resolver resolver(model, context, ResolveOptions{.expansions = false});
  ASSIGN_OR_RETURN(const std::unique_ptr<ListQuery> resolved, resolver.Resolve(resource, {}));
  const Columns columns = ColumnsOf(*resolved, false);
  SqlBuilder sql(context);
  BuildGet(sql, *resolved, columns);
  sql.Fill({.context = context, .keys = key});
  const std::unique_ptr<Runner> runner = OnTransaction(tx);
  ASSIGN_OR_RETURN(const RowsPtr found, RunBlocking(runner->Run(std::move(sql.text), std::move(sql.params))));
  RowsPage page = EmptyPage(*resolved);
  if (found->rows() > 0) AddRow(*resolved, columns, *found, 0, page);
  return page;
}

absl::StatusOr<ExportPlan> PlanExport(const Resource& resource, const catalog::Model& model, const CallContext& context,
                                      const common::v1::ListQuery& query) {
  Resolver resolver(model, context, ResolveOptions{.expansions = false, .unlimited = true});
  if (!query.cursor().empty()) return MakeProblem("invalid-parameter", "an export has no cursor");
  ASSIGN_OR_RETURN(const std::unique_ptr<ListQuery> resolved, resolver.Resolve(resource, query));
  Columns columns(resource);
  for (int position : resolved->output) columns.Add(position);
  SqlBuilder sql(context);
  BuildPage(sql, *resolved, columns, nullptr, false);
  if (resolved->limit > 0) StrAppend(&sql.text, " LIMIT ", resolved->limit);
  ExportPlan plan{.sql = std::move(sql.text), .params = std::move(sql.params)};
  for (int position : resolved->output) {
    plan.fields.push_back(resource.fields[static_cast<size_t>(position)].name);
    plan.types.push_back(resource.fields[static_cast<size_t>(position)].type);
  }
  return plan;
}

namespace {

using google::protobuf::EnumValueDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

std::string Lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  return out;
}

// "JOB_STATE_READY" of enum JobState is "ready": the same rule as the API's JSON.
const EnumValueDescriptor* FindEnum(const google::protobuf::EnumDescriptor& type, std::string_view text) {
  std::string prefix;
  for (char c : type.name()) {
    if (c >= 'A' && c <= 'Z' && !prefix.empty()) prefix += '_';
    prefix += c;
  }
  const std::string wanted = Lower(StrCat(prefix, "_", text));
  for (int i = 0; i < type.value_count(); ++i)
    if (Lower(type.value(i)->name()) == wanted) return type.value(i);
  return nullptr;
}

template <typename T>
absl::StatusOr<T> Number(std::string_view text, const std::string& name) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size())
    return absl::InternalError(StrCat("column ", name, " does not fit the message"));
  return value;
}

// One value, set or appended.
absl::Status Set(Message& message, const FieldDescriptor* field, const ColumnType& type, std::string_view text,
                 bool repeated) {
  const Reflection* reflection = message.GetReflection();
  const std::string& name = field->name();
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_STRING: {
      std::string value;
      if (type.family == TypeFamily::kBytes && field->type() == FieldDescriptor::TYPE_BYTES &&
          text.starts_with("\\x")) {
        value = HexDecode(text.substr(2)).value_or("");
      } else {
        value = PlainText(type, text);
      }
      repeated ? reflection->AddString(&message, field, value) : reflection->SetString(&message, field, value);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_ENUM: {
      const EnumValueDescriptor* value = FindEnum(*field->enum_type(), text);
      if (value == nullptr)
        return absl::InternalError(StrCat("column ", name, " has a value that the message does not know"));
      repeated ? reflection->AddEnum(&message, field, value) : reflection->SetEnum(&message, field, value);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_BOOL: {
      const bool value = text == "t" || text == "true";
      repeated ? reflection->AddBool(&message, field, value) : reflection->SetBool(&message, field, value);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_INT32: {
      ASSIGN_OR_RETURN(const int32_t value, Number<int32_t>(text, name));
      repeated ? reflection->AddInt32(&message, field, value) : reflection->SetInt32(&message, field, value);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_INT64: {
      ASSIGN_OR_RETURN(const int64_t value, Number<int64_t>(text, name));
      repeated ? reflection->AddInt64(&message, field, value) : reflection->SetInt64(&message, field, value);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_UINT32: {
      ASSIGN_OR_RETURN(const uint32_t value, Number<uint32_t>(text, name));
      repeated ? reflection->AddUInt32(&message, field, value) : reflection->SetUInt32(&message, field, value);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_UINT64: {
      ASSIGN_OR_RETURN(const uint64_t value, Number<uint64_t>(text, name));
      repeated ? reflection->AddUInt64(&message, field, value) : reflection->SetUInt64(&message, field, value);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_DOUBLE: {
      ASSIGN_OR_RETURN(const double value, Number<double>(text, name));
      repeated ? reflection->AddDouble(&message, field, value) : reflection->SetDouble(&message, field, value);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_FLOAT: {
      ASSIGN_OR_RETURN(const float value, Number<float>(text, name));
      repeated ? reflection->AddFloat(&message, field, value) : reflection->SetFloat(&message, field, value);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_MESSAGE: {
      Message* inner = repeated ? reflection->AddMessage(&message, field) : reflection->MutableMessage(&message, field);
      auto* timestamp = dynamic_cast<google::protobuf::Timestamp*>(inner);
      if (timestamp == nullptr) {
        if (!google::protobuf::util::JsonStringToMessage(std::string(text), inner).ok())
          return absl::InternalError(StrCat("column ", name, " does not fit the message"));
        return absl::OkStatus();
      }
      const auto time = ParseTimestamp(PlainText(type, text));
      if (!time.ok()) return absl::InternalError(StrCat("column ", name, " is no time"));
      const int64_t micros = absl::ToUnixMicros(*time);
      const int64_t seconds = micros >= 0 ? micros / 1'000'000 : (micros - 999'999) / 1'000'000;
      timestamp->set_seconds(seconds);
      timestamp->set_nanos(static_cast<int32_t>((micros - seconds * 1'000'000) * 1000));
      return absl::OkStatus();
    }
  }
  return absl::InternalError(StrCat("column ", name, " does not fit the message"));
}

}  // namespace

absl::Status FillMessage(const RowsPage& page, size_t row, Message* message) {
  const google::protobuf::Descriptor* descriptor = message->GetDescriptor();
  for (size_t i = 0; i < page.fields.size(); ++i) {
    const FieldDescriptor* field = descriptor->FindFieldByName(page.fields[i]);
    const auto& cell = page.rows[row][i];
    if (field == nullptr || !cell.has_value()) continue;
    const ColumnType& type = page.types[i];
    if (!field->is_repeated()) {
      RETURN_IF_ERROR(Set(*message, field, type, *cell, false));
      continue;
    }
    if (field->is_map()) {
      // As protobuf reads JSON, which it can only for a whole message.
      const std::unique_ptr<Message> read(message->New());
      if (!google::protobuf::util::JsonStringToMessage(StrCat("{\"", field->name(), "\":", *cell, "}"), read.get())
               .ok())
        return absl::InternalError(StrCat("column ", page.fields[i], " is no map"));
      message->MergeFrom(*read);
      continue;
    }
    const auto items = type.array ? ParsePgArray(*cell) : std::nullopt;
    if (!items.has_value()) return absl::InternalError(StrCat("column ", page.fields[i], " is no list"));
    const ColumnType element = ElementType(type);
    for (const auto& item : *items)
      if (item.has_value()) RETURN_IF_ERROR(Set(*message, field, element, *item, true));
  }
  return absl::OkStatus();
}

}  // namespace mainstay::records
