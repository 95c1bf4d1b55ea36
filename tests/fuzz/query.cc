// SPDX-License-Identifier: Apache-2.0
// Query strings and the same as JSON, through parser, resolver and planner: a refusal is a problem of the client's,
// what becomes SQL holds nothing of the input but parameters, and a plan that is known again by a query's form takes
// from it what planning it took.
#include "libs/records/query.h"

#include <set>

#include "libs/base/json.h"
#include "libs/base/problem.h"
#include "libs/http/list_query.h"
#include "libs/records/cost.h"
#include "libs/records/plan.h"
#include "libs/records/read_plan.h"
#include "tests/fuzz/fuzz.h"

namespace mainstay::records {
namespace {

// Identifiers of the catalog, quoted; words of SQL; $1 … as many as there are parameters; nothing else in quotes.
void CheckSql(const SqlBuilder& sql) {
  static const std::set<std::string, std::less<>> known = [] {
    std::set<std::string, std::less<>> names = {"f", "rows", "children"};
    for (const auto& [name, resource] : fuzz::EveryType().resources)
      for (const catalog::Field& field : resource.fields) names.insert(field.column);
    return names;
  }();
  const std::string& text = sql.text;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    FUZZ_REQUIRE(c >= ' ' && c < 127);
    FUZZ_REQUIRE(c != '\'' && c != ';' && c != '\\' && c != '-');
    if (c == '"') {
      const size_t end = text.find('"', i + 1);
      FUZZ_REQUIRE(end != std::string::npos);
      FUZZ_REQUIRE(known.contains(std::string_view(text).substr(i + 1, end - i - 1)));
      i = end;
    } else if (c == '$') {
      const size_t number = std::strtoul(text.c_str() + i + 1, nullptr, 10);
      FUZZ_REQUIRE(number >= 1 && number <= sql.params.size());
    }
  }
  for (const auto& param : sql.params) FUZZ_REQUIRE(!param.has_value() || param->find('\0') == std::string::npos);
}

void CheckLevel(const CallContext& context, const ListQuery& query) {
  FUZZ_REQUIRE(query.limit >= 1 && query.limit <= query.resource->max_limit);
  for (const int position : query.output) FUZZ_REQUIRE(!query.resource->fields[static_cast<size_t>(position)].hidden);
  for (const Expansion& expansion : query.expansions) {
    SqlBuilder sql(context);
    BuildRelated(sql, *query.resource, expansion, ColumnsOf(*expansion.query, true));
    CheckSql(sql);
    CheckLevel(context, *expansion.query);
  }
}

bool Try(const catalog::Model& model, const std::string& input) {
  absl::StatusOr<common::v1::ListQuery> query;
  if (!input.empty() && input[0] == '{') {
    auto document = JsonDocument::Parse(input);
    query = document.ok() ? http::ParseListQueryJson(document->root(), {}) : document.status();
  } else {
    query = http::ParseListQuery(input);
  }
  const auto refused = [](const absl::Status& status) {
    FUZZ_REQUIRE(FindProblemType(ProblemFromStatus(status).type).http_status < 500);
    return false;
  };
  if (!query.ok()) return refused(query.status());
  const CallContext context{.principal = {.tenant = "acme", .subject = "s", .roles = {"admin"}}};
  Resolver resolver(model, context);
  auto resolved = resolver.Resolve(*model.FindResource("rows"), *query);
  if (!resolved.ok()) return refused(resolved.status());
  const ListQuery& list = **resolved;
  const Columns columns = ColumnsOf(list, true);
  FUZZ_REQUIRE(Score(list) >= 1);
  Position position;
  for (size_t i = 0; i < list.sort.size(); ++i)
    position.values.emplace_back(i % 2 == 0 ? std::optional<std::string>("1") : std::nullopt);
  for (const Position* from : {static_cast<const Position*>(nullptr), static_cast<const Position*>(&position)}) {
    SqlBuilder sql(context);
    BuildPage(sql, list, columns, from, true);
    CheckSql(sql);
    position.backward = true;
  }
  SqlBuilder count(context);
  BuildCount(count, list, 100);
  CheckSql(count);
  CheckLevel(context, list);
  if (input.empty() || input[0] != '{') {
    ReadPlan plan(ReadPlan::Of::kPage, *std::move(resolved), context, false, nullptr);
    const http::QueryForm form = http::FormOf(input);
    if (plan.Take(form)) {
      const std::optional<Given> again = plan.ValuesOf(form);
      const Given& first = plan.query().given;
      FUZZ_REQUIRE(again.has_value());
      FUZZ_REQUIRE(again->sent == first.sent && again->bound == first.bound && again->cursor == first.cursor);
    }
  }
  return true;
}

}  // namespace
}  // namespace mainstay::records

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const mainstay::catalog::Model model = mainstay::fuzz::EveryType();
  if (mainstay::records::Try(model, std::string(reinterpret_cast<const char*>(data), size))) ++mainstay::fuzz::accepted;
  return 0;
}
