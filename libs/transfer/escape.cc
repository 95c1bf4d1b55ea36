// SPDX-License-Identifier: Apache-2.0
#include "libs/transfer/escape.h"

namespace mainstay::transfer {

bool MayHoldFormula(const catalog::ColumnType& type) {
  using catalog::TypeFamily;
  if (type.array) return true;
  switch (type.family) {
    case TypeFamily::kBool:
    case TypeFamily::kInt16:
    case TypeFamily::kInt32:
    case TypeFamily::kInt64:
    case TypeFamily::kDecimal:
    case TypeFamily::kFloat32:
    case TypeFamily::kFloat64:
    case TypeFamily::kUuid:
    case TypeFamily::kDate:
    case TypeFamily::kTime:
    case TypeFamily::kTimestamp:
    case TypeFamily::kTimestampTz:
      return false;
    default:
      return true;
  }
}

}  // namespace mainstay::transfer
