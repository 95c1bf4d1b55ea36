// SPDX-License-Identifier: Apache-2.0
// The list of jobs: the view mainstay.jobs_view as a resource, read by the one implementation of lists. Hot and
// finished jobs merge by their uuid, which both sides have an index on.
#include <grpcpp/grpcpp.h>

#include <pqxx/pqxx>

#include "libs/base/status.h"
#include "libs/catalog/introspect.h"
#include "libs/records/list.h"
#include "services/worker/services.h"

namespace mainstay::worker {

namespace {

// errors, progress and tags are messages and lists in the contract; everything else goes over by name.
absl::Status FillJobs(const records::RowsPage& page, mainstay::jobs::v1::ListJobsResponse* response) {
  records::RowsPage plain;
  std::vector<size_t> taken;
  std::map<std::string, size_t> parts;
  for (size_t i = 0; i < page.fields.size(); ++i) {
    if (page.fields[i] == "errors" || page.fields[i] == "progress" || page.fields[i] == "tags") {
      parts[page.fields[i]] = i;
    } else {
      taken.push_back(i);
      plain.fields.push_back(page.fields[i]);
      plain.types.push_back(page.types[i]);
    }
  }
  for (size_t row = 0; row < page.rows.size(); ++row) {
    auto& cells = plain.rows.emplace_back();
    for (const size_t i : taken) cells.push_back(page.rows[row][i]);
    mainstay::jobs::v1::Job* job = response->add_data();
    RETURN_IF_ERROR(records::FillMessage(plain, row, job));
    auto part = [&](const char* name) {
      const auto it = parts.find(name);
      return it == parts.end() ? std::string() : page.rows[row][it->second].value_or("");
    };
    FillErrorsAndProgress(part("errors"), part("progress"), job);
    const std::string tags = part("tags");
    pqxx::array_parser parser(tags.c_str());
    for (auto item = parser.get_next(); item.first != pqxx::array_parser::juncture::done; item = parser.get_next()) {
      if (item.first == pqxx::array_parser::juncture::string_value) job->add_tags(item.second);
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<catalog::Resource> JobsService::Resource(pqxx::transaction_base& tx) {
  absl::MutexLock lock(&mu_);
  if (!resource_.has_value()) {
    catalog::SystemResourceOptions options;
    options.name = "jobs";
    options.key = "uid";
    options.default_sort = "-uid";
    options.hidden = {"uid"};
    options.filterable = {"id",         "kind",       "queue",        "state",     "priority",
                          "attempt",    "unique_key", "ordering_key", "tags",      "run_at",
                          "created_at", "started_at", "finished_at",  "principal", "request_id"};
    options.sortable = {"created_at", "finished_at", "run_at"};
    ASSIGN_OR_RETURN(resource_, catalog::SystemResource(tx, "mainstay.jobs_view", options));
  }
  return *resource_;
}

grpc::Status JobsService::ListJobs(grpc::ServerContext* context, const mainstay::jobs::v1::ListJobsRequest* request,
                                   mainstay::jobs::v1::ListJobsResponse* response) {
  return parts_.guard.Handle(
      *context, "mainstay.jobs.v1.JobsService/ListJobs", [&](const CallContext& call) -> absl::Status {
        const catalog::ModelPtr model = parts_.model();
        return parts_.pool.Snapshot(call.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
          ASSIGN_OR_RETURN(const catalog::Resource resource, Resource(tx));
          ASSIGN_OR_RETURN(const records::RowsPage page,
                           records::ListRows(tx, resource, *model, call, request->query(), parts_.cursor_key));
          response->Clear();
          *response->mutable_page() = page.page;
          return FillJobs(page, response);
        });
      });
}

}  // namespace mainstay::worker
