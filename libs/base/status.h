// SPDX-License-Identifier: Apache-2.0
// Propagation of absl::Status, as one pair of macros for the whole suite (the installed Abseil has none).
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define MAINSTAY_CONCAT_INNER(a, b) a##b
#define MAINSTAY_CONCAT(a, b) MAINSTAY_CONCAT_INNER(a, b)

// Returns from the enclosing function when `expr` (an absl::Status) is not OK.
#define RETURN_IF_ERROR(expr)                                         \
  do {                                                                \
    if (absl::Status status_ = (expr); !status_.ok()) return status_; \
  } while (false)

// ASSIGN_OR_RETURN(auto row, Read()): returns the status of a failed StatusOr, else moves its value into `lhs`.
#define ASSIGN_OR_RETURN(lhs, expr) ASSIGN_OR_RETURN_IMPL(MAINSTAY_CONCAT(status_or_, __LINE__), lhs, expr)
#define ASSIGN_OR_RETURN_IMPL(var, lhs, expr)    \
  auto var = (expr);                             \
  if (!var.ok()) return std::move(var).status(); \
  lhs = *std::move(var)

// The same inside a coroutine.
#define CO_RETURN_IF_ERROR(expr)                                         \
  do {                                                                   \
    if (absl::Status status_ = (expr); !status_.ok()) co_return status_; \
  } while (false)
#define CO_ASSIGN_OR_RETURN(lhs, expr) CO_ASSIGN_OR_RETURN_IMPL(MAINSTAY_CONCAT(status_or_, __LINE__), lhs, expr)
#define CO_ASSIGN_OR_RETURN_IMPL(var, lhs, expr)    \
  auto var = (expr);                                \
  if (!var.ok()) co_return std::move(var).status(); \
  lhs = *std::move(var)
