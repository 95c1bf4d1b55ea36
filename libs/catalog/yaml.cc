// SPDX-License-Identifier: Apache-2.0
#include "libs/catalog/yaml.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <map>
#include <set>
#include <sstream>
#include <stdexcept>

#include "absl/strings/ascii.h"
#include "libs/base/json.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"

namespace mainstay::catalog {
namespace {

constexpr size_t kMaxVariableBytes = 64 << 10;

// Ends the reading of one file; the mistake is recorded already.
struct Stop : std::exception {};

bool IsVariableName(std::string_view name) {
  if (name.empty() || name.size() > 63 || !absl::ascii_islower(static_cast<unsigned char>(name[0]))) return false;
  for (char c : name)
    if (!absl::ascii_islower(static_cast<unsigned char>(c)) && !absl::ascii_isdigit(static_cast<unsigned char>(c)) &&
        c != '_')
      return false;
  return true;
}

class TreeBuilder : public YAML::EventHandler {
 public:
  TreeBuilder(YamlInput& input, int file) : input_(input), file_(file) {
    const std::string& text = input.files[file].text;
    line_starts_.push_back(0);
    for (size_t i = 0; i < text.size(); ++i)
      if (text[i] == '\n') line_starts_.push_back(i + 1);
  }

  // yaml-cpp counts from 0 and in bytes; people count from 1 and in characters.
  Spot At(const YAML::Mark& mark) const {
    Spot spot{file_, mark.line + 1, mark.column + 1};
    if (mark.line < 0 || mark.is_null()) return Spot{file_, 1, 1};
    if (static_cast<size_t>(mark.line) < line_starts_.size()) {
      const std::string& text = input_.files[file_].text;
      size_t begin = line_starts_[mark.line];
      for (size_t i = begin; i < begin + mark.column && i < text.size(); ++i)
        if ((static_cast<unsigned char>(text[i]) & 0xC0) == 0x80) --spot.column;
    }
    return spot;
  }
  void Fail(Spot at, std::string message) {
    input_.mistakes.push_back({input_.files[file_].name, at.line, at.column, "", std::move(message)});
  }

  YamlPtr root() const { return root_; }

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    Add(New(Yaml::Kind::kNull, mark), mark, anchor);
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    auto it = anchors_.find(anchor);
    if (it == anchors_.end()) {
      Fail(At(mark), "this alias stands inside what it refers to");
      throw Stop();
    }
    Count(sizes_[it->second.get()], mark);
    Place(it->second, mark);
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    CheckTag(mark, tag);
    auto node = New(Yaml::Kind::kScalar, mark);
    node->quoted = tag == "!";
    node->text = WaitsForKey() ? value : Substitute(node->at, value);
    Add(node, mark, anchor);
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    Open(Yaml::Kind::kList, mark, tag, anchor);
  }
  void OnSequenceEnd() override { Close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    Open(Yaml::Kind::kMap, mark, tag, anchor);
  }
  void OnMapEnd() override { Close(); }

 private:
  struct Frame {
    std::shared_ptr<Yaml> node;
    YAML::anchor_t anchor;
    int64_t values_before;
    bool has_key = false;
    Yaml::Member member;
    std::set<std::string> keys;
  };

  std::shared_ptr<Yaml> New(Yaml::Kind kind, const YAML::Mark& mark) {
    auto node = std::make_shared<Yaml>();
    node->kind = kind;
    node->at = At(mark);
    return node;
  }
  void CheckTag(const YAML::Mark& mark, const std::string& tag) {
    if (!tag.empty() && tag != "?" && tag != "!")
      Fail(At(mark), StrCat("the tag ", tag, " has no meaning here; remove it"));
  }
  void Count(int64_t values, const YAML::Mark& mark) {
    input_.values += values;
    if (input_.values > input_.limits.values) {
      Fail(At(mark), StrCat("the catalog holds more than ", input_.limits.values,
                            " values, aliases counted as often as they are used"));
      throw Stop();
    }
  }
  bool WaitsForKey() const {
    return !stack_.empty() && stack_.back().node->kind == Yaml::Kind::kMap && !stack_.back().has_key;
  }
  void Add(std::shared_ptr<Yaml> node, const YAML::Mark& mark, YAML::anchor_t anchor) {
    Count(1, mark);
    sizes_[node.get()] = 1;
    if (anchor != YAML::NullAnchor) anchors_[anchor] = node;
    Place(std::move(node), mark);
  }
  void Place(YamlPtr node, const YAML::Mark& mark) {
    if (stack_.empty()) {
      root_ = std::move(node);
      return;
    }
    Frame& top = stack_.back();
    if (top.node->kind == Yaml::Kind::kList) {
      top.node->items.push_back(std::move(node));
      return;
    }
    if (!top.has_key) {
      if (node->kind != Yaml::Kind::kScalar) {
        Fail(At(mark), "a key must be plain text");
        throw Stop();
      }
      top.has_key = true;
      top.member = {node->text, At(mark), nullptr};
      return;
    }
    top.has_key = false;
    if (!top.keys.insert(top.member.key).second) {
      Fail(top.member.at, StrCat("the key \"", top.member.key, "\" stands twice in the same map"));
      return;
    }
    top.member.value = std::move(node);
    top.node->members.push_back(std::move(top.member));
  }
  void Open(Yaml::Kind kind, const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor) {
    CheckTag(mark, tag);
    if (static_cast<int>(stack_.size()) >= input_.limits.depth) {
      Fail(At(mark), StrCat("maps and lists are nested more than ", input_.limits.depth, " deep"));
      throw Stop();
    }
    if (WaitsForKey()) {
      Fail(At(mark), "a key must be plain text (quote a value that contains { or [)");
      throw Stop();
    }
    int64_t before = input_.values;
    Count(1, mark);
    stack_.push_back({New(kind, mark), anchor, before});
  }
  void Close() {
    Frame frame = std::move(stack_.back());
    stack_.pop_back();
    sizes_[frame.node.get()] = input_.values - frame.values_before;
    if (frame.anchor != YAML::NullAnchor) anchors_[frame.anchor] = frame.node;
    Place(std::move(frame.node), YAML::Mark());
  }

  std::string Substitute(Spot at, const std::string& value) {
    if (value.find("${") == std::string::npos) return value;
    std::string out;
    for (size_t i = 0; i < value.size();) {
      if (value.compare(i, 3, "$${") == 0) {
        out += "${";
        i += 3;
      } else if (value.compare(i, 2, "${") == 0) {
        size_t end = value.find('}', i);
        std::string name = end == std::string::npos ? "" : value.substr(i + 2, end - i - 2);
        if (!IsVariableName(name)) {
          Fail(at, "\"${\" begins a variable like ${api_url}; for the characters themselves write \"$${\"");
          return out;
        }
        auto it = input_.variables.find(name);
        if (it == input_.variables.end()) {
          Fail(at, StrCat("the variable ${", name, "} has no value; give it with --set ", name, "=VALUE"));
        } else if (it->second.size() > kMaxVariableBytes || !IsValidUtf8(it->second) ||
                   it->second.find('\0') != std::string::npos) {
          Fail(at, StrCat("the value of the variable ${", name, "} is too long or not valid UTF-8"));
        } else {
          input_.used[name] = it->second;
          out += it->second;
        }
        i = end + 1;
      } else {
        out += value[i++];
      }
    }
    return out;
  }

  YamlInput& input_;
  const int file_;
  std::vector<size_t> line_starts_;
  std::vector<Frame> stack_;
  std::map<YAML::anchor_t, YamlPtr> anchors_;
  std::map<const Yaml*, int64_t> sizes_;
  YamlPtr root_;
};

bool IsJsonNumber(std::string_view text) {
  size_t i = 0;
  auto digits = [&] {
    size_t begin = i;
    while (i < text.size() && absl::ascii_isdigit(static_cast<unsigned char>(text[i]))) ++i;
    return i > begin;
  };
  if (i < text.size() && text[i] == '-') ++i;
  if (i < text.size() && text[i] == '0') {
    ++i;
  } else if (!digits()) {
    return false;
  }
  if (i < text.size() && text[i] == '.') {
    ++i;
    if (!digits()) return false;
  }
  if (i < text.size() && (text[i] == 'e' || text[i] == 'E')) {
    ++i;
    if (i < text.size() && (text[i] == '+' || text[i] == '-')) ++i;
    if (!digits()) return false;
  }
  return i == text.size();
}

void AppendJson(const Yaml& value, std::string& out) {
  switch (value.kind) {
    case Yaml::Kind::kNull:
      out += "null";
      return;
    case Yaml::Kind::kScalar:
      if (!value.quoted && (value.text == "true" || value.text == "false" || IsJsonNumber(value.text))) {
        out += value.text;
      } else {
        AppendJsonString(value.text, out);
      }
      return;
    case Yaml::Kind::kList:
      out += '[';
      for (size_t i = 0; i < value.items.size(); ++i) {
        if (i > 0) out += ',';
        AppendJson(*value.items[i], out);
      }
      out += ']';
      return;
    case Yaml::Kind::kMap:
      out += '{';
      for (size_t i = 0; i < value.members.size(); ++i) {
        if (i > 0) out += ',';
        AppendJsonString(value.members[i].key, out);
        out += ':';
        AppendJson(*value.members[i].value, out);
      }
      out += '}';
      return;
  }
}

}  // namespace

YamlPtr ReadYaml(YamlInput& input, int file) {
  const File& source = input.files[file];
  TreeBuilder builder(input, file);
  auto fail = [&](std::string message) -> YamlPtr {
    builder.Fail({file, 1, 1}, std::move(message));
    return nullptr;
  };
  if (source.text.size() > input.limits.file_bytes)
    return fail(StrCat("the file is larger than ", input.limits.file_bytes, " bytes"));
  if (!IsValidUtf8(source.text)) return fail("the file is not valid UTF-8");
  if (source.text.find('\0') != std::string::npos) return fail("the file contains a NUL character");
  try {
    std::istringstream stream(source.text);
    YAML::Parser parser(stream);
    if (!parser.HandleNextDocument(builder)) return nullptr;
    YamlPtr root = builder.root();
    TreeBuilder second(input, file);
    if (parser.HandleNextDocument(second))
      return fail("the file holds more than one document; remove the line \"---\" between them");
    return root;
  } catch (const Stop&) {
  } catch (const YAML::ParserException& e) {
    builder.Fail(builder.At(e.mark), StrCat("not valid YAML: ", e.msg));
  } catch (const YAML::Exception& e) {
    builder.Fail(builder.At(e.mark), StrCat("not valid YAML: ", e.msg));
  }
  return nullptr;
}

std::string YamlToJson(const Yaml& value) {
  std::string out;
  AppendJson(value, out);
  return out;
}

}  // namespace mainstay::catalog
