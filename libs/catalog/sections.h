// SPDX-License-Identifier: Apache-2.0
// Internal: one entry of each section of the catalog. A Read… is one kind of map of the reference in README.md and one
// definition of catalog.schema.json; a test keeps the three in step. Mistakes go to the context, reading goes on.
#pragma once

#include <string>

#include "libs/catalog/reader.h"

namespace mainstay::catalog {

// parse_resources.cc
ResourceDeclaration ReadResource(Reader::Context& context, const Yaml::Member& member, const std::string& path);
Role ReadRole(Reader::Context& context, const Yaml::Member& member, const std::string& path);
// parse_sources.cc
Source ReadSource(Reader::Context& context, const Yaml::Member& member, const std::string& path);
// parse_providers.cc
Provider ReadProvider(Reader::Context& context, const Yaml::Member& member, const std::string& path);
// parse_work.cc
Queue ReadQueue(Reader::Context& context, const Yaml::Member& member, const std::string& path);
Schedule ReadSchedule(Reader::Context& context, const Yaml::Member& member, const std::string& path);
ImportMapping ReadImport(Reader::Context& context, const Yaml::Member& member, const std::string& path);
ExportMapping ReadExport(Reader::Context& context, const Yaml::Member& member, const std::string& path);
TrafficLimit ReadLimit(Reader::Context& context, const Yaml::Member& member, const std::string& path);

}  // namespace mainstay::catalog
