// SPDX-License-Identifier: Apache-2.0
#include "libs/jobs/promoter.h"

#include "absl/strings/str_cat.h"
#include "libs/base/status.h"

namespace mainstay::jobs {
namespace {

constexpr int kBatch = 500;
constexpr int kBatches = 4;                 // per call
constexpr int kPairs = 200, kPerPair = 20;  // of queue and tenant, in a flood
constexpr int kLimitKeys = 500;
constexpr int kLooseKeys = 2000;  // per call

}  // namespace

absl::StatusOr<int> Promoter::Release(const std::vector<std::string>& ids) {
  PgArray array;
  for (const auto& id : ids) array.Add(id);
  const std::string text = std::move(array).Finish();
  std::vector<Handout> handouts;
  PgArray key_array;
  bool any_key = false;
  int released = 0;
  RETURN_IF_ERROR(context_.Query([&](pqxx::transaction_base& tx) -> absl::Status {
    for (const auto& row : Run(tx, sql::kPromoteDue, text, context_.routes)) {
      ++released;
      Entry entry;
      Handout handout = ReadHandout(row, &entry);
      const int state = row[7].as<int>();
      if (state == kStateReady) {
        context_.returned[{row[4].c_str(), row[5].as<int>()}].push_back(entry.id);
      } else if (state == kStatePublished || (row[9].as<bool>() && row[10].is_null())) {
        handouts.push_back(std::move(handout));
      } else if (!row[8].is_null() && !row[9].as<bool>()) {
        key_array.Add(row[8].c_str());
        any_key = true;
      }
    }
    return absl::OkStatus();
  }));
  if (any_key) {
    const std::string keys = std::move(key_array).Finish();
    RETURN_IF_ERROR(context_.Query([&](pqxx::transaction_base& tx) -> absl::Status {
      for (const auto& row : Run(tx, sql::kPromoteKeys, keys)) handouts.push_back(ReadHandout(row));
      return absl::OkStatus();
    }));
  }
  if (!context_.redis_away) context_.Publish(handouts).IgnoreError();  // what Redis did not take is the sweeper's
  return released;
}

absl::StatusOr<bool> Promoter::Due() {
  for (int i = 0; i < kBatches; ++i) {
    std::vector<std::string> ids;
    RETURN_IF_ERROR(context_.Query([&](pqxx::transaction_base& tx) -> absl::Status {
      ids.clear();
      for (const auto& row : Run(tx, sql::kDue, kBatch)) ids.emplace_back(row[0].c_str());
      return absl::OkStatus();
    }));
    if (ids.empty()) return false;
    const bool flood = static_cast<int>(ids.size()) == kBatch;
    RETURN_IF_ERROR(Release(ids).status());
    if (!flood) return false;
  }
  // More are due than one batch after the other can bring: whoever stands behind the millions gets a turn as well.
  std::vector<std::string> ids;
  int pairs = 0;
  RETURN_IF_ERROR(context_.Query([&](pqxx::transaction_base& tx) -> absl::Status {
    ids.clear();
    std::string queue = queue_, tenant = tenant_, last;
    pairs = 0;
    for (const auto& row : Run(tx, sql::kDueTurns, queue, tenant, kPairs, kPerPair)) {
      if (!row[0].is_null()) ids.emplace_back(row[0].c_str());
      if (queue_ != row[1].c_str() || tenant_ != row[2].c_str()) ++pairs;
      queue_ = row[1].c_str();
      tenant_ = row[2].c_str();
    }
    return absl::OkStatus();
  }));
  if (pairs < kPairs) queue_.clear(), tenant_.clear();
  if (!ids.empty()) RETURN_IF_ERROR(Release(ids).status());
  return true;
}

absl::StatusOr<bool> Promoter::LooseKeys() {
  std::vector<Handout> handouts;
  bool more = false;
  RETURN_IF_ERROR(context_.Query([&](pqxx::transaction_base& tx) -> absl::Status {
    PgArray keys;
    Run(tx, sql::kLooseRuns);
    const pqxx::result loose = Run(tx, sql::kLooseKeys, kLooseKeys);
    more = static_cast<int>(loose.size()) >= kLooseKeys;
    if (loose.empty()) return absl::OkStatus();
    for (const auto& row : loose) keys.Add(row[0].c_str());
    for (const auto& row : Run(tx, sql::kPromoteKeys, std::move(keys).Finish())) handouts.push_back(ReadHandout(row));
    return absl::OkStatus();
  }));
  if (!context_.redis_away) RETURN_IF_ERROR(context_.Publish(handouts));
  return more;
}

absl::Status Promoter::Limits() {
  return context_.Query([&](pqxx::transaction_base& tx) -> absl::Status {
    const std::string after = limit_hash_.has_value() ? absl::StrCat(*limit_hash_) : "";
    std::optional<int64_t> last;
    for (const auto& row : Run(tx, sql::kGrantLimits, limit_hash_.has_value() ? after.c_str() : nullptr, kLimitKeys)) {
      if (row[0].is_null()) {
        if (!row[4].is_null()) last = row[4].as<int64_t>();
        continue;
      }
      ASSIGN_OR_RETURN(const Uuid id, ParseUuid(row[0].c_str()));
      context_.returned[{row[2].c_str(), row[3].as<int>()}].push_back(id);
    }
    limit_hash_ = last;
    return absl::OkStatus();
  });
}

}  // namespace mainstay::jobs
