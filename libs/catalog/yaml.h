// SPDX-License-Identifier: Apache-2.0
// Internal: YAML as a tree that knows where each value stood, read from yaml-cpp's events instead of its nodes, because
// those forget duplicate keys and the place of keys.
//
// Refused here: duplicate keys, keys that are no plain text, tags, several documents, aliases to what is still open,
// and everything over the limits. An alias shares the subtree it names and is counted as often as it is used, so a
// "billion laughs" file stops at ParseLimits::values.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "libs/catalog/parse.h"

namespace mainstay::catalog {

struct Spot {
  int file = -1;  // index into the files; -1: no place
  int line = 0, column = 0;
};

struct Yaml {
  enum class Kind : uint8_t { kNull, kScalar, kList, kMap };
  struct Member;
  Kind kind = Kind::kNull;
  bool quoted = false;  // "10" is text even where a number would do
  Spot at;
  std::string text;  // of a scalar, variables substituted
  std::vector<std::shared_ptr<const Yaml>> items;
  std::vector<Member> members;  // in the order written
};
struct Yaml::Member {
  std::string key;
  Spot at;
  std::shared_ptr<const Yaml> value;
};
using YamlPtr = std::shared_ptr<const Yaml>;

struct YamlInput {
  const std::vector<File>& files;
  const Variables& variables;
  const ParseLimits& limits;
  Variables used;  // variables that were met
  std::vector<Mistake> mistakes;
  int64_t values = 0;  // so far, over all files
};

// Null when the file cannot be read at all (mistakes say why) or is empty.
YamlPtr ReadYaml(YamlInput& input, int file);

// A value as JSON: plain true, false, null and numbers as such, the rest as strings.
std::string YamlToJson(const Yaml& value);

}  // namespace mainstay::catalog
