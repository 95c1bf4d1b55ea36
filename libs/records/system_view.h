// SPDX-License-Identifier: Apache-2.0
// One of the suite's own resources as its service shows it: a view of the schema "mainstay", listed and read like any
// record.
//
// The view is the truth and says what the fields are; PostgreSQL is asked for its columns once, at the first call. Rows
// go into messages by name (FillMessage), so a list and a get can't differ. Thread-safe.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "libs/base/ids.h"
#include "libs/base/principal.h"
#include "libs/catalog/introspect.h"
#include "libs/catalog/model.h"
#include "libs/records/list.h"

namespace mainstay::records {

struct SystemViewOptions {
  std::string view;       // "mainstay.imports_view"; its column `uid` is the key
  std::string id_prefix;  // "imp"
  std::string singular;   // "import", for sentences
  catalog::SystemResourceOptions resource;
  std::string cursor_key;  // 32 bytes, the same in every copy of the service
};

class SystemView {
 public:
  SystemView(SystemViewOptions options, std::function<catalog::ModelPtr()> model)
      : options_(std::move(options)), model_(std::move(model)) {}

  // "imp_…" as the view's key. What cannot be an id names nothing: problem not-found.
  absl::StatusOr<Uuid> Key(std::string_view id) const;
  // The row of this id into `message`. Problem not-found for none, also for another tenant's.
  absl::Status Get(pqxx::transaction_base& tx, const CallContext& call, std::string_view id,
                   google::protobuf::Message* message);
  // One page into the answer of a list RPC: its fields `data` and `page`. Run it in Pool::Snapshot.
  absl::Status List(pqxx::transaction_base& tx, const CallContext& call, const common::v1::ListQuery& query,
                    google::protobuf::Message* response);
  // One page, for messages that need more than their fields by name.
  absl::StatusOr<RowsPage> Page(pqxx::transaction_base& tx, const CallContext& call,
                                const common::v1::ListQuery& query);

 private:
  absl::StatusOr<const catalog::Resource*> Described(pqxx::transaction_base& tx);

  const SystemViewOptions options_;
  const std::function<catalog::ModelPtr()> model_;

  absl::Mutex mu_;
  // Set once, never changed.
  std::optional<catalog::Resource> resource_ ABSL_GUARDED_BY(mu_);
};

}  // namespace mainstay::records
