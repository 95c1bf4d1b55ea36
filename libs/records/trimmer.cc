// SPDX-License-Identifier: Apache-2.0
#include "libs/records/trimmer.h"

#include <pqxx/pqxx>

#include "libs/base/text.h"
#include "libs/postgres/errors.h"
#include "libs/postgres/pool.h"
#include "libs/telemetry/log.h"

namespace mainstay::records {

Trimmer::Trimmer(postgres::Pool& pool, std::function<catalog::ModelPtr()> model, TrimmerOptions options)
    : pool_(pool), model_(std::move(model)), options_(options), thread_([this] {
        while (!stopping_.WaitForNotificationWithTimeout(options_.interval)) Round();
      }) {}

Trimmer::~Trimmer() {
  stopping_.Notify();
  thread_.join();
}

void Trimmer::Round() {
  PgArray resources;
  for (const auto& [name, resource] : model_()->resources)
    if (resource.keeps_images()) resources.Add(name);
  const std::string names = std::move(resources).Finish();
  for (int gone = options_.batch; gone >= options_.batch && !stopping_.HasBeenNotified();) {
    const absl::Status status =
        pool_.Transaction(absl::Now() + absl::Seconds(30), [&](pqxx::transaction_base& tx) -> absl::Status {
          gone = tx.exec_params1("SELECT mainstay.trim_record_changes($1::text[], $2, $3)", names, options_.batch,
                                 options_.most)[0]
                     .as<int>();
          return absl::OkStatus();
        });
    if (!status.ok()) {
      log::Warn("record changes were not trimmed", {{"error", std::string(status.message())}});
      return;
    }
  }
}

}  // namespace mainstay::records
