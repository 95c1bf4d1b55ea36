// SPDX-License-Identifier: Apache-2.0
// The two passes in their order, and where mistakes go.
#include "libs/catalog/build.h"

#include <algorithm>

#include "absl/strings/str_join.h"
#include "libs/base/crypto.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/catalog/builder.h"

namespace mainstay::catalog {

bool Contains(const std::vector<std::string>& list, std::string_view name) {
  return std::find(list.begin(), list.end(), name) != list.end();
}
bool IsOrdered(const ColumnType& type) {
  if (type.array) return false;
  switch (type.family) {
    case TypeFamily::kJson:
    case TypeFamily::kOther:
    case TypeFamily::kBytes:
    case TypeFamily::kRange:
      return false;
    default:
      return true;
  }
}
std::string Hint(std::string_view name, const std::vector<std::string>& candidates) {
  std::string near = Nearest(name, candidates);
  return near.empty() ? "" : StrCat("; did you mean \"", near, "\"?");
}

Built Builder::Run() {
  model_->hash = declared_.hash;
  model_->schema_hash = SchemaHash();
  for (const auto& [name, declaration] : declared_.resources) {
    Resource& resource = model_->resources[name];
    resource_ = name;
    BuildResource(declaration, resource);
  }
  for (const auto& [name, declaration] : declared_.resources)
    if (!broken_.contains(name)) BuildReferences(model_->resources[name]);
  // From here on a mistake in one resource must not turn into mistakes of those that name it.
  const std::set<std::string> broken = Broken();
  for (const auto& [name, declaration] : declared_.resources) {
    resource_ = name;
    if (!broken.contains(name)) BuildRelations(declaration, model_->resources[name], broken);
  }
  for (const auto& [name, declaration] : declared_.resources) {
    resource_ = name;
    if (broken.contains(name)) continue;
    BuildPermissions(declaration, model_->resources[name], broken);
    BuildWriting(declaration, model_->resources[name], broken);
  }
  for (const auto& [name, declaration] : declared_.resources)
    if (!broken.contains(name)) Warnings(declaration, model_->resources[name]);
  resource_.clear();
  CheckSources(broken);
  CheckSchedules();
  CheckImports(broken);
  CheckExports(broken);
  for (auto& [name, problems] : broken_) model_->resources[name].problem = absl::StrJoin(problems, "; ");
  return {model_, std::move(mistakes_), std::move(warnings_)};
}

void Builder::Fail(const std::string& path, std::string message, bool at_key) {
  if (!resource_.empty()) {
    std::vector<std::string>& problems = broken_[resource_];
    if (problems.size() < 3) problems.push_back(StrCat(path, ": ", message));
  }
  mistakes_.push_back(MistakeAt(declared_, path, std::move(message), at_key));
}

void Builder::Warn(const std::string& path, std::string message) {
  warnings_.push_back(MistakeAt(declared_, path, std::move(message), true));
}

std::set<std::string> Builder::Broken() const {
  std::set<std::string> names;
  for (const auto& [name, problems] : broken_) names.insert(name);
  return names;
}

std::string Builder::SchemaHash() const {
  std::string text = StrCat("database ", database_.default_collation, "\n");
  for (const auto& [name, table] : database_.tables) {
    StrAppend(&text, "table ", QuoteName(table.schema, table.name), " ", std::string(1, table.kind), " ",
              absl::StrJoin(table.primary_key, "\x01"), "\n");
    for (const Column& c : table.columns) {
      StrAppend(&text, c.name, "\x01", c.type.name, "\x01", c.type.max_length, " ", c.type.precision, " ", c.type.scale,
                " ", c.nullable ? 1 : 0, c.has_default ? 1 : 0, c.generated ? 1 : 0, " ", c.type.collation, " ",
                c.collation_version, " ", absl::StrJoin(c.type.enum_values, "\x01"), "\n");
    }
    for (const Index& i : table.indexes)
      StrAppend(&text, "index ", i.name, " ", absl::StrJoin(i.columns, "\x01"), " ", i.unique ? 1 : 0,
                i.partial ? 1 : 0, i.whole ? 1 : 0, "\n");
    for (const Constraint& c : table.constraints)
      StrAppend(&text, "constraint ", c.name, " ", absl::StrJoin(c.columns, "\x01"), "\n");
    for (const ForeignKey& k : table.foreign_keys)
      StrAppend(&text, "key ", k.name, " ", k.target_schema, ".", k.target_table, " ",
                absl::StrJoin(k.target_columns, "\x01"), "\n");
  }
  return HexEncode(Sha256(text));
}

Built Build(const Document& document, const Database& database) {
  return Builder(document.declarations(), database).Run();
}

}  // namespace mainstay::catalog
