// SPDX-License-Identifier: Apache-2.0
#include "libs/jobs/in_hand.h"

#include <charconv>

#include "absl/strings/str_cat.h"
#include "libs/base/clock.h"
#include "libs/jobs/flow_sql.h"

namespace mainstay::jobs {

void CompleteArrays::Add(const Uuid& id, int64_t fence, int state, const std::string* result, std::string_view code,
                         std::string_view message, int counted, double seconds) {
  ++size;
  ids.Add(id.ToString());
  fences.Add(absl::StrCat(fence));
  states.Add(absl::StrCat(state));
  result != nullptr&&* result != "null" ? results.Add(*result) : results.AddNull();
  if (code.empty()) {
    codes.AddNull();
    messages.AddNull();
  } else {
    codes.Add(code);
    messages.Add(message);
  }
  ran.Add(absl::StrCat(counted));
  took.Add(absl::StrCat(seconds));
}

void RetryArrays::Add(const Uuid& id, int64_t fence, absl::Duration delay, std::string_view code,
                      std::string_view message) {
  ++size;
  ids.Add(id.ToString());
  fences.Add(absl::StrCat(fence));
  delays.Add(absl::StrCat(absl::ToDoubleSeconds(delay)));
  if (code.empty()) {
    codes.AddNull();
    messages.AddNull();
  } else {
    codes.Add(code);
    messages.Add(message);
  }
}

Handout ReadHandout(const pqxx::row& row, Entry* out) {
  Entry entry{.fence = row[1].as<int64_t>(), .attempt = row[2].as<int>(), .kind = row[3].c_str()};
  if (const auto id = ParseUuid(row[0].c_str()); id.ok()) entry.id = *id;
  if (!row[6].is_null()) entry.args = row[6].c_str();
  Handout handout{StreamKey(row[4].c_str(), row[5].as<int>()), EncodeEntry(entry)};
  if (out != nullptr) *out = std::move(entry);
  return handout;
}

int64_t Complete(pqxx::transaction_base& tx, CompleteArrays&& batch, const Uuid* worker, const std::string& worker_name,
                 std::vector<int64_t>* freed, std::vector<Handout>* handouts) {
  const std::string worker_id = worker != nullptr ? worker->ToString() : "";
  const pqxx::result rows =
      Run(tx, sql::kComplete, std::move(batch.ids).Finish(), std::move(batch.fences).Finish(),
          std::move(batch.states).Finish(), std::move(batch.results).Finish(), std::move(batch.codes).Finish(),
          std::move(batch.messages).Finish(), std::move(batch.ran).Finish(), std::move(batch.took).Finish(),
          worker != nullptr ? worker_id.c_str() : static_cast<const char*>(nullptr), worker_name);
  const auto row = rows[0];
  if (!row[1].is_null()) {
    for (const auto& next : Run(tx, sql::kPassKeys, row[1].c_str(), row[2].c_str()))
      handouts->push_back(ReadHandout(next));
    auto parser = row[2].as_array();
    for (auto item = parser.get_next(); item.first != pqxx::array_parser::juncture::done; item = parser.get_next()) {
      if (item.first == pqxx::array_parser::juncture::string_value) freed->push_back(std::stoll(item.second));
    }
  }
  // After the slots, which jobs of other flows may be waiting for.
  if (!row[3].is_null()) Run(tx, sql::kFinishFlowJobs, row[3].c_str(), row[4].c_str());
  return row[0].as<int64_t>();
}

absl::Time Mono() {
  return absl::UnixEpoch() + Clock::Real().Monotonic();
}

std::string CleanText(std::string_view text, size_t limit) {
  std::string clean(TruncateUtf8(text, limit));
  for (char& c : clean) {
    if (c == '\0') c = ' ';
  }
  if (!IsValidUtf8(clean)) {
    for (char& c : clean) {
      if (static_cast<unsigned char>(c) >= 0x80) c = '?';
    }
  }
  return clean;
}

}  // namespace mainstay::jobs
