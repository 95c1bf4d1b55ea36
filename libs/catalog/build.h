// SPDX-License-Identifier: Apache-2.0
// Declarations + the live tables → the Model, with every default filled in and every reference checked.
//
// Two readers: `check` and `publish` refuse on any mistake; a service that loads a published catalog goes on with what
// is right, and a resource that no longer fits its table is only marked broken (Resource::problem), so one ALTER TABLE
// never stops the others. Pure functions, any thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "libs/catalog/introspect.h"
#include "libs/catalog/model.h"
#include "libs/catalog/parse.h"

namespace mainstay::catalog {

struct Built {
  std::shared_ptr<const Model> model;
  std::vector<Mistake> mistakes;  // what check and publish refuse
  std::vector<Mistake> warnings;  // what they only mention
};
Built Build(const Document& document, const Database& database);

// The public name of a column: itself where it is one ([a-z][a-z0-9_]{0,62}), else made so: "Total Amount" →
// total_amount, "createdAt" → created_at, "größe" → grosse.
std::string PublicName(std::string_view column);

// The nearest of `candidates` to a misspelt name, or "" when none is near.
std::string Nearest(std::string_view name, const std::vector<std::string>& candidates);

}  // namespace mainstay::catalog
