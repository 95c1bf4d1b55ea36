// SPDX-License-Identifier: Apache-2.0
// The job kinds of this library, for the worker's registry: `imports.run` and `exports.run`, args {"id": "imp_…"}; and
// `exports.start`, args {"resource": "orders", "query": "sort=id"}, which makes an export (for schedules).
//
// Both may run again after a crash at any point and end once: an import under `commit: all` commits its rows, its
// outcome and the job's in one transaction, under `commit: chunks` it goes on behind the last chunk it committed; an
// export starts from a new snapshot and leaves the old part to expire.
#pragma once

#include <functional>

#include "libs/catalog/model.h"
#include "libs/jobs/enqueue.h"
#include "libs/jobs/handler.h"
#include "libs/postgres/pool.h"
#include "libs/transfer/blob_client.h"
#include "libs/transfer/options.h"

namespace mainstay::transfer {

struct Dependencies {
  postgres::Pool* pool = nullptr;
  std::function<catalog::ModelPtr()> model;  // the current one, never null
  BlobClient* blobs = nullptr;
  jobs::Handoff* handoff = nullptr;  // told of started exports; null: they wait for the sweep
  TransferOptions options;
};

// Everything in `dependencies` must outlive the registry.
void RegisterHandlers(jobs::Registry& registry, Dependencies dependencies);

}  // namespace mainstay::transfer
