// SPDX-License-Identifier: Apache-2.0
#include "libs/transfer/mapping.h"

#include <algorithm>
#include <map>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/tabular/detect.h"
#include "libs/tabular/record.h"

namespace mainstay::transfer {
namespace {

using records::MergeMode;
using tabular::Refuse;

bool IsAdmin(const Principal& principal) {
  return principal.HasRole("admin");
}

bool Writable(const catalog::Resource& resource, const Principal& principal, const catalog::Field& field) {
  if (IsAdmin(principal)) return true;
  for (const std::string& role : principal.roles) {
    const auto found = resource.permissions.find(role);
    if (found == resource.permissions.end()) continue;
    const catalog::Permission& permission = found->second;
    if (!permission.create && !permission.update) continue;
    if (permission.all_fields_writable ||
        std::count(permission.writable.begin(), permission.writable.end(), field.name) > 0)
      return true;
  }
  return false;
}

// Fields that the suite or PostgreSQL fills: a file may carry them (an export does), they are not written.
bool SetByUs(const catalog::Resource& resource, const catalog::Field& field) {
  return field.generated || field.read_only || field.position == resource.tenant ||
         field.position == resource.version || field.position == resource.created_at ||
         field.position == resource.updated_at || field.position == resource.deleted_at;
}

bool IsKey(const catalog::Resource& resource, int position) {
  return std::count(resource.key.begin(), resource.key.end(), position) > 0;
}

// The field that a header names, in the order: declared columns, exact name, folded name, aliases. -1: none. Hidden
// fields do not exist.
int FindTarget(const catalog::Resource& resource, const catalog::ImportMapping* declared, std::string_view header) {
  const auto position = [&](std::string_view name) {
    const catalog::Field* field = resource.FindField(name);
    return field == nullptr || field->hidden ? -1 : field->position;
  };
  const std::string folded = FoldName(header);
  if (declared != nullptr) {
    for (const auto& [column, field] : declared->columns)
      if (tabular::CleanHeader(column) == header) return position(field);
    for (const auto& [column, field] : declared->columns)
      if (FoldName(column) == folded) return position(field);
  }
  if (const int exact = position(header); exact >= 0) return exact;
  for (const catalog::Field& field : resource.fields)
    if (!field.hidden && FoldName(field.name) == folded) return field.position;
  for (const catalog::Field& field : resource.fields) {
    if (field.hidden) continue;
    for (const std::string& alias : field.aliases)
      if (FoldName(alias) == folded) return field.position;
  }
  return -1;
}

}  // namespace

std::string FoldName(std::string_view name) {
  std::string out;
  for (const char c : name)
    if (c != ' ' && c != '_' && c != '-') out += absl::ascii_tolower(static_cast<unsigned char>(c));
  return out;
}

bool NamesField(const catalog::Resource& resource, const catalog::ImportMapping* declared, std::string_view header) {
  return FindTarget(resource, declared, header) >= 0 || header == "_row" || header == "_status";
}

absl::StatusOr<MergeMode> ParseMode(std::string_view mode) {
  if (mode == "create") return MergeMode::kCreate;
  if (mode == "update") return MergeMode::kUpdate;
  if (mode == "upsert") return MergeMode::kUpsert;
  if (mode == "delete") return MergeMode::kDelete;
  if (mode == "ignore") return MergeMode::kIgnore;
  return MakeProblem(
      "invalid-parameter", "mode is create, update, upsert, delete or ignore",
      {{FieldError::Place::kParameter, "mode", "not_in_list", "mode is create, update, upsert, delete or ignore"}});
}

absl::Status CheckAllowed(const catalog::Resource& resource, const Principal& principal, MergeMode mode) {
  if (resource.read_only) return MakeProblem("forbidden", StrCat(resource.name, " is read-only"));
  if (IsAdmin(principal)) return absl::OkStatus();
  bool create = false, update = false, remove = false;
  for (const std::string& role : principal.roles) {
    const auto found = resource.permissions.find(role);
    if (found == resource.permissions.end()) continue;
    create |= found->second.create;
    update |= found->second.update;
    remove |= found->second.remove;
  }
  const bool needs_create = mode == MergeMode::kCreate || mode == MergeMode::kUpsert || mode == MergeMode::kIgnore;
  const bool needs_update = mode == MergeMode::kUpdate || mode == MergeMode::kUpsert;
  if ((needs_create && !create) || (needs_update && !update) || (mode == MergeMode::kDelete && !remove))
    return MakeProblem("forbidden", StrCat("this key may not import into ", resource.name, " in this mode"));
  return absl::OkStatus();
}

bool Readable(const catalog::Resource& resource, const Principal& principal, const catalog::Field& field) {
  if (field.hidden) return false;
  if (IsAdmin(principal)) return true;
  for (const std::string& role : principal.roles) {
    const auto found = resource.permissions.find(role);
    if (found == resource.permissions.end() || !found->second.read) continue;
    const catalog::Permission& permission = found->second;
    if (permission.all_fields_readable ||
        std::count(permission.readable.begin(), permission.readable.end(), field.name) > 0)
      return true;
  }
  return false;
}

absl::StatusOr<Mapping> MapColumns(const catalog::Resource& resource, const catalog::ImportMapping* declared,
                                   const Principal& principal, MergeMode mode, const std::vector<std::string>& key,
                                   const std::vector<std::string>& headers) {
  Mapping out;
  std::map<int, int> by_field;  // field → column
  for (int column = 0; column < static_cast<int>(headers.size()); ++column) {
    const std::string& header = headers[static_cast<size_t>(column)];
    if (header == "_status") out.status_column = column;
    if (header == "_row" || header == "_status" || header == "_error_codes" || header == "_errors") continue;
    const int target = FindTarget(resource, declared, header);
    if (target < 0) {
      out.warnings.push_back(StrCat("header.unknown: ", header));
      continue;
    }
    if (const auto [taken, is_new] = by_field.emplace(target, column); !is_new) {
      return Refuse("header.duplicate", StrCat("the columns ", taken->second + 1, " and ", column + 1, " (\"", header,
                                               "\") are both ", resource.fields[static_cast<size_t>(target)].name));
    }
  }

  // The key: as asked, as declared, the primary key if the file has it, else the first unique key that it has (the
  // tenant is always known).
  const auto has = [&](int position) { return position == resource.tenant || by_field.count(position) > 0; };
  const auto names = [&](const std::vector<int>& positions) {
    std::vector<std::string> fields;
    for (const int position : positions)
      if (position != resource.tenant) fields.push_back(resource.fields[static_cast<size_t>(position)].name);
    return fields;
  };
  out.key = !key.empty() ? key : declared != nullptr ? declared->key : std::vector<std::string>();
  if (out.key.empty() && mode != MergeMode::kCreate) {
    if (!resource.key.empty() && std::all_of(resource.key.begin(), resource.key.end(), has)) {
      out.key = names(resource.key);
    } else {
      for (const auto& unique : resource.unique_keys) {
        if (names(unique).empty() || !std::all_of(unique.begin(), unique.end(), has)) continue;
        out.key = names(unique);
        break;
      }
    }
    if (out.key.empty()) out.key = names(resource.key);
  }
  std::set<int> key_positions;
  for (const std::string& name : out.key) {
    const catalog::Field* field = resource.FindField(name);
    if (field == nullptr) return Refuse("header.missing_required", StrCat("the key field ", name, " does not exist"));
    key_positions.insert(field->position);
    if (mode != MergeMode::kCreate && field->position != resource.tenant && by_field.count(field->position) == 0)
      return Refuse("header.missing_required", StrCat("no column for ", name, ", which identifies a row"));
  }

  // Required fields must have a column where rows may be created.
  const bool creates = mode == MergeMode::kCreate || mode == MergeMode::kUpsert || mode == MergeMode::kIgnore;
  for (const catalog::Field& field : resource.fields) {
    const bool required = field.required || (!field.nullable && !field.has_default);
    if (!creates || !required || SetByUs(resource, field) || by_field.count(field.position) > 0) continue;
    if (IsKey(resource, field.position) && !resource.client_chooses_key) continue;
    if (field.hidden) continue;
    return Refuse("header.missing_required", StrCat("no column for ", field.name, ", which is required"));
  }

  for (const auto& [position, column] : by_field) {
    const catalog::Field& field = resource.fields[static_cast<size_t>(position)];
    const bool is_key = key_positions.count(position) > 0;
    if (mode == MergeMode::kDelete && !is_key) continue;  // only the key counts
    if (!is_key) {
      const bool ours =
          SetByUs(resource, field) || (IsKey(resource, position) && (!creates || !resource.client_chooses_key));
      if (ours) {
        out.warnings.push_back(StrCat("header.read_only: ", headers[static_cast<size_t>(column)]));
        continue;
      }
      if (!Writable(resource, principal, field))
        return Refuse("header.forbidden", StrCat("the field ", field.name, " may not be written with this key"));
    }
    if (position == resource.tenant) continue;
    out.columns.push_back({column, position});
  }
  std::sort(out.columns.begin(), out.columns.end(),
            [](const MappedColumn& a, const MappedColumn& b) { return a.column < b.column; });
  if (out.columns.empty())
    return Refuse("header.missing_required", StrCat("no column of the file is a field of ", resource.name));
  return out;
}

}  // namespace mainstay::transfer
