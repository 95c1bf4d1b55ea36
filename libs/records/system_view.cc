// SPDX-License-Identifier: Apache-2.0
#include "libs/records/system_view.h"

#include <google/protobuf/message.h>

#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"

namespace mainstay::records {

absl::StatusOr<const catalog::Resource*> SystemView::Described(pqxx::transaction_base& tx) {
  absl::MutexLock lock(&mu_);
  if (!resource_) {
    ASSIGN_OR_RETURN(resource_, catalog::SystemResource(tx, options_.view, options_.resource));
  }
  return &*resource_;
}

absl::StatusOr<RowsPage> SystemView::Page(pqxx::transaction_base& tx, const CallContext& call,
                                          const common::v1::ListQuery& query) {
  ASSIGN_OR_RETURN(const catalog::Resource* resource, Described(tx));
  const catalog::ModelPtr model = model_();
  return ListRows(tx, *resource, *model, call, query, options_.cursor_key);
}

absl::Status SystemView::List(pqxx::transaction_base& tx, const CallContext& call, const common::v1::ListQuery& query,
                              google::protobuf::Message* response) {
  ASSIGN_OR_RETURN(RowsPage rows, Page(tx, call, query));
  const auto* reflection = response->GetReflection();
  const auto* data = response->GetDescriptor()->FindFieldByName("data");
  const auto* page = response->GetDescriptor()->FindFieldByName("page");
  response->Clear();
  for (size_t i = 0; i < rows.rows.size(); ++i)
    RETURN_IF_ERROR(FillMessage(rows, i, reflection->AddMessage(response, data)));
  reflection->MutableMessage(response, page)->CopyFrom(rows.page);
  return absl::OkStatus();
}

absl::StatusOr<Uuid> SystemView::Key(std::string_view id) const {
  absl::StatusOr<Uuid> key = ParseId(options_.id_prefix, id);
  if (!key.ok()) return MakeProblem("not-found", StrCat("There is no such ", options_.singular));
  return key;
}

absl::Status SystemView::Get(pqxx::transaction_base& tx, const CallContext& call, std::string_view id,
                             google::protobuf::Message* message) {
  ASSIGN_OR_RETURN(const Uuid key, Key(id));
  ASSIGN_OR_RETURN(const catalog::Resource* resource, Described(tx));
  const catalog::ModelPtr model = model_();
  ASSIGN_OR_RETURN(const RowsPage found, GetRow(tx, *resource, *model, call, {key.ToString()}));
  if (found.rows.empty()) return MakeProblem("not-found", StrCat("There is no such ", options_.singular));
  message->Clear();
  return FillMessage(found, 0, message);
}

}  // namespace mainstay::records
