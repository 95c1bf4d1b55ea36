// SPDX-License-Identifier: Apache-2.0
#include "services/gateway/options.h"

#include <optional>

#include "libs/base/text.h"

namespace mainstay::gateway {

void Options::Declare(ConfigReader& reader) {
  service.Declare(reader);
  reader.String("http_listen", &http_listen, "the HTTP edge: host:port");
  reader.Int("http_threads", &http_threads, 1, 64, "loops that serve HTTP, a thread each");
  reader.List("hosts", &hosts, "Host values to answer for; none: any");
  for (const char* peer : {"webhooks", "integrations", "transfer", "worker"})
    reader.Required(peer, &peers[peer], "where this service listens: host:port");
  std::string key_text;
  reader.Secret("cursor_key", &key_text,
                "key of the cursors: base64 of 32 bytes, or file:/path; the same for all copies");
  reader.Duration("request_timeout", &request_timeout, absl::Milliseconds(100), absl::Minutes(10),
                  "the longest a request may take");
  reader.Int("database_connections", &database_connections, 1, 200,
             "connections per loop for transactions and costly statements");
  reader.Bool("prepared_statements", &prepared_statements, "false behind a pooler that does not follow them");
  cursor_key = Base64Decode(key_text).value_or("");
  reader.Check(cursor_key.size() == 32, "cursor_key: base64 of 32 bytes is expected");
}

}  // namespace mainstay::gateway
