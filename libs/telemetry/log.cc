// SPDX-License-Identifier: Apache-2.0
// spdlog is the sink only: the line is made here, so that escaping and redaction have one place. Redaction runs on the
// finished line, after escaping, and before any cut; a registered secret is looked for as it is and as JSON would
// escape it. Thread-safe.
#include "libs/telemetry/log.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <mutex>
#include <shared_mutex>
#include <vector>

#include "absl/time/clock.h"
#include "libs/base/clock.h"
#include "libs/base/json.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"

namespace mainstay::log {
namespace {

constexpr size_t kMaxValue = 4096;  // bytes of one text value
constexpr std::string_view kRedacted = "[redacted]";

// Fields that never show their value, whatever it is.
constexpr std::array<std::string_view, 13> kSecretNames = {
    "authorization", "cookie", "set-cookie", "password",    "secret", "token",  "api_key",
    "apikey",        "cursor", "signature",  "private_key", "body",   "payload"};

struct State {
  std::string service = "mainstay";
  std::atomic<Level> level{Level::kInfo};
  std::shared_ptr<spdlog::logger> logger =
      std::make_shared<spdlog::logger>("mainstay", std::make_shared<spdlog::sinks::stderr_sink_mt>());
  std::shared_mutex mu;
  std::vector<std::string> secrets;  // guarded by mu
  State() {
    logger->set_pattern("%v");
    logger->set_level(spdlog::level::trace);
    logger->flush_on(spdlog::level::trace);
  }
};

State& Global() {
  static State& state = *new State;  // never destroyed: threads may log until the very end
  return state;
}

std::string_view LevelName(Level level) {
  switch (level) {
    case Level::kDebug:
      return "debug";
    case Level::kInfo:
      return "info";
    case Level::kWarn:
      return "warn";
    case Level::kError:
      return "error";
  }
  return "info";
}

void ReplaceAll(std::string& text, std::string_view what) {
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + kRedacted.size())) {
    text.replace(at, what.size(), kRedacted);
  }
}

std::string Quoted(std::string_view text) {
  if (text.size() <= kMaxValue) return JsonQuote(text);
  return JsonQuote(StrCat(TruncateUtf8(text, kMaxValue), "…"));
}

}  // namespace

Value::Value(std::string_view text) : json(Quoted(text)) {}
Value::Value(const char* text) : json(Quoted(text)) {}
Value::Value(const std::string& text) : json(Quoted(text)) {}
Value::Value(int64_t number) : json(StrCat(number)) {}
Value::Value(int number) : json(StrCat(number)) {}
Value::Value(uint64_t number) : json(StrCat(number)) {}
Value::Value(double number) {
  JsonWriter(json).Double(number);
}
Value::Value(bool flag) : json(flag ? "true" : "false") {}

void Init(std::string_view service, std::string_view level) {
  State& state = Global();
  state.service = std::string(service);
  state.level = level == "debug"   ? Level::kDebug
                : level == "warn"  ? Level::kWarn
                : level == "error" ? Level::kError
                                   : Level::kInfo;
}

void RegisterSecret(std::string_view value) {
  if (value.size() < 8) return;
  std::vector<std::string> forms = {std::string(value), Base64Encode(value), PercentEncode(value)};
  const std::string quoted = JsonQuote(value);
  forms.push_back(quoted.substr(1, quoted.size() - 2));
  State& state = Global();
  std::unique_lock lock(state.mu);
  for (std::string& form : forms) {
    if (std::find(state.secrets.begin(), state.secrets.end(), form) == state.secrets.end())
      state.secrets.push_back(std::move(form));
  }
}

void Write(Level level, std::string_view message, Fields fields) {
  State& state = Global();
  if (level < state.level.load(std::memory_order_relaxed)) return;
  std::string line;
  JsonWriter json(line);
  json.BeginObject()
      .Key("ts")
      .String(FormatTimestamp(absl::Now()))
      .Key("level")
      .String(LevelName(level))
      .Key("service")
      .String(state.service);
  json.Key("message").Raw(Quoted(message));
  for (const auto& [name, value] : fields) {
    const bool secret = std::find(kSecretNames.begin(), kSecretNames.end(), name) != kSecretNames.end();
    json.Key(name).Raw(secret ? JsonQuote(kRedacted) : value.json);
  }
  json.EndObject();
  {
    std::shared_lock lock(state.mu);
    for (const std::string& secret : state.secrets) ReplaceAll(line, secret);
  }
  state.logger->log(spdlog::level::info, spdlog::string_view_t(line.data(), line.size()));
}

}  // namespace mainstay::log
