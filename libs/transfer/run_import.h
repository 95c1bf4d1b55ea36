// SPDX-License-Identifier: Apache-2.0
// One import, from blob to report, as a job: decode → map → parse → stage → check → merge → outcome (README.md).
//
// The import's row is its memory: it holds the fence of the run that may go on, how far staging got (compared with the
// staging table, which PostgreSQL's own crash empties) and, under `commit: chunks`, the last committed row. A run that
// finds another fence there stops without a trace.
#pragma once

#include "libs/jobs/handler.h"
#include "libs/transfer/handlers.h"

namespace mainstay::transfer {

jobs::Outcome RunImport(jobs::RunningJob& job, const Dependencies& dependencies);
jobs::Outcome RunExport(jobs::RunningJob& job, const Dependencies& dependencies);
// Makes an export as the API would, with the rights of the job: {"resource": "orders", "query": "sort=id"}. The export
// and the end of the job are one transaction.
jobs::Outcome StartExport(jobs::RunningJob& job, const Dependencies& dependencies);

}  // namespace mainstay::transfer
