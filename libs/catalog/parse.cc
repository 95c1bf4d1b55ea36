// SPDX-License-Identifier: Apache-2.0
// Files → declarations: the sections of all files together, each name once, and the hash that is the catalog's
// identity.
#include "libs/catalog/parse.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/match.h"
#include "libs/base/crypto.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/catalog/build.h"
#include "libs/catalog/declarations.h"
#include "libs/catalog/introspect.h"
#include "libs/catalog/sections.h"
#include "libs/catalog/yaml.h"

namespace mainstay::catalog {

Parsed ParseAll(const std::vector<File>& given, const Variables& variables, const ParseLimits& limits) {
  auto out = std::make_shared<Declarations>();
  out->files = given;
  std::sort(out->files.begin(), out->files.end(), [](const File& a, const File& b) { return a.name < b.name; });
  YamlInput input{out->files, variables, limits, {}, {}, 0};
  Parsed parsed{Document(out), {}, true};

  size_t total = 0;
  for (const File& file : out->files) total += file.text.size();
  if (out->files.empty())
    parsed.mistakes.push_back({"", 0, 0, "", "the catalog has no files; put at least one *.yaml file into its folder"});
  if (static_cast<int>(out->files.size()) > limits.files)
    parsed.mistakes.push_back({"", 0, 0, "", StrCat("the catalog has more than ", limits.files, " files")});
  if (total > limits.total_bytes)
    parsed.mistakes.push_back({"", 0, 0, "", StrCat("the catalog is larger than ", limits.total_bytes, " bytes")});
  for (size_t i = 1; i < out->files.size(); ++i)
    if (out->files[i].name == out->files[i - 1].name)
      parsed.mistakes.push_back({out->files[i].name, 0, 0, "", "two files have this name"});
  if (!parsed.mistakes.empty()) {
    parsed.readable = false;
    return parsed;
  }

  Reader::Context context{*out, input.mistakes};
  std::map<std::string, Spot> declared;  // "resources.orders" → where first
  std::vector<YamlPtr> roots;            // keep what the readers point into
  for (size_t i = 0; i < out->files.size(); ++i) {
    size_t before = input.mistakes.size();
    YamlPtr root = ReadYaml(input, static_cast<int>(i));
    if (root == nullptr) {
      if (input.mistakes.size() > before) parsed.readable = false;
      continue;
    }
    if (root->kind == Yaml::Kind::kNull) continue;
    roots.push_back(root);
    Reader top(context, *root, "", "catalog");
    // Each section may be spread over files; a name stands once.
    auto section = [&](std::string_view name, auto read) {
      const Yaml* value = top.Take(name);
      if (value == nullptr) return;
      top.EachOf(*value, std::string(name), [&](const Yaml::Member& member, const std::string& path) {
        auto [it, fresh] = declared.try_emplace(path, member.at);
        if (!fresh) {
          top.Fail(member.at, path,
                   StrCat("is declared already at ", out->files[it->second.file].name, ":", it->second.line, ":",
                          it->second.column));
          return;
        }
        read(member, path);
      });
    };
    Model& m = out->model;
    section("resources",
            [&](const Yaml::Member& v, const std::string& p) { out->resources[v.key] = ReadResource(context, v, p); });
    section("roles", [&](const Yaml::Member& v, const std::string& p) { m.roles[v.key] = ReadRole(context, v, p); });
    section("sources",
            [&](const Yaml::Member& v, const std::string& p) { m.sources[v.key] = ReadSource(context, v, p); });
    section("providers",
            [&](const Yaml::Member& v, const std::string& p) { m.providers[v.key] = ReadProvider(context, v, p); });
    section("queues", [&](const Yaml::Member& v, const std::string& p) { m.queues[v.key] = ReadQueue(context, v, p); });
    section("schedules",
            [&](const Yaml::Member& v, const std::string& p) { m.schedules[v.key] = ReadSchedule(context, v, p); });
    section("imports",
            [&](const Yaml::Member& v, const std::string& p) { m.imports[v.key] = ReadImport(context, v, p); });
    section("exports",
            [&](const Yaml::Member& v, const std::string& p) { m.exports[v.key] = ReadExport(context, v, p); });
    section("limits", [&](const Yaml::Member& v, const std::string& p) { m.limits[v.key] = ReadLimit(context, v, p); });
    top.Done();
  }
  for (const char* name : {"default", "mainstay"}) {
    auto [it, fresh] = out->model.queues.try_emplace(name);
    if (fresh) it->second.name = name;
  }

  out->used = input.used;
  // The identity: every length in front of what it counts, so that no two catalogs share a text.
  std::string canonical = "mainstay catalog 1\n";
  for (const File& file : out->files)
    StrAppend(&canonical, "file ", file.name.size(), " ", file.name, " ", file.text.size(), "\n", file.text, "\n");
  for (const auto& [name, value] : out->used)
    StrAppend(&canonical, "variable ", name, " ", value.size(), "\n", value, "\n");
  out->hash = HexEncode(Sha256(canonical));
  parsed.mistakes = std::move(input.mistakes);
  return parsed;
}

const std::string& Document::hash() const {
  return declarations_->hash;
}
const std::map<std::string, std::set<std::string>>& Document::accepted_keys() const {
  return declarations_->accepted;
}
std::vector<std::string> Document::Tables() const {
  std::vector<std::string> tables;
  for (const auto& [name, resource] : declarations_->resources) {
    if (!resource.table_name.empty() && resource.query.empty()) tables.push_back(resource.table);
    for (const RelationDeclaration& relation : resource.relations)
      if (!relation.through.empty() && ParseTableName(relation.through).ok()) tables.push_back(relation.through);
  }
  return tables;
}

std::map<std::string, std::string> Document::Queries() const {
  std::map<std::string, std::string> queries;
  for (const auto& [name, resource] : declarations_->resources)
    if (!resource.query.empty()) queries[name] = resource.query;
  return queries;
}

absl::StatusOr<Document> ParseFiles(const std::vector<File>& files, const Variables& variables,
                                    const ParseLimits& limits) {
  Parsed parsed = ParseAll(files, variables, limits);
  if (absl::Status status = MistakesToStatus(std::move(parsed.mistakes)); !status.ok()) return status;
  return parsed.document;
}

absl::StatusOr<std::vector<File>> ReadFolder(const std::string& folder) {
  namespace fs = std::filesystem;
  std::error_code error;
  std::vector<File> files;
  ParseLimits limits;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    std::string name = it->path().filename().string();
    if (absl::StartsWith(name, ".") || !(absl::EndsWith(name, ".yaml") || absl::EndsWith(name, ".yml")) ||
        !it->is_regular_file())
      continue;
    if (it->file_size() > limits.file_bytes)
      return absl::InvalidArgumentError(StrCat(name, ": the file is larger than ", limits.file_bytes, " bytes"));
    std::ifstream stream(it->path(), std::ios::binary);
    std::ostringstream text;
    text << stream.rdbuf();
    if (!stream) return absl::InvalidArgumentError(StrCat(it->path().string(), ": cannot be read"));
    files.push_back({name, text.str()});
  }
  if (error) return absl::NotFoundError(StrCat("the catalog folder ", folder, " cannot be read: ", error.message()));
  if (files.empty()) return absl::NotFoundError(StrCat("the catalog folder ", folder, " holds no *.yaml files"));
  std::sort(files.begin(), files.end(), [](const File& a, const File& b) { return a.name < b.name; });
  return files;
}

}  // namespace mainstay::catalog
