// SPDX-License-Identifier: Apache-2.0
// Internal: a list query resolved against the catalog, with the caller's rights in it.
//
// First stage of every read: names become positions, values are checked against their column's type, and whatever the
// caller may not read is treated exactly like what does not exist. After this stage nothing of the client's names is
// left: SQL is made from the catalog's identifiers and bind parameters alone (plan.h). Pure.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "libs/base/principal.h"
#include "libs/catalog/model.h"
#include "libs/records/value.h"
#include "mainstay/common/v1/common.pb.h"

namespace mainstay::records {

// What an operand is: the client's text, or something of the principal that declared row predicates name.
struct Operand {
  enum class Kind : uint8_t { kText, kTenant, kSubject, kField };
  Kind kind = Kind::kText;
  std::string text;  // converted for binding
  int field = -1;    // kField: another field of the row, in declared checks
};

enum class Op : uint8_t {
  kEq,
  kNe,
  kGt,
  kGte,
  kLt,
  kLte,
  kIn,
  kNin,
  kIsNull,
  kIsNotNull,
  kDistinctFrom,
  kLike,
  kIlike,
  kHas,
  kHasAny,
  kHasAll,
  kOverlaps,
  kSearch,
};
enum class Quantifier : uint8_t { kSome, kNone, kEvery };

struct Access;
struct WriteRules;
using AccessPtr = std::shared_ptr<const Access>;

struct Predicate {
  enum class Kind : uint8_t { kAnd, kOr, kNot, kCondition, kRelated };
  Kind kind = Kind::kAnd;
  std::vector<Predicate> children;  // kAnd, kOr: any number; kNot, kRelated: one or none
  // kCondition
  int field = -1;
  Op op = Op::kEq;
  std::vector<Operand> operands;
  int argument = -1;                   // whose value the operands are; -1: the catalog's own
  std::vector<std::string> json_path;  // inside a JSON field; compared as text
  // kRelated
  const catalog::Relation* relation = nullptr;
  const catalog::Resource* target = nullptr;
  Quantifier quantifier = Quantifier::kSome;
  AccessPtr target_access;  // null inside declared row predicates: there only the tenant counts
};

// Actions as in Permission.
enum class Action : uint8_t { kRead, kCreate, kUpdate, kDelete, kAggregate };
inline constexpr int kActions = 5;

// What the roles of a principal give on one resource, together: actions, fields and rows are each the union over its
// roles.
struct Access {
  bool allowed[kActions] = {};
  std::vector<bool> readable, writable;  // by field position; hidden ones never
  // Per action: the rows it covers. Not present: all (of the tenant).
  std::shared_ptr<const Predicate> rows[kActions];
  std::string fingerprint;                  // equal for equal rights on the same model
  std::shared_ptr<const WriteRules> rules;  // what the catalog declares about writes, the same for everyone
  bool can(Action action) const { return allowed[static_cast<int>(action)]; }
  const Predicate* where(Action action) const { return rows[static_cast<int>(action)].get(); }
};

// Never fails: a predicate that cannot be read (publish refuses those) covers no row.
AccessPtr MakeAccess(const catalog::Model& model, const catalog::Resource& resource,
                     const std::vector<std::string>& roles);

struct SortKey {
  int field = 0;
  bool descending = false;
  bool nulls_first = false;
  bool nullable = false;
};

// A condition's place in a query for what the client compares with.
struct Argument {
  std::string place;         // its parameter in the URL; empty: can't be exchanged alone
  std::string op;            // as the client wrote it
  catalog::ColumnType type;  // of one value
  bool many = false;         // a list of them
};
// What the client gave: all that differs between queries of one form.
struct Given {
  std::vector<std::string> sent;   // by argument: what cursors are bound to
  std::vector<std::string> bound;  // by argument: the parameter
  std::string cursor;
};
// What becomes of the client's values for one argument, as in Given; a refusal says what is wrong with one of them.
ValueError GiveValues(const Argument& argument, const std::vector<std::string>& values, std::string& sent,
                      std::string& bound, std::vector<Operand>* operands);

struct ListQuery;
struct Expansion {
  std::string name;
  const catalog::Relation* relation = nullptr;
  std::unique_ptr<ListQuery> query;  // of the target
};

enum class Deleted : uint8_t { kHide, kInclude, kOnly };
enum class Count : uint8_t { kNone, kExact, kEstimated };

struct ListQuery {
  const catalog::Resource* resource = nullptr;
  AccessPtr access;
  std::optional<Predicate> filter;
  std::vector<SortKey> sort;  // ends with the key
  std::vector<int> output;    // fields shown, in order
  std::vector<Expansion> expansions;
  int limit = 50;
  int64_t offset = 0;
  std::string cursor;  // as sent
  Count count = Count::kNone;
  Deleted deleted = Deleted::kHide;
  // What a cursor must agree on, beside what was given to the arguments from first_argument up to end_argument: filter,
  // sort, deleted.
  std::string shape;
  int first_argument = 0, end_argument = 0;
  // Of all levels; at the top only.
  std::vector<Argument> arguments;
  Given given;
};

struct ResolveOptions {
  int nested_default_limit = 10, nested_max_limit = 100;
  bool expansions = true;
  int max_leaves = 50;
  // 0: the query's limit stays as it is (exports: 0 means none).
  bool unlimited = false;
};

// Resolves through `access_of`, so that callers can cache rights.
class Resolver {
 public:
  using AccessSource =
      std::function<AccessPtr(const catalog::Resource&)>;  // a cache of rights; none: they are made anew
  Resolver(const catalog::Model& model, const CallContext& context, ResolveOptions options = {},
           AccessSource source = nullptr)
      : model_(model), context_(context), options_(options), source_(std::move(source)) {}
  absl::StatusOr<std::unique_ptr<ListQuery>> Resolve(const catalog::Resource& resource,
                                                     const common::v1::ListQuery& query);
  AccessPtr AccessOf(const catalog::Resource& resource);

 private:
  absl::StatusOr<std::unique_ptr<ListQuery>> ResolveLevel(const catalog::Resource& resource,
                                                          const common::v1::ListQuery& query, int depth, bool nested);
  // Whether there is such a relation for the caller: its target must be readable.
  bool CanFollow(const catalog::Resource& resource, const std::string& relation);
  absl::Status Fields(ListQuery& out, const common::v1::ListQuery& query, int depth,
                      std::map<std::string, std::vector<std::string>>& nested_fields);

  const catalog::Model& model_;
  const CallContext& context_;
  const ResolveOptions options_;
  const AccessSource source_;
  std::map<const catalog::Resource*, AccessPtr> access_;
  int relations_ = 0;
  std::vector<Argument> arguments_;
  Given given_;
};

// What a client's filter asks, apart from what it compares with.
struct FilterForm {
  std::string& shape;
  std::vector<Argument>& arguments;
  Given& given;
};
// One filter tree. `access` and `form`: null for declared row predicates, where {tenant} and {subject} stand for the
// principal's and hidden fields may be named.
absl::StatusOr<Predicate> ResolveFilter(const catalog::Model& model, const catalog::Resource& resource,
                                        const Access* access,
                                        const std::function<AccessPtr(const catalog::Resource&)>& access_of,
                                        const common::v1::Filter& filter, int* leaves_left, FilterForm* form);

// The parts of a path id ("a%2Cb,c"), checked against the key's types. Not a key at all: not-found, like a key of no
// row.
absl::StatusOr<std::vector<std::string>> ParseKey(const catalog::Resource& resource, std::string_view id);
// The other way round, from texts as PostgreSQL prints them.
std::string FormatKey(const catalog::Resource& resource, const std::vector<std::string_view>& parts);

}  // namespace mainstay::records
