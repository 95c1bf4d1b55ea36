// SPDX-License-Identifier: Apache-2.0
// Sources, schedules, imports and exports against what they use: resources, providers, queues, roles.
#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_join.h"
#include "libs/base/strings.h"
#include "libs/catalog/builder.h"
#include "libs/catalog/filter_text.h"

namespace mainstay::catalog {

const Resource* Builder::TargetResource(const std::string& path, const std::string& name,
                                        const std::set<std::string>& broken) {
  if (name.empty()) return nullptr;
  const Resource* resource = model_->FindResource(name);
  if (resource == nullptr) Fail(path, StrCat("there is no resource \"", name, "\"", Hint(name, ResourceNames())));
  return resource == nullptr || broken.contains(name) ? nullptr : resource;
}

bool Builder::IsKey(const Resource& resource, const std::vector<std::string>& fields) const {
  auto with_tenant = [&](std::vector<int> positions) {
    if (resource.tenant >= 0) positions.push_back(resource.tenant);
    return std::set<int>(positions.begin(), positions.end());
  };
  std::vector<int> given;
  for (const std::string& name : fields) {
    const Field* field = resource.FindField(name);
    if (field == nullptr) return true;  // said elsewhere
    given.push_back(field->position);
  }
  const std::set<int> wanted = with_tenant(given);
  if (wanted == with_tenant(resource.key)) return true;
  return std::any_of(resource.unique_keys.begin(), resource.unique_keys.end(),
                     [&](const std::vector<int>& key) { return with_tenant(key) == wanted; });
}

std::string Builder::KeyChoices(const Resource& resource) const {
  std::vector<std::string> choices;
  auto add = [&](const std::vector<int>& key) {
    std::vector<std::string> names;
    for (int position : key)
      if (position != resource.tenant || key.size() == 1) names.push_back(resource.fields[position].name);
    choices.push_back(StrCat("[", absl::StrJoin(names, ", "), "]"));
  };
  add(resource.key);
  for (const std::vector<int>& key : resource.unique_keys) add(key);
  return absl::StrJoin(choices, " or ");
}

void Builder::CheckSources(const std::set<std::string>& broken) {
  for (const auto& [name, source] : model_->sources) {
    for (size_t i = 0; i < source.routes.size(); ++i) {
      const Route& route = source.routes[i];
      const std::string path = StrCat("sources.", name, ".routes[", i, "]");
      if (route.fetch) CheckFetch(path + ".fetch", *route.fetch);
      if (route.job && !model_->queues.contains(route.job->queue))
        Fail(path + ".job.queue",
             StrCat("there is no queue \"", route.job->queue, "\"", Hint(route.job->queue, Keys(model_->queues))));
      for (size_t j = 0; j < route.apply.size(); ++j)
        CheckApply(StrCat(path, ".apply[", j, "]"), "source:" + name, route.apply[j], broken);
    }
  }
}

void Builder::CheckFetch(const std::string& path, const FetchRoute& fetch) {
  if (fetch.provider.empty() || fetch.operation.empty()) return;
  auto provider = model_->providers.find(fetch.provider);
  if (provider == model_->providers.end()) {
    Fail(path + ".provider",
         StrCat("there is no provider \"", fetch.provider, "\"", Hint(fetch.provider, Keys(model_->providers))));
    return;
  }
  auto operation = provider->second.operations.find(fetch.operation);
  if (operation == provider->second.operations.end()) {
    Fail(path + ".operation", StrCat("the provider ", fetch.provider, " has no operation \"", fetch.operation, "\"",
                                     Hint(fetch.operation, Keys(provider->second.operations))));
    return;
  }
  std::vector<std::string> known;
  for (std::string param : operation->second.params) {
    const bool optional = absl::EndsWith(param, "?");
    if (optional) param.pop_back();
    if (!optional && !fetch.params.contains(param))
      Fail(path + ".params", StrCat("the operation ", fetch.operation, " needs the parameter \"", param, "\""));
    known.push_back(std::move(param));
  }
  for (const auto& [param, expression] : fetch.params)
    if (!Contains(known, param))
      Fail(StrCat(path, ".params.", param),
           StrCat("the operation ", fetch.operation, " has no parameter \"", param, "\"", Hint(param, known)), true);
}

void Builder::CheckApply(const std::string& path, const std::string& role, const ApplyRoute& apply,
                         const std::set<std::string>& broken) {
  const Resource* resource = TargetResource(path + ".resource", apply.resource, broken);
  if (resource == nullptr) return;
  auto found = resource->permissions.find(role);
  const bool creates = apply.mode != "update", updates = apply.mode != "create";
  if (found == resource->permissions.end()) {
    Fail(path + ".resource", StrCat("the role ", role, " may not write to ", apply.resource, "; add under resources.",
                                    apply.resource, ".permissions: `'", role, "': {actions: [read, create, update]}`"));
    return;
  }
  const Permission& permission = found->second;
  if (creates && !permission.create)
    Fail(path + ".mode", StrCat("the role ", role, " lacks the action create on ", apply.resource));
  if (updates && !permission.update)
    Fail(path + ".mode", StrCat("the role ", role, " lacks the action update on ", apply.resource));
  for (size_t i = 0; i < apply.key.size(); ++i) {
    VisibleField(StrCat(path, ".key[", i, "]"), *resource, apply.key[i]);
    if (!apply.map.contains(apply.key[i]))
      Fail(StrCat(path, ".key[", i, "]"), StrCat("the key's field \"", apply.key[i], "\" has no value in `map`"));
  }
  if (!apply.key.empty() && !IsKey(*resource, apply.key))
    Fail(path + ".key",
         StrCat("does not identify a row of ", apply.resource, "; its keys are ", KeyChoices(*resource)));
  if (apply.key.empty()) {
    for (int position : resource->key)
      if (!apply.map.contains(resource->fields[position].name) && updates)
        Fail(path + ".map", StrCat("the key's field \"", resource->fields[position].name, "\" has no value"));
  }
  for (const auto& [name, expression] : apply.map) {
    const std::string place = StrCat(path, ".map.", name);
    const Field* field = VisibleKeyed(place, *resource, name);
    if (field == nullptr) continue;
    const bool identifies =
        Contains(apply.key, name) || (apply.key.empty() && std::find(resource->key.begin(), resource->key.end(),
                                                                     field->position) != resource->key.end());
    if (identifies && !creates) continue;
    if (field->position == resource->tenant) {
      Fail(place, "the tenant comes from the source (`tenant` or `tenant_from`), not from a mapping", true);
    } else if (field->read_only) {
      Fail(place,
           StrCat("the field \"", name, "\" is read-only",
                  identifies ? "; say `client_key: true` at the resource if the sender chooses the key" : ""),
           true);
    } else if (!permission.all_fields_writable && !Contains(permission.writable, name)) {
      Fail(place, StrCat("the role ", role, " may not write the field \"", name, "\" of ", apply.resource), true);
    }
    if (field->type.family == TypeFamily::kEnum && absl::StartsWith(expression, "const:") &&
        !Contains(field->type.enum_values, expression.substr(6)))
      Fail(place, StrCat("\"", expression.substr(6), "\" is no value of ", field->type.name,
                         Hint(expression.substr(6), field->type.enum_values)));
  }
  if (!apply.stale_field.empty()) {
    const Field* field = VisibleField(path + ".stale", *resource, apply.stale_field);
    if (field != nullptr && !apply.map.contains(apply.stale_field))
      Fail(path + ".stale", StrCat("the field \"", apply.stale_field, "\" has no value in `map` to compare with"));
    if (field != nullptr && !IsOrdered(field->type))
      Fail(path + ".stale", StrCat("values of type ", field->type.name, " have no order"));
  }
  if (!apply.status_field.empty()) {
    const Field* field = VisibleField(path + ".transitions.field", *resource, apply.status_field);
    if (field != nullptr && field->type.family == TypeFamily::kEnum) {
      const std::vector<std::string>& labels = field->type.enum_values;
      for (const auto& [from, targets] : apply.transitions) {
        const std::string place = StrCat(path, ".transitions.allowed.", from);
        if (!Contains(labels, from))
          Fail(place, StrCat("\"", from, "\" is no value of ", field->type.name, Hint(from, labels)), true);
        for (size_t i = 0; i < targets.size(); ++i)
          if (!Contains(labels, targets[i]))
            Fail(StrCat(place, "[", i, "]"),
                 StrCat("\"", targets[i], "\" is no value of ", field->type.name, Hint(targets[i], labels)));
      }
    }
  }
}

const Field* Builder::VisibleKeyed(const std::string& path, const Resource& resource, const std::string& name) {
  const Field* field = resource.FindField(name);
  if (field != nullptr && !field->hidden) return field;
  Fail(path,
       field == nullptr
           ? StrCat("the resource ", resource.name, " has no field \"", name, "\"", Hint(name, FieldNames(resource)))
           : StrCat("the field \"", name, "\" is hidden"),
       true);
  return nullptr;
}

void Builder::CheckSchedules() {
  for (const auto& [name, schedule] : model_->schedules) {
    if (!model_->queues.contains(schedule.queue))
      Fail(StrCat("schedules.", name, ".queue"),
           StrCat("there is no queue \"", schedule.queue, "\"", Hint(schedule.queue, Keys(model_->queues))));
    if (!schedule.role.empty() && schedule.role != "admin" && !model_->roles.contains(schedule.role))
      Fail(StrCat("schedules.", name, ".role"),
           StrCat("there is no role \"", schedule.role, "\"", Hint(schedule.role, Keys(model_->roles))));
  }
}

void Builder::CheckImports(const std::set<std::string>& broken) {
  for (auto& [name, import] : model_->imports) {
    const std::string path = "imports." + name;
    const Resource* resource = TargetResource(path + ".resource", import.resource, broken);
    if (resource == nullptr) continue;
    if (resource->read_only) Fail(path + ".resource", StrCat("the resource ", import.resource, " is read-only"));
    bool known = true;
    for (size_t i = 0; i < import.key.size(); ++i)
      known &= VisibleField(StrCat(path, ".key[", i, "]"), *resource, import.key[i]) != nullptr;
    if (known && !import.key.empty() && !IsKey(*resource, import.key))
      Fail(path + ".key",
           StrCat("does not identify a row of ", import.resource, "; its keys are ", KeyChoices(*resource)));
    for (const auto& [header, field_name] : import.columns) {
      const std::string place = StrCat(path, ".columns.", header);
      const Field* field = VisibleField(place, *resource, field_name);
      const bool identifies =
          field != nullptr && (Contains(import.key, field_name) || std::find(resource->key.begin(), resource->key.end(),
                                                                             field->position) != resource->key.end());
      if (field != nullptr && field->read_only && !identifies)
        Fail(place, StrCat("the field \"", field_name, "\" is read-only"));
    }
  }
}

void Builder::CheckExports(const std::set<std::string>& broken) {
  for (auto& [name, mapping] : model_->exports) {
    const std::string path = "exports." + name;
    const Resource* resource = TargetResource(path + ".resource", mapping.resource, broken);
    if (resource == nullptr) continue;
    for (size_t i = 0; i < mapping.fields.size(); ++i)
      VisibleField(StrCat(path, ".fields[", i, "]"), *resource, mapping.fields[i]);
    std::string problem = FilterTextProblem(*model_, *resource, mapping.query, {.sort = true});
    if (!problem.empty()) Fail(path + ".query", problem);
  }
}

}  // namespace mainstay::catalog
