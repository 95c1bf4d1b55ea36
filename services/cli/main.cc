// SPDX-License-Identifier: Apache-2.0
// mainstay: the command line. Commands on the schema, the catalog, keys and secrets go to PostgreSQL as the owner of
// the tables; the others are plain HTTP calls to the gateway with an API key, and can do no more than that key may.
// Exit status: 0 done, 1 failed, 2 not understood.
#include <algorithm>
#include <cstdio>
#include <iterator>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_join.h"
#include "libs/base/strings.h"
#include "services/cli/command.h"

namespace mainstay::cli {
namespace {

std::vector<Command> AllCommands() {
  std::vector<Command> all;
  for (std::vector<Command> part :
       {DatabaseCommands(), CatalogCommands(), KeyCommands(), SecretCommands(), JobCommands(), OperatorCommands(),
        QueueCommands(), ScheduleCommands(), FlowCommands(), EventCommands(), TransferCommands(), DoctorCommands()}) {
    std::move(part.begin(), part.end(), std::back_inserter(all));
  }
  return all;
}

void PrintOverview(std::FILE* out, const std::vector<Command>& commands, std::string_view group = "") {
  size_t width = 0;
  for (const Command& command : commands) width = std::max(width, command.name.size());
  for (const Command& command : commands) {
    if (!absl::StartsWith(command.name, ToAbsl(group))) continue;
    std::fprintf(out, "  %-*s  %s\n", static_cast<int>(width), command.name.c_str(), command.summary.c_str());
  }
}

void PrintHelp(std::FILE* out, const std::vector<Command>& commands) {
  std::fprintf(out, "%s",
               R"text(mainstay: records, webhooks, integrations, import, export and jobs for a PostgreSQL database.

Usage: mainstay COMMAND [argument...] [option...]      mainstay COMMAND --help explains one command

)text");
  PrintOverview(out, commands);
  std::fprintf(out, "%s", R"text(
From a database to its API:
  export MAINSTAY_DATABASE_URL=postgresql://owner@localhost/shop
  mainstay migrate                        # the suite's own tables, in the schema "mainstay"
  mainstay init > catalog/shop.yaml       # a first catalog, drafted from your tables; read and trim it
  mainstay check catalog && mainstay publish catalog
  mainstay keys create --tenant acme --role admin > admin.key
  curl -H "Authorization: Bearer $(cat admin.key)" http://127.0.0.1:8080/v1/orders

With a demo that deploy/run started: . .mainstay/env && mainstay doctor
)text");
}

int Main(int argc, char** argv) {
  const std::vector<Command> commands = AllCommands();
  std::vector<std::string> words(argv + 1, argv + argc);
  if (words.empty() || words[0] == "--help" || words[0] == "-h" || (words[0] == "help" && words.size() == 1)) {
    PrintHelp(words.empty() ? stderr : stdout, commands);
    return words.empty() ? 2 : 0;
  }
  if (words[0] == "--version") {
    std::printf("mainstay %s\n", MAINSTAY_VERSION);
    return 0;
  }
  const bool help = words[0] == "help";
  if (help) words.erase(words.begin());

  // The longest name wins: "keys create" before "keys".
  const Command* found = nullptr;
  size_t taken = 0;
  for (const Command& command : commands) {
    const size_t length = 1 + std::count(command.name.begin(), command.name.end(), ' ');
    if (words.size() >= length && absl::StrJoin(words.begin(), words.begin() + length, " ") == command.name &&
        length > taken) {
      found = &command;
      taken = length;
    }
  }
  if (found == nullptr) {
    const std::string group = StrCat(words[0], " ");
    const bool is_group = std::any_of(commands.begin(), commands.end(),
                                      [&](const Command& c) { return absl::StartsWith(c.name, group); });
    if (is_group && (help || words.size() == 1 || words[1] == "--help" || words[1] == "-h")) {
      PrintOverview(stdout, commands, group);
      return 0;
    }
    std::fprintf(stderr, "mainstay: there is no command \"%s\"; see mainstay --help\n",
                 absl::StrJoin(words, " ").c_str());
    return 2;
  }
  words.erase(words.begin(), words.begin() + taken);
  if (help || std::find(words.begin(), words.end(), "--help") != words.end() ||
      std::find(words.begin(), words.end(), "-h") != words.end()) {
    std::printf("%s", found->Help().c_str());
    return 0;
  }
  const absl::StatusOr<Arguments> arguments = found->Parse(words);
  if (!arguments.ok()) {
    std::fprintf(stderr, "mainstay %s: %s; see mainstay %s --help\n", found->name.c_str(),
                 std::string(arguments.status().message()).c_str(), found->name.c_str());
    return 2;
  }
  const absl::Status status = found->run(*arguments);
  if (!status.ok()) {
    std::fflush(stdout);
    std::fprintf(stderr, "mainstay %s: %s\n", found->name.c_str(), std::string(status.message()).c_str());
    return 1;
  }
  return std::fflush(stdout) == 0 ? 0 : 1;
}

}  // namespace
}  // namespace mainstay::cli

int main(int argc, char** argv) {
  return mainstay::cli::Main(argc, argv);
}
