// SPDX-License-Identifier: Apache-2.0
#include "services/worker/job_query.h"

#include <algorithm>
#include <map>
#include <pqxx/pqxx>
#include <set>

#include "libs/base/clock.h"
#include "libs/base/json.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/catalog/introspect.h"
#include "libs/http/list_query.h"
#include "libs/postgres/errors.h"
#include "services/worker/services.h"

namespace mainstay::worker {
namespace {

using common::v1::Filter;
using common::v1::ListQuery;

const std::set<std::string, std::less<>> kFinal = {"succeeded", "discarded", "cancelled", "dead"};
const std::map<std::string, const char*, std::less<>> kNumbers = {
    {"scheduled", "1"}, {"blocked", "2"},   {"ready", "3"},     {"published", "4"}, {"running", "5"},
    {"succeeded", "6"}, {"discarded", "7"}, {"cancelled", "8"}, {"dead", "9"}};
// An id's time is the clock of whoever made it, created_at is PostgreSQL's: a producer may be so far off before lists
// by time lose its jobs.
constexpr absl::Duration kClocks = absl::Hours(2);
constexpr char kNobody[] = "00000000-0000-0000-0000-000000000000";

Filter Condition(const char* field, const char* op, std::vector<std::string> values) {
  Filter filter;
  filter.mutable_condition()->set_field(field);
  filter.mutable_condition()->set_op(op);
  for (std::string& value : values) *filter.mutable_condition()->add_values() = std::move(value);
  return filter;
}

void And(ListQuery& query, Filter condition) {
  Filter both;
  if (query.has_filter()) *both.mutable_and_()->add_filters() = query.filter();
  *both.mutable_and_()->add_filters() = std::move(condition);
  *query.mutable_filter() = std::move(both);
}

// The conditions that every row must meet.
void Required(const Filter& filter, std::vector<const Filter::Condition*>& out) {
  if (filter.has_condition()) out.push_back(&filter.condition());
  if (filter.has_and_()) {
    for (const Filter& part : filter.and_().filters()) Required(part, out);
  }
}

// As the indexes know it: job_… is made from the key (what is no id is nobody's), and a tag that is one of the tags is
// a list that they contain.
void RewriteForIndexes(Filter& filter) {
  if (filter.has_condition() && filter.condition().field() == "tags" && filter.condition().op() == "has")
    filter.mutable_condition()->set_op("has_all");
  if (filter.has_condition() && filter.condition().field() == "id") {
    filter.mutable_condition()->set_field("uid");
    for (std::string& value : *filter.mutable_condition()->mutable_values()) {
      const auto id = ParseId("job", value);
      value = id.ok() ? id->ToString() : kNobody;
    }
  }
  if (filter.has_and_()) {
    for (Filter& part : *filter.mutable_and_()->mutable_filters()) RewriteForIndexes(part);
  }
  if (filter.has_or_()) {
    for (Filter& part : *filter.mutable_or_()->mutable_filters()) RewriteForIndexes(part);
  }
  if (filter.has_not_()) RewriteForIndexes(*filter.mutable_not_());
}

// Strings of an id's order make no sense for the rewritten key.
absl::Status CheckIds(const Filter& filter) {
  static const std::set<std::string, std::less<>> ops = {"eq", "ne", "in", "nin", "gt", "gte", "lt", "lte"};
  if (filter.has_condition() && filter.condition().field() == "id" && !ops.contains(filter.condition().op())) {
    return MakeProblem("filter-invalid", "id can be compared, not searched",
                       {{.place = FieldError::Place::kParameter,
                         .name = filter.condition().place(),
                         .code = "operator_not_allowed",
                         .detail = "one of eq, ne, in, nin, gt, gte, lt, lte"}});
  }
  for (const Filter& part : filter.and_().filters()) RETURN_IF_ERROR(CheckIds(part));
  for (const Filter& part : filter.or_().filters()) RETURN_IF_ERROR(CheckIds(part));
  return filter.has_not_() ? CheckIds(filter.not_()) : absl::OkStatus();
}

// The smallest id of that moment (UUIDv7: milliseconds first).
std::string FirstIdOf(absl::Time time) {
  const uint64_t ms = static_cast<uint64_t>(std::max<int64_t>(0, absl::ToUnixMillis(time)));
  Uuid id;
  for (size_t i = 0; i < 6; ++i) id.bytes[i] = static_cast<uint8_t>(ms >> (40 - 8 * i));
  return id.ToString();
}

// Without the conditions on `state` that every row must meet: they are said by number instead.
void DropStates(Filter& filter) {
  if (filter.has_condition() && filter.condition().field() == "state" &&
      (filter.condition().op() == "eq" || filter.condition().op() == "in")) {
    filter.mutable_and_();  // true
  } else if (filter.has_and_()) {
    for (Filter& part : *filter.mutable_and_()->mutable_filters()) DropStates(part);
  }
}

// Runs a statement whose number of parameters is not known here.
pqxx::result Execute(pqxx::transaction_base& tx, const std::string& sql,
                     const std::vector<std::optional<std::string>>& params) {
  std::vector<const char*> values;
  values.reserve(params.size());
  for (const auto& param : params) values.push_back(param.has_value() ? param->c_str() : nullptr);
  return tx.exec_params(sql, pqxx::prepare::make_dynamic_params(values));
}

std::string KeyHash(pqxx::transaction_base& tx, const std::string& tenant, const std::string& key) {
  return tx.exec_params("SELECT mainstay.job_key_hash($1, $2)", tenant, key)[0][0].c_str();
}

}  // namespace

JobQueries::JobQueries(std::function<catalog::ModelPtr()> model, std::string cursor_key)
    : model_(std::move(model)), cursor_key_(std::move(cursor_key)) {}

absl::StatusOr<const JobQueries::Resources*> JobQueries::Get(pqxx::transaction_base& tx) {
  absl::MutexLock lock(&mu_);
  if (!resources_.has_value()) {
    Resources made;
    catalog::SystemResourceOptions options;
    options.name = "jobs";
    options.key = "uid";
    options.default_sort = "-uid";
    options.hidden = {"uid", "state_number", "due_at", "key_hash", "worker_uid"};
    options.filterable = {"id",         "tenant",     "kind",         "queue",     "state",       "priority",
                          "attempt",    "unique_key", "ordering_key", "tags",      "fingerprint", "run_at",
                          "created_at", "started_at", "finished_at",  "principal", "request_id",  "worker"};
    options.sortable = {"created_at", "finished_at", "run_at"};
    ASSIGN_OR_RETURN(made.open, catalog::SystemResource(tx, "mainstay.jobs_all", options));
    // The same for our own use: everything may be named.
    options.hidden = {};
    options.filterable.insert(options.filterable.end(), {"state_number", "due_at", "key_hash", "worker_uid"});
    ASSIGN_OR_RETURN(made.all, catalog::SystemResource(tx, "mainstay.jobs_all", options));
    ASSIGN_OR_RETURN(made.hot, catalog::SystemResource(tx, "mainstay.jobs_hot", options));
    ASSIGN_OR_RETURN(made.done, catalog::SystemResource(tx, "mainstay.jobs_done", options));
    catalog::SystemResourceOptions operations;
    operations.name = "job-operations";
    operations.key = "uid";
    operations.default_sort = "-uid";
    operations.hidden = {"uid"};
    operations.filterable = {"id", "kind", "state", "author", "created_at"};
    operations.sortable = {"created_at"};
    ASSIGN_OR_RETURN(made.operations, catalog::SystemResource(tx, "mainstay.job_operations_view", operations));
    resources_ = std::move(made);
  }
  return &*resources_;
}

absl::StatusOr<JobQueries::Prepared> JobQueries::Prepare(pqxx::transaction_base& tx, const Resources& resources,
                                                         const CallContext& context, const ListQuery& query) const {
  const catalog::ModelPtr model = model_();
  ListQuery asked = query;
  asked.clear_cursor();
  asked.clear_offset();
  RETURN_IF_ERROR(CheckIds(asked.filter()));
  RETURN_IF_ERROR(records::PlanExport(resources.open, *model, context, asked).status());

  Prepared out{.resource = &resources.all, .query = query};
  if (!query.has_filter()) return out;
  std::vector<const Filter::Condition*> required;
  Required(query.filter(), required);
  std::optional<std::set<std::string>> states;
  std::string ordering_key;
  std::vector<Filter> more;
  for (const Filter::Condition* condition : required) {
    const bool equal = condition->op() == "eq" && condition->values_size() == 1;
    if (condition->field() == "state" && (equal || condition->op() == "in")) {
      std::set<std::string> these(condition->values().begin(), condition->values().end());
      if (states.has_value()) std::erase_if(these, [&](const std::string& s) { return !states->contains(s); });
      states = std::move(these);
    } else if (condition->field() == "ordering_key" && equal) {
      ordering_key = condition->values(0);
    }
  }
  const auto all_of = [&](bool final) {
    return states.has_value() && !states->empty() && std::all_of(states->begin(), states->end(), [&](const auto& s) {
             return kNumbers.contains(s) && kFinal.contains(s) == final;
           });
  };
  const bool done = all_of(true), hot = all_of(false);
  if (done) out.resource = &resources.done;
  if (hot) out.resource = &resources.hot;
  if (done || hot) {
    Filter numbers = Condition("state_number", "in", {});
    bool exact = true;
    for (const std::string& state : *states) {
      numbers.mutable_condition()->add_values(kNumbers.find(state)->second);
      // Who holds the slot of a key is shown as published: only a look at the slots tells it from blocked.
      exact = exact && state != "blocked" && state != "published";
    }
    if (!exact) {
      if (!states->contains("blocked")) numbers.mutable_condition()->add_values("2");
    } else {
      DropStates(*out.query.mutable_filter());
    }
    if (numbers.condition().values_size() == 1) numbers.mutable_condition()->set_op("eq");
    more.push_back(std::move(numbers));
    if (*states == std::set<std::string>{"scheduled"}) more.push_back(Condition("due_at", "is_null", {"false"}));
    if (*states == std::set<std::string>{"running"}) more.push_back(Condition("worker_uid", "is_null", {"false"}));
  }
  if (!ordering_key.empty() && context.principal.tenant != kAllTenants)
    more.push_back(Condition("key_hash", "eq", {KeyHash(tx, context.principal.tenant, ordering_key)}));
  for (const Filter::Condition* condition : required) {
    if (condition->field() != "created_at" || condition->values_size() != 1) continue;
    const auto time = ParseTimestamp(condition->values(0));
    if (!time.ok()) continue;
    if (condition->op() == "gte" || condition->op() == "gt") {
      more.push_back(Condition("uid", "gte", {FirstIdOf(*time - kClocks)}));
      // Nothing ends before it was added, and days of endings are partitions. A minute for clocks that were set back.
      if (done) more.push_back(Condition("finished_at", "gte", {FormatTimestamp(*time - absl::Minutes(1))}));
    } else if (condition->op() == "lt" || condition->op() == "lte") {
      more.push_back(Condition("uid", "lt", {FirstIdOf(*time + kClocks)}));
    }
  }
  RewriteForIndexes(*out.query.mutable_filter());
  for (Filter& condition : more) And(out.query, std::move(condition));
  return out;
}

absl::StatusOr<records::RowsPage> JobQueries::List(pqxx::transaction_base& tx, const CallContext& context,
                                                   const ListQuery& query) {
  ASSIGN_OR_RETURN(const Resources* resources, Get(tx));
  ASSIGN_OR_RETURN(const Prepared prepared, Prepare(tx, *resources, context, query));
  return records::ListRows(tx, *prepared.resource, *model_(), context, prepared.query, cursor_key_);
}

absl::StatusOr<records::RowsPage> JobQueries::ListOperations(pqxx::transaction_base& tx, const CallContext& context,
                                                             const ListQuery& query) {
  ASSIGN_OR_RETURN(const Resources* resources, Get(tx));
  return records::ListRows(tx, resources->operations, *model_(), context, query, cursor_key_);
}

absl::StatusOr<Filter> JobQueries::ParseFilter(pqxx::transaction_base& tx, const CallContext& context,
                                               std::string_view json, std::string_view pointer) {
  ASSIGN_OR_RETURN(const JsonDocument document, JsonDocument::Parse(std::string(json)));
  if (!document.root().is_object()) {
    return MakeProblem("validation-failed", "filter: an object is expected",
                       {{.name = std::string(pointer),
                         .code = "invalid_type",
                         .detail = "an object is expected: {\"queue\":\"mail\"}, or {} for all"}});
  }
  if (document.root().members().empty()) return Filter();
  http::ListQueryLimits limits;
  limits.values = http::kMaxValuesInBody;
  ASSIGN_OR_RETURN(const Filter filter, http::ParseFilterJson(document.root(), pointer, limits));
  ASSIGN_OR_RETURN(const Resources* resources, Get(tx));
  ListQuery query;
  *query.mutable_filter() = filter;
  RETURN_IF_ERROR(Prepare(tx, *resources, context, query).status());
  return filter;
}

ListQuery JobQueries::Targets(std::string_view kind, const Filter& filter, absl::Time created) const {
  ListQuery query;
  if (filter.kind_case() != Filter::KIND_NOT_SET) *query.mutable_filter() = filter;
  const std::string at = FormatTimestamp(created);
  if (kind == "redrive") {
    And(query, Condition("state", "eq", {"dead"}));
    And(query, Condition("finished_at", "lt", {at}));
  } else if (kind == "purge") {
    And(query, Condition("state", "in", {kFinal.begin(), kFinal.end()}));
    And(query, Condition("finished_at", "lt", {at}));
  } else {
    And(query, Condition("state", "in", {"scheduled", "blocked", "ready", "published", "running"}));
    And(query, Condition("created_at", "lte", {at}));
    And(query, Condition("kind", "ne", {jobs::kOperationKind}));  // not the one that does it
  }
  return query;
}

absl::StatusOr<std::vector<Uuid>> JobQueries::Ids(pqxx::transaction_base& tx, const CallContext& context,
                                                  const ListQuery& query, const std::optional<Uuid>& after,
                                                  const std::optional<Uuid>& end, int limit) {
  ASSIGN_OR_RETURN(const Resources* resources, Get(tx));
  ASSIGN_OR_RETURN(Prepared prepared, Prepare(tx, *resources, context, query));
  ListQuery& bounded = prepared.query;
  if (after.has_value()) And(bounded, Condition("uid", "gt", {after->ToString()}));
  if (end.has_value()) And(bounded, Condition("uid", "lte", {end->ToString()}));
  bounded.add_sort()->set_field("uid");
  bounded.add_fields("uid");
  bounded.set_limit(limit);
  ASSIGN_OR_RETURN(const records::ExportPlan plan,
                   records::PlanExport(*prepared.resource, *model_(), context, bounded));
  try {
    std::vector<Uuid> ids;
    for (const auto& row : Execute(tx, plan.sql, plan.params)) {
      ASSIGN_OR_RETURN(ids.emplace_back(), ParseUuid(row[0].c_str()));
    }
    return ids;
  } catch (...) {
    return postgres::StatusFromCurrentException();
  }
}

absl::StatusOr<int64_t> JobQueries::Count(pqxx::transaction_base& tx, const CallContext& context,
                                          const ListQuery& query, int64_t cap) {
  ASSIGN_OR_RETURN(const Resources* resources, Get(tx));
  ASSIGN_OR_RETURN(Prepared prepared, Prepare(tx, *resources, context, query));
  prepared.query.add_sort()->set_field("uid");
  prepared.query.add_fields("uid");
  prepared.query.set_limit(static_cast<int32_t>(cap));
  ASSIGN_OR_RETURN(const records::ExportPlan plan,
                   records::PlanExport(*prepared.resource, *model_(), context, prepared.query));
  try {
    return Execute(tx, StrCat("SELECT count(*) FROM (", plan.sql, ") s"), plan.params)[0][0].as<int64_t>();
  } catch (...) {
    return postgres::StatusFromCurrentException();
  }
}

absl::StatusOr<std::vector<Uuid>> FilterTargets::Select(pqxx::transaction_base& tx, const jobs::Operation& operation,
                                                        const std::optional<Uuid>& end, int limit) {
  const CallContext context = operation.context();
  ASSIGN_OR_RETURN(const Filter filter, queries_.ParseFilter(tx, context, operation.filter, "/filter"));
  return queries_.Ids(tx, context, queries_.Targets(operation.kind, filter, operation.created_at), operation.position,
                      end, limit);
}

absl::StatusOr<int64_t> FilterTargets::Count(pqxx::transaction_base& tx, const jobs::Operation& operation,
                                             int64_t cap) {
  const CallContext context = operation.context();
  ASSIGN_OR_RETURN(const Filter filter, queries_.ParseFilter(tx, context, operation.filter, "/filter"));
  return queries_.Count(tx, context, queries_.Targets(operation.kind, filter, operation.created_at), cap);
}

// errors, progress and tags are messages and lists in the contract; everything else goes over by name.
absl::Status FillJobs(const records::RowsPage& page, google::protobuf::RepeatedPtrField<mainstay::jobs::v1::Job>* out) {
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
    mainstay::jobs::v1::Job* job = out->Add();
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

}  // namespace mainstay::worker
