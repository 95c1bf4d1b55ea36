// SPDX-License-Identifier: Apache-2.0
#include "services/gateway/options.h"

namespace mainstay::gateway {

void Options::Declare(ConfigReader& reader) {
  service.Declare(reader);
  reader.String("http_listen", &http_listen, "the HTTP edge: host:port");
  reader.Int("http_threads", &http_threads, 1, 64, "loops that serve HTTP, a thread each");
  reader.List("hosts", &hosts, "Host values to answer for; none: any");
  for (const char* peer : {"webhooks", "integrations", "transfer", "worker"})
    reader.Required(peer, &peers[peer], "where this service listens: host:port");
  rpc::DeclareCursorKey(reader, &cursor_key);
  reader.Duration("request_timeout", &request_timeout, absl::Milliseconds(100), absl::Minutes(10),
                  "the longest a request may take");
  reader.Int("database_connections", &database_connections, 1, 200,
             "connections per loop for transactions and costly statements");
  reader.Int(
      "database_short_connections", &database_short_connections, 1, 200,
      "connections per loop for short reads of several statements; few are faster, unless the database is far away");
  reader.Bool("prepared_statements", &prepared_statements, "false behind a pooler that does not follow them");
}

}  // namespace mainstay::gateway
