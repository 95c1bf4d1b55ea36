// SPDX-License-Identifier: Apache-2.0
// Finds the connection a call goes out with: the tenant's own, else the installation's, else the provider's declared
// secret.
//
// Rows are remembered for ten seconds, so that a call costs no statement; the table is bounded. PostgreSQL away: what
// is remembered is used up to a minute longer, after that calls fail as unavailable. Thread-safe.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "libs/base/clock.h"
#include "libs/catalog/model.h"
#include "libs/integrations/egress.h"

namespace mainstay::postgres {
class Pool;
}

namespace mainstay::integrations {

class ConnectionDirectory {
 public:
  ConnectionDirectory(postgres::Pool& pool, Clock& clock);
  ~ConnectionDirectory();
  // `connection` "" is the default one. NotFound for a name that does not exist; FailedPrecondition when it needs its
  // owner.
  absl::StatusOr<Credentials> Find(std::string_view tenant, const catalog::Provider& provider,
                                   std::string_view connection);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace mainstay::integrations
