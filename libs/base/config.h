// SPDX-License-Identifier: Apache-2.0
// A process's configuration: one YAML file, then MAINSTAY_* environment variables over it, checked as a whole at start.
//
// Precedence: environment > file > default. `database_url` in the file is MAINSTAY_DATABASE_URL in the environment;
// nested maps are flattened with "_". An unknown key is an error, and every mistake is named at once. A value
// "file:/path" of a field declared Secret is read from that file, so that no secret stands in argv or the environment.
// Usage: declare every field, then Finish().
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace mainstay {

class ConfigReader {
 public:
  // `file` may be empty (environment only). `environment` is for tests; by default the process's own.
  static absl::StatusOr<ConfigReader> Open(const std::string& file);
  ConfigReader(std::map<std::string, std::string> file_values, std::map<std::string, std::string> environment);

  // Each keeps *out (the default) when the key is absent. `help` is one line for --help-config.
  void String(std::string_view key, std::string* out, std::string_view help);
  void Required(std::string_view key, std::string* out, std::string_view help);
  void Secret(std::string_view key, std::string* out, std::string_view help);  // never printed; "file:/path" is read
  void Int(std::string_view key, int64_t* out, int64_t min, int64_t max, std::string_view help);
  void Bool(std::string_view key, bool* out, std::string_view help);
  void Duration(std::string_view key, absl::Duration* out, absl::Duration min, absl::Duration max,
                std::string_view help);
  void List(std::string_view key, std::vector<std::string>* out,
            std::string_view help);  // YAML list, or comma separated
  void Map(std::string_view key, std::map<std::string, std::string>* out,
           std::string_view help);  // "a=b,c=d" or a YAML map
  // For rules between fields: adds the message when `ok` is false.
  void Check(bool ok, std::string_view message);

  // All mistakes in one InvalidArgument, a line each ("port: 99999 is not between 0 and 65535"), unknown keys included.
  absl::Status Finish();
  // "key  default  help", a line per declared field.
  std::string Help() const;

 private:
  struct Field {
    std::string key, fallback, help;
  };
  bool Take(std::string_view key, std::string* text, std::string* origin);
  void Fail(std::string_view origin, std::string_view message);
  std::map<std::string, std::string> file_, environment_;
  std::vector<Field> fields_;
  std::vector<std::string> errors_;
};

}  // namespace mainstay
