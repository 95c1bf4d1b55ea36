// SPDX-License-Identifier: Apache-2.0
#include "libs/transfer/handlers.h"

#include "libs/transfer/imports.h"
#include "libs/transfer/run_import.h"

namespace mainstay::transfer {

void RegisterHandlers(jobs::Registry& registry, Dependencies dependencies) {
  const auto shared = std::make_shared<const Dependencies>(std::move(dependencies));
  registry.Register(kImportJob, [shared](jobs::RunningJob& job) { return RunImport(job, *shared); });
  registry.Register(kExportJob, [shared](jobs::RunningJob& job) { return RunExport(job, *shared); });
  registry.Register(kStartExportJob, [shared](jobs::RunningJob& job) { return StartExport(job, *shared); });
}

}  // namespace mainstay::transfer
