// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <string_view>

#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "libs/base/clock.h"
#include "libs/base/json.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "services/cli/command.h"
#include "services/cli/gateway.h"

namespace mainstay::cli {
namespace {

constexpr char kImports[] = "/mainstay/v1/imports";
constexpr char kExports[] = "/mainstay/v1/exports";

bool Ended(std::string_view state) {
  return state != "queued" && state != "running";
}

std::string Counts(const JsonValue& import) {
  const JsonValue* rows = import.Find("rows");
  if (rows == nullptr || !rows->is_object()) return "";
  std::string out;
  for (const JsonValue::Member& member : rows->members()) {
    const std::string count = Text(*rows, member.key);
    if (count != "0" && !count.empty()) StrAppend(&out, out.empty() ? "" : ", ", count, " ", member.key);
  }
  return out;
}

// Asks until the object at `path` has ended; its state and counts are shown as they change.
absl::StatusOr<std::string> Follow(const Gateway& gateway, const std::string& path, absl::Duration patience) {
  const absl::Time until = absl::Now() + patience;
  std::string shown;
  for (absl::Duration pause = absl::Milliseconds(100);; pause = std::min(pause * 1.5, absl::Seconds(1))) {
    ASSIGN_OR_RETURN(std::string json, gateway.Get(path));
    ASSIGN_OR_RETURN(const JsonDocument document, JsonDocument::Parse(json));
    const std::string state = Text(document.root(), "state");
    const std::string line = StrCat(state, " ", Counts(document.root()));
    if (line != shown) std::fprintf(stderr, "%s\n", line.c_str());
    shown = line;
    if (Ended(state)) return json;
    if (absl::Now() > until) return absl::DeadlineExceededError(StrCat("still ", state, "; look again at ", path));
    absl::SleepFor(pause);
  }
}

absl::StatusOr<absl::Duration> Patience(const Arguments& arguments) {
  return ParseDuration(arguments.Get("timeout", "30m"));
}

std::string ContentType(const std::string& file) {
  if (absl::EndsWithIgnoreCase(file, ".tsv")) return "text/tab-separated-values";
  if (absl::EndsWithIgnoreCase(file, ".jsonl") || absl::EndsWithIgnoreCase(file, ".ndjson"))
    return "application/x-ndjson";
  if (absl::EndsWithIgnoreCase(file, ".xlsx"))
    return "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet";
  return "text/csv";
}

absl::Status Import(const Arguments& arguments) {
  ASSIGN_OR_RETURN(const Gateway gateway, Gateway::FromArguments(arguments));
  ASSIGN_OR_RETURN(const absl::Duration patience, Patience(arguments));
  std::string query;
  for (const auto& [flag, parameter] :
       std::initializer_list<std::pair<const char*, const char*>>{{"resource", "resource"},
                                                                  {"import", "import"},
                                                                  {"mode", "mode"},
                                                                  {"commit", "commit"},
                                                                  {"on-error", "on_error"}}) {
    if (arguments.Has(flag))
      StrAppend(&query, query.empty() ? "?" : "&", parameter, "=", PercentEncode(arguments.Get(flag)));
  }
  if (query.empty()) return absl::InvalidArgumentError("--resource or --import says where the rows go");
  if (arguments.Has("dry-run")) StrAppend(&query, "&dry_run=true");
  const bool terminal = isatty(STDERR_FILENO) == 1;
  int shown = -1;
  ASSIGN_OR_RETURN(std::string json,
                   gateway.Upload(StrCat(kImports, query), arguments[0], ContentType(arguments[0]), [&](double share) {
                     const int percent = static_cast<int>(share * 100);
                     if (terminal && percent != shown)
                       std::fprintf(stderr, "\rsent %d %%%s", percent, percent == 100 ? "\n" : "");
                     shown = percent;
                   }));
  std::string id;
  {
    ASSIGN_OR_RETURN(const JsonDocument created, JsonDocument::Parse(json));
    id = Text(created.root(), "id");
  }
  std::fprintf(stderr, "%s\n", id.c_str());
  if (!arguments.Has("no-wait")) {
    ASSIGN_OR_RETURN(json, Follow(gateway, StrCat(kImports, "/", id), patience));
  }
  RETURN_IF_ERROR(Show(arguments, json));
  ASSIGN_OR_RETURN(const JsonDocument document, JsonDocument::Parse(json));
  if (const JsonValue* warnings = document.root().Find("warnings"); warnings != nullptr && warnings->is_array()) {
    for (const JsonValue& warning : warnings->items())
      std::fprintf(stderr, "warning: %s\n", std::string(warning.text()).c_str());
  }
  const std::string state = Text(document.root(), "state");
  if (state == "succeeded_with_errors" && !arguments.Has("json")) {
    ASSIGN_OR_RETURN(const std::string errors, gateway.Get(StrCat(kImports, "/", id, "/errors?limit=20")));
    return PrintTable(errors, {"line", "column", "code", "message"});
  }
  if (state == "failed" || state == "rejected" || state == "cancelled")
    return absl::AbortedError(StrCat(id, " ", state, ": ", Text(document.root(), "error")));
  return absl::OkStatus();
}

absl::Status Export(const Arguments& arguments) {
  ASSIGN_OR_RETURN(const Gateway gateway, Gateway::FromArguments(arguments));
  ASSIGN_OR_RETURN(const absl::Duration patience, Patience(arguments));
  std::string body;
  JsonWriter writer(body);
  writer.BeginObject().Key("resource").String(arguments[0]).Key("format").String(arguments.Get("format", "csv"));
  if (arguments.Has("query")) writer.Key("query").String(arguments.Get("query"));
  writer.EndObject();
  ASSIGN_OR_RETURN(const std::string created, gateway.Post(kExports, body));
  std::string id;
  {
    ASSIGN_OR_RETURN(const JsonDocument document, JsonDocument::Parse(created));
    id = Text(document.root(), "id");
  }
  std::fprintf(stderr, "%s\n", id.c_str());
  ASSIGN_OR_RETURN(const std::string json, Follow(gateway, StrCat(kExports, "/", id), patience));
  {
    ASSIGN_OR_RETURN(const JsonDocument document, JsonDocument::Parse(json));
    if (Text(document.root(), "state") != "succeeded")
      return absl::AbortedError(StrCat(id, " ", Text(document.root(), "state"), ": ", Text(document.root(), "error")));
  }
  const std::string path = StrCat(kExports, "/", id, "/file");
  const std::string out = arguments.Get("out", "-");
  if (out == "-") return gateway.Download(path, stdout);
  // Under another name until it is whole.
  const std::string part = StrCat(out, ".part");
  std::FILE* file = std::fopen(part.c_str(), "wb");
  if (file == nullptr) return absl::NotFoundError(StrCat("cannot write ", part));
  const absl::Status status = gateway.Download(path, file);
  if (std::fclose(file) != 0 || !status.ok()) {
    std::remove(part.c_str());
    return status.ok() ? absl::UnavailableError(StrCat("cannot write ", part)) : status;
  }
  if (std::rename(part.c_str(), out.c_str()) != 0) return absl::UnavailableError(StrCat("cannot write ", out));
  return absl::OkStatus();
}

}  // namespace

std::vector<Command> TransferCommands() {
  const Flag timeout = {"timeout", "TIME", "how long to wait for the end, default 30m"};
  return {
      {
          .name = "import",
          .summary = "load a file into a resource and follow it to the end",
          .details =
              "Uploads FILE, waits for the background job and prints the counts and what was unsure in the file; "
              "with --on-error\n"
              "skip also the first rows that had errors. Exit status 1 when nothing was written.",
          .positionals = {"FILE"},
          .flags = GatewayFlags({{"resource", "NAME", "where the rows go"},
                                 {"import", "NAME", "or an import that the catalog declares"},
                                 {"mode", "NAME", "create update upsert delete ignore"},
                                 {"commit", "NAME", "all (default) or chunks"},
                                 {"on-error", "NAME", "abort (default) or skip"},
                                 {"dry-run", "", "everything but the writing"},
                                 {"no-wait", "", "return once the file is stored"},
                                 timeout}),
          .examples = "mainstay import customers.csv --resource customers --mode upsert --on-error skip",
          .run = Import,
      },
      {
          .name = "export",
          .summary = "write a resource to a file",
          .details =
              "Starts a background export, waits for it and downloads the result. --query takes filters, sort "
              "and fields as the list of\n"
              "the resource does. Texts that a spreadsheet would take for a formula get a leading '; import takes "
              "it off again when\n"
              "the file's name holds .mainstay-escaped=1, as in orders.mainstay-escaped=1.csv.",
          .positionals = {"RESOURCE"},
          .flags = GatewayFlags({{"format", "NAME", "csv (default)"},
                                 {"query", "TEXT", "filter[status]=open&sort=-created_at&fields=id,total"},
                                 {"out", "FILE", "default: stdout"},
                                 timeout}),
          .examples = "mainstay export orders --query 'filter[status]=open' --out open-orders.csv",
          .run = Export,
      },
  };
}

}  // namespace mainstay::cli
