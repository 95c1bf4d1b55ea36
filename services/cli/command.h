// SPDX-License-Identifier: Apache-2.0
// A command of `mainstay`: its flags, its help, and what it does. The help is made from the same declaration that the
// parser uses, so the two cannot disagree.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace mainstay::cli {

struct Flag {
  std::string name;   // "database", given as --database URL or --database=URL
  std::string value;  // what stands for its value in the help; empty: a switch
  std::string help;
  bool repeated = false;
};

// What was given, checked against the declaration.
class Arguments {
 public:
  bool Has(std::string_view flag) const;
  std::string Get(std::string_view flag, std::string_view fallback = "") const;
  std::vector<std::string> All(std::string_view flag) const;
  // Empty when an optional one was left out.
  const std::string& operator[](size_t position) const;
  // The flag, else the environment variable, else InvalidArgument that names both.
  absl::StatusOr<std::string> FlagOrEnvironment(std::string_view flag, const char* variable) const;

 private:
  friend struct Command;
  std::map<std::string, std::vector<std::string>, std::less<>> flags_;
  std::vector<std::string> positionals_;
};

struct Command {
  std::string name;                      // "keys create"
  std::string summary;                   // one line, for the overview
  std::string details;                   // a paragraph or more
  std::vector<std::string> positionals;  // "ID"; "[FILE]" may be left out
  std::vector<Flag> flags;
  std::string examples;  // lines as one would type them
  std::function<absl::Status(const Arguments&)> run;

  // InvalidArgument with a sentence for the user.
  absl::StatusOr<Arguments> Parse(const std::vector<std::string>& words) const;
  std::string Help() const;
};

// The flags of every command that goes to the database, and of every one that goes through the gateway.
std::vector<Flag> DatabaseFlags(std::vector<Flag> more = {});
std::vector<Flag> GatewayFlags(std::vector<Flag> more = {});

// By subject, each in its own file.
std::vector<Command> DatabaseCommands();
std::vector<Command> CatalogCommands();
std::vector<Command> KeyCommands();
std::vector<Command> SecretCommands();
std::vector<Command> JobCommands();
std::vector<Command> OperatorCommands();
std::vector<Command> QueueCommands();
std::vector<Command> ScheduleCommands();
std::vector<Command> FlowCommands();
std::vector<Command> EventCommands();
std::vector<Command> TransferCommands();
std::vector<Command> DoctorCommands();

}  // namespace mainstay::cli
