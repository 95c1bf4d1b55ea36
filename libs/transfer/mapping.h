// SPDX-License-Identifier: Apache-2.0
// Which column of the file goes into which field, and whether the caller may write it: settled before any row is read.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "libs/base/principal.h"
#include "libs/catalog/model.h"
#include "libs/records/merge.h"

namespace mainstay::transfer {

struct MappedColumn {
  int column = -1;  // in the file
  int field = -1;   // in the resource
};

struct Mapping {
  std::vector<MappedColumn> columns;
  std::vector<std::string> key;       // fields that identify a row; empty only for mode create
  int status_column = -1;             // `_status` of a report of ours that was sent back
  std::vector<std::string> warnings;  // "header.unknown: Fax"
};

// "E-Mail", "e_mail" and "e mail" fold to the same.
std::string FoldName(std::string_view name);

// Whether a header cell (cleaned) names something of this resource; for detection.
bool NamesField(const catalog::Resource& resource, const catalog::ImportMapping* declared, std::string_view header);

// May this principal import into the resource in this mode at all? `forbidden` with a sentence when not. Fields and
// rows are checked later again.
absl::Status CheckAllowed(const catalog::Resource& resource, const Principal& principal, records::MergeMode mode);
bool Readable(const catalog::Resource& resource, const Principal& principal, const catalog::Field& field);

// `headers`: cleaned, in file order. `key`: asked for, may be empty. A mistake of the file is a tabular::Refusal:
// header.missing_required, header.forbidden, header.duplicate.
absl::StatusOr<Mapping> MapColumns(const catalog::Resource& resource, const catalog::ImportMapping* declared,
                                   const Principal& principal, records::MergeMode mode,
                                   const std::vector<std::string>& key, const std::vector<std::string>& headers);

absl::StatusOr<records::MergeMode> ParseMode(std::string_view mode);

}  // namespace mainstay::transfer
