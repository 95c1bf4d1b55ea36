// SPDX-License-Identifier: Apache-2.0
#include "libs/records/prepared.h"

#include <functional>

#include "libs/records/plan.h"
#include "libs/records/value.h"

namespace mainstay::records {
namespace {
constexpr size_t kSlots = 4096;
}

postgres::SqlPtr SqlCache::Get(std::string sql) {
  const size_t hash = std::hash<std::string_view>()(sql);
  if (slots_.empty() || used_ > kSlots / 2) {
    slots_.assign(kSlots, {});
    used_ = 0;
  }
  for (size_t i = hash & (kSlots - 1);; i = (i + 1) & (kSlots - 1)) {
    auto& [slot_hash, slot] = slots_[i];
    if (slot == nullptr) {
      slot_hash = hash;
      slot = std::make_shared<const postgres::Sql>(std::move(sql));
      ++used_;
      return slot;
    }
    if (slot_hash == hash && slot->text == sql) return slot;
  }
}

std::optional<std::string> PrincipalValue(const std::string& text, const catalog::ColumnType* type) {
  if (type == nullptr) return text;
  std::string value;
  if (!ConvertText(*type, text, value).ok()) return std::nullopt;
  return value;
}

Prepared::Prepared(SqlBuilder&& sql, SqlCache* cache)
    : sql_(cache != nullptr ? cache->Get(std::move(sql.text))
                            : std::make_shared<const postgres::Sql>(std::move(sql.text))),
      params_(std::move(sql.params)),
      sources_(std::move(sql.sources)),
      reusable_(sql.reusable) {
  for (const auto& [param, source] : sources_) params_[static_cast<size_t>(param)].reset();
}

void Fill(const std::vector<std::pair<int, Source>>& sources, const Values& values, postgres::Params& params) {
  for (const auto& [param, source] : sources) {
    std::optional<std::string>& value = params[static_cast<size_t>(param)];
    const auto index = static_cast<size_t>(source.index);
    switch (source.kind) {
      case Source::Kind::kTenant:
        value = PrincipalValue(values.context.principal.tenant, source.type);
        break;
      case Source::Kind::kSubject:
        value = PrincipalValue(values.context.principal.subject, source.type);
        break;
      case Source::Kind::kArgument:
        value = values.given->bound[index];
        break;
      case Source::Kind::kKey:
        value = values.keys[index];
        break;
      case Source::Kind::kPosition:
        value = values.position->values[index];
        break;
    }
  }
}

postgres::Params Prepared::Fill(const Values& values) const {
  postgres::Params params = params_;
  records::Fill(sources_, values, params);
  return params;
}

}  // namespace mainstay::records
