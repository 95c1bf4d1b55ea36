// SPDX-License-Identifier: Apache-2.0
#include "libs/records/changes.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "libs/base/json.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/records/list.h"
#include "libs/records/value.h"

namespace mainstay::records {
namespace {

using catalog::Field;
using catalog::Resource;

// Columns of both queries, in front of the images'.
enum Column : int { kXid, kId, kOperation, kAt, kSubject, kKey, kSawBefore, kSeesAfter, kImages };

std::vector<int> Shown(const Resource& resource, const Access& access) {
  std::vector<int> out;
  for (const Field& field : resource.fields)
    if (access.readable[static_cast<size_t>(field.position)]) out.push_back(field.position);
  return out;
}

void NamedColumns(const Resource& resource, const Predicate& predicate, PgArray& out) {
  if (predicate.kind == Predicate::Kind::kCondition)
    out.Add(resource.fields[static_cast<size_t>(predicate.field)].column);
  if (predicate.kind == Predicate::Kind::kRelated) {
    for (const std::string& column : predicate.relation->columns) out.Add(column);
    return;  // what stands inside is about the other table
  }
  for (const Predicate& child : predicate.children) NamedColumns(resource, child, out);
}

// The image `column` of c, unfolded as `alias`, is one the caller may see.
std::string Sees(SqlBuilder& sql, const Resource& resource, const Access& access, std::string_view column,
                 const std::string& alias, Deleted deleted) {
  const Predicate* rows = access.where(Action::kRead);
  PgArray needed;
  if (rows != nullptr) NamedColumns(resource, *rows, needed);
  if (resource.tenant >= 0) needed.Add(resource.fields[static_cast<size_t>(resource.tenant)].column);
  return StrCat("COALESCE(c.", column, " ?& ", sql.Bind(std::move(needed).Finish(), "text[]"), " AND (",
                sql.Scope(alias, resource, rows, deleted), "), false)");
}

std::string Unfold(const Resource& resource, std::string_view column, std::string_view alias) {
  return StrCat(" LEFT JOIN LATERAL jsonb_populate_record(NULL::", TableOf(resource), ", c.", column, ") ", alias,
                " ON c.", column, " IS NOT NULL");
}

std::string Head(const std::string& saw, const std::string& sees) {
  return StrCat(
      R"(SELECT c.xid::text, c.id::text, c.operation, to_char(c.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), )",
      "c.subject, c.key::text, ", saw, ", ", sees);
}

void RenderImage(const Resource& resource, const std::vector<int>& shown, const Rows& rows, int row, int column,
                 std::string& out) {
  out += '{';
  for (size_t i = 0; i < shown.size(); ++i) {
    const Field& field = resource.fields[static_cast<size_t>(shown[i])];
    StrAppend(&out, i > 0 ? ",\"" : "\"", field.name, "\":");
    const int at = column + static_cast<int>(i);
    if (rows.IsNull(row, at)) {
      out += "null";
    } else {
      AppendJsonValue(field.type, rows.Get(row, at), out);
    }
  }
  out += '}';
}

bool Flag(const Rows& rows, int row, int column) {
  return !rows.IsNull(row, column) && rows.Get(row, column) == "t";
}

}  // namespace

std::string FormatPosition(const FeedPosition& position) {
  return StrCat(position.xid, "-", position.id);
}

std::optional<FeedPosition> ParsePosition(std::string_view text) {
  const size_t dash = text.find('-');
  FeedPosition out;
  if (dash == std::string_view::npos || text.size() > 40 || !absl::SimpleAtoi(ToAbsl(text.substr(0, dash)), &out.xid) ||
      !absl::SimpleAtoi(ToAbsl(text.substr(dash + 1)), &out.id) || out.id < 0 || FormatPosition(out) != text)
    return std::nullopt;
  return out;
}

FeedPosition PositionOf(const Rows& rows, int row) {
  FeedPosition out;
  (void)absl::SimpleAtoi(ToAbsl(rows.Get(row, kXid)), &out.xid);
  (void)absl::SimpleAtoi(ToAbsl(rows.Get(row, kId)), &out.id);
  return out;
}

void BuildHistory(SqlBuilder& sql, const Resource& resource, const Access& access, const std::vector<std::string>& key,
                  const std::optional<FeedPosition>& before, int limit) {
  PgArray parts;
  for (const std::string& part : key) parts.Add(part);
  std::string where = StrCat("c.resource = ", sql.Bind(resource.name, "text"),
                             " AND c.key = ", sql.Bind(std::move(parts).Finish(), "text[]"));
  if (resource.tenant >= 0 && !sql.all_tenants()) StrAppend(&where, " AND c.tenant = ", sql.Tenant());
  if (before.has_value())
    StrAppend(&where, " AND (c.xid, c.id) < (", sql.Bind(StrCat(before->xid), "xid8"), ", ",
              sql.Bind(StrCat(before->id), "bigint"), ")");
  // Deleted rows have a history too.
  const std::string saw = Sees(sql, resource, access, "before", "b", Deleted::kInclude);
  const std::string sees = Sees(sql, resource, access, "after", "a", Deleted::kInclude);
  std::string images;
  for (const char* alias : {"b", "a"})
    for (int p : Shown(resource, access))
      StrAppend(&images, ", ", records::Column(alias, resource.fields[static_cast<size_t>(p)]));
  sql.text = StrCat(Head(saw, sees), images, " FROM mainstay.record_changes c", Unfold(resource, "before", "b"),
                    Unfold(resource, "after", "a"), " WHERE ", where, " AND (", saw, " OR ", sees,
                    ") ORDER BY c.xid DESC, c.id DESC LIMIT ", limit + 1);
}

void RenderHistory(const Resource& resource, const Access& access, const Rows& rows, int row, std::string& out) {
  const std::vector<int> shown = Shown(resource, access);
  const int n = static_cast<int>(shown.size());
  const bool saw = Flag(rows, row, kSawBefore), sees = Flag(rows, row, kSeesAfter);
  StrAppend(&out, "{\"event\":\"", rows.Get(row, kOperation), "\",\"at\":\"", rows.Get(row, kAt),
            "\",\"by\":", JsonQuote(rows.Get(row, kSubject)), ",\"changed\":[");
  bool first = true;
  for (int i = 0; i < n && saw && sees; ++i) {
    const int old = kImages + i, now = kImages + n + i;
    const bool same = rows.IsNull(row, old) == rows.IsNull(row, now) &&
                      (rows.IsNull(row, old) || rows.Get(row, old) == rows.Get(row, now));
    if (same) continue;
    StrAppend(&out, first ? "\"" : ",\"", resource.fields[static_cast<size_t>(shown[static_cast<size_t>(i)])].name,
              "\"");
    first = false;
  }
  out += "],\"before\":";
  if (saw) {
    RenderImage(resource, shown, rows, row, kImages, out);
  } else {
    out += "null";
  }
  out += ",\"after\":";
  if (sees) {
    RenderImage(resource, shown, rows, row, kImages + n, out);
  } else {
    out += "null";
  }
  out += '}';
}

void BuildFeed(SqlBuilder& sql, const Resource& resource, const Access& access, const FeedPosition& after, int limit) {
  std::string where = StrCat("c.resource = ", sql.Bind(resource.name, "text"));
  if (resource.tenant >= 0 && !sql.all_tenants()) StrAppend(&where, " AND c.tenant = ", sql.Tenant());
  if (resource.tenant < 0) where += " AND c.tenant = ''";
  StrAppend(&where, " AND (c.xid, c.id) > (", sql.Bind(StrCat(after.xid), "xid8"), ", ",
            sql.Bind(StrCat(after.id), "bigint"), ") AND c.xid < pg_snapshot_xmin(pg_current_snapshot())");
  // What is deleted softly has left the view like what is gone.
  const std::string saw = Sees(sql, resource, access, "before", "b", Deleted::kHide);
  const std::string sees = Sees(sql, resource, access, "after", "a", Deleted::kHide);
  std::string images;
  for (int p : Shown(resource, access))
    StrAppend(&images, ", ", records::Column("a", resource.fields[static_cast<size_t>(p)]));
  sql.text = StrCat(Head(saw, sees), images, " FROM (SELECT * FROM mainstay.record_changes c WHERE ", where,
                    " ORDER BY c.xid, c.id LIMIT ", limit, ") c", Unfold(resource, "before", "b"),
                    Unfold(resource, "after", "a"), " ORDER BY c.xid, c.id");
}

void RenderFeedEvent(const Resource& resource, const Access& access, const Rows& rows, int row, std::string& out) {
  const bool saw = Flag(rows, row, kSawBefore), sees = Flag(rows, row, kSeesAfter);
  if (!saw && !sees) return;
  const auto key = ParsePgArray(rows.Get(row, kKey));
  std::vector<std::string_view> parts;
  if (key.has_value())
    for (const auto& part : *key) parts.push_back(part.has_value() ? std::string_view(*part) : std::string_view());
  StrAppend(&out, "id: ", FormatPosition(PositionOf(rows, row)), "\nevent: ",
            !sees ? "removed"
            : saw ? "updated"
                  : "created",
            "\ndata: {\"id\":", JsonQuote(FormatKey(resource, parts)), ",\"at\":\"", rows.Get(row, kAt), "\"");
  if (sees) {
    out += ",\"record\":";
    RenderImage(resource, Shown(resource, access), rows, row, kImages, out);
  }
  out += "}\n\n";
}

}  // namespace mainstay::records
