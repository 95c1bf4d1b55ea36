// SPDX-License-Identifier: Apache-2.0
// YAML text → what was declared, without a database: grammar, words, variables. build.h joins the result with the live
// tables.
//
// Every mistake is reported at once, each as "file:line:column: path: sentence"; nothing is guessed and unknown keys
// are refused. Input is hostile until proven otherwise: sizes, depth and the number of values after aliases are
// bounded. Pure functions, any thread.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace mainstay::catalog {

struct File {
  std::string name;  // "resources.yaml", as messages show it
  std::string text;
};
using Variables = std::map<std::string, std::string>;  // ${name} → value

struct ParseLimits {
  size_t file_bytes = 4 << 20, total_bytes = 16 << 20;
  int files = 200;
  int depth = 24;
  int64_t values = 1'000'000;  // scalars, lists and maps, aliases counted as often as they are used
};

// One thing that is wrong, and where.
struct Mistake {
  std::string file;
  int line = 0, column = 0;  // from 1; 0: no place
  std::string path;          // "resources.orders.fields.totl"
  std::string message;       // a sentence for the author
  std::string ToString() const;
};
// All of them, in the order of the files, as one InvalidArgument: a line each, at most 100.
absl::Status MistakesToStatus(std::vector<Mistake> mistakes);

struct Declarations;  // declarations.h, internal

// What the files declare, every value with its place.
class Document {
 public:
  explicit Document(std::shared_ptr<const Declarations> declarations) : declarations_(std::move(declarations)) {}
  const Declarations& declarations() const { return *declarations_; }
  // SHA-256 (hex) of the names and contents of the files and the variables they use: the catalog's identity.
  const std::string& hash() const;
  // The tables the resources name ("shop.orders"), and the queries in place of tables, by resource: to be introspected.
  std::vector<std::string> Tables() const;
  std::map<std::string, std::string> Queries() const;
  // For tests of catalog.schema.json: the keys accepted in each kind of map that was met ("resource" → {"table", …}).
  const std::map<std::string, std::set<std::string>>& accepted_keys() const;

 private:
  std::shared_ptr<const Declarations> declarations_;
};

absl::StatusOr<Document> ParseFiles(const std::vector<File>& files, const Variables& variables = {},
                                    const ParseLimits& limits = {});
// The *.yaml and *.yml files of a folder in the order of their names, not below it.
absl::StatusOr<std::vector<File>> ReadFolder(const std::string& folder);

}  // namespace mainstay::catalog
