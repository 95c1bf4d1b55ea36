// SPDX-License-Identifier: Apache-2.0
#include "libs/base/problem.h"

#include <algorithm>
#include <iterator>

#include "absl/strings/cord.h"
#include "libs/base/json.h"
#include "libs/base/strings.h"

namespace mainstay {
namespace {

using Code = absl::StatusCode;
constexpr char kPayload[] = "mainstay/problem";
constexpr size_t kMaxErrors = 20;

constexpr ProblemType kTypes[] = {
    {"malformed-request", 400, "The request is malformed", Code::kInvalidArgument,
     "The bytes sent are not a well-formed HTTP request, or a part of it that must be single was sent twice. The "
     "connection is closed."},
    {"invalid-parameter", 400, "A parameter is not valid", Code::kInvalidArgument,
     "A query parameter or header is unknown, repeated, or has a value that cannot be used. The errors name each one."},
    {"unknown-field", 400, "A field is not known", Code::kInvalidArgument,
     "The query names a field or relation that does not exist, or that the caller may not see."},
    {"filter-invalid", 400, "The filter is not valid", Code::kInvalidArgument,
     "An operator does not fit the field, a value does not fit the field's type, or the filter is too large or too "
     "deep."},
    {"field-not-sortable", 400, "The list cannot be sorted by this field", Code::kInvalidArgument,
     "Only fields declared as sortable can be used in sort."},
    {"cursor-invalid", 400, "The cursor is not valid", Code::kInvalidArgument,
     "The cursor is broken or has expired (24 hours). Start again from the first page."},
    {"cursor-mismatch", 400, "The cursor belongs to another query", Code::kInvalidArgument,
     "A cursor continues exactly the query that made it: only limit may change. Start again from the first page."},
    {"offset-too-deep", 400, "The offset is too large", Code::kInvalidArgument,
     "Use cursors to go further; they cost the same on every page."},
    {"expand-too-deep", 400, "The expansion is too deep", Code::kInvalidArgument,
     "Relations can be expanded to a depth of three, ten in all."},
    {"query-too-expensive", 400, "The query is too expensive", Code::kInvalidArgument,
     "Ask for fewer rows, fewer expansions, or filter by an indexed field."},
    {"json-invalid", 400, "The body is not valid JSON", Code::kInvalidArgument,
     "The body must be one JSON value in UTF-8 (RFC 8259), without anything after it."},
    {"json-duplicate-key", 400, "The body has a key twice", Code::kInvalidArgument,
     "Every key of a JSON object must be unique (RFC 7493)."},
    {"json-too-deep", 400, "The body is nested too deeply", Code::kInvalidArgument,
     "JSON may be nested to a depth of 32."},
    {"idempotency-key-required", 400, "An idempotency key is required", Code::kInvalidArgument,
     "Send a unique Idempotency-Key header with this request."},
    {"invalid-path", 400, "The path is not valid", Code::kInvalidArgument,
     "The path has a bad escape, an encoded slash, or a dot segment."},
    {"unauthenticated", 401, "Authentication is required", Code::kUnauthenticated,
     "Send a valid key or token as Authorization: Bearer."},
    {"forbidden", 403, "This is not allowed", Code::kPermissionDenied,
     "The key or token is valid, but does not grant this."},
    {"not-found", 404, "Not found", Code::kNotFound, "There is nothing here, or nothing that the caller may see."},
    {"method-not-allowed", 405, "The method is not allowed here", Code::kUnimplemented,
     "The Allow header lists the methods that work."},
    {"not-acceptable", 406, "No acceptable format", Code::kInvalidArgument,
     "None of the formats in Accept can be made."},
    {"request-timeout", 408, "The request took too long to arrive", Code::kDeadlineExceeded,
     "Send the whole request without long pauses."},
    {"unique-violation", 409, "The value is already taken", Code::kAlreadyExists,
     "Another record has this value in a field that must be unique."},
    {"still-referenced", 409, "The record is still referenced", Code::kFailedPrecondition,
     "Other records point to this one; remove them first."},
    {"idempotency-in-progress", 409, "The same request is in progress", Code::kAborted,
     "A request with this idempotency key has not finished yet. Try again later."},
    {"max-affected-exceeded", 409, "Too many records would be affected", Code::kFailedPrecondition,
     "The filter matches more records than max_affected allows. Nothing was changed."},
    {"conflict", 409, "The state does not allow this", Code::kFailedPrecondition,
     "The object is in a state in which this operation makes no sense."},
    {"feed-position-expired", 410, "The position is no longer kept", Code::kOutOfRange,
     "Read the current state again, then follow the feed from now."},
    {"precondition-failed", 412, "The record has changed", Code::kFailedPrecondition,
     "If-Match does not name the record's current version. Read it again."},
    {"content-too-large", 413, "The body is too large", Code::kResourceExhausted,
     "The body exceeds the limit of this route."},
    {"uri-too-long", 414, "The request line is too long", Code::kInvalidArgument,
     "Use the QUERY method for long filters."},
    {"unsupported-media-type", 415, "The content type is not supported", Code::kInvalidArgument,
     "Send application/json, or what the Accept headers of the answer name."},
    {"expectation-failed", 417, "The expectation cannot be met", Code::kInvalidArgument,
     "Only Expect: 100-continue is supported."},
    {"misdirected-request", 421, "The host is not served here", Code::kInvalidArgument,
     "The Host header names a host that this server does not answer for."},
    {"validation-failed", 422, "The request body is not valid", Code::kInvalidArgument,
     "The errors name each wrong field, all at once."},
    {"idempotency-key-reused", 422, "The idempotency key was used for another request", Code::kInvalidArgument,
     "Use a new key for a new request."},
    {"rule-violation", 422, "A rule of the application forbids this", Code::kInvalidArgument,
     "The database refused the change by a rule of its own."},
    {"precondition-required", 428, "If-Match is required", Code::kFailedPrecondition,
     "Read the record first and send its ETag as If-Match."},
    {"quota-exceeded", 429, "Too many requests", Code::kResourceExhausted, "Wait as long as Retry-After says."},
    {"header-too-large", 431, "The header is too large", Code::kInvalidArgument,
     "The header fields exceed the limits in size or number."},
    {"internal", 500, "Something went wrong", Code::kInternal, "The error was logged under the request id."},
    {"not-implemented", 501, "Not implemented", Code::kUnimplemented,
     "The server does not know this method or transfer coding."},
    {"overloaded", 503, "The service is overloaded", Code::kUnavailable,
     "Wait as long as Retry-After says, then try again."},
    {"database-unavailable", 503, "The database is not available", Code::kUnavailable,
     "Wait as long as Retry-After says, then try again."},
    {"service-unavailable", 503, "A part of the suite is not available", Code::kUnavailable,
     "Wait as long as Retry-After says, then try again."},
    {"transaction-conflict", 503, "The change collided with others", Code::kAborted, "Try again."},
    {"read-only", 503, "The database is read-only at the moment", Code::kUnavailable,
     "Wait as long as Retry-After says, then try again."},
    {"resource-unavailable", 503, "This resource is not available", Code::kUnavailable,
     "Its declaration does not fit the database; the operators see why."},
    {"query-timeout", 504, "The query took too long", Code::kDeadlineExceeded,
     "Ask for less, or filter by an indexed field."},
    {"version-not-supported", 505, "The HTTP version is not supported", Code::kUnimplemented, "Use HTTP/1.1."},
};

constexpr absl::Duration kDefaultRetryAfter = absl::Seconds(1);

std::string_view PlaceName(FieldError::Place place) {
  switch (place) {
    case FieldError::Place::kPointer:
      return "pointer";
    case FieldError::Place::kParameter:
      return "parameter";
    case FieldError::Place::kHeader:
      return "header";
  }
  return "pointer";
}

// The payload inside a Status: our own JSON, read back only by Decode.
std::string Encode(const Problem& problem) {
  std::string out;
  JsonWriter json(out);
  json.BeginObject().Key("type").String(problem.type).Key("detail").String(problem.detail);
  if (problem.retry_after) json.Key("retry_after_ms").Int(absl::ToInt64Milliseconds(*problem.retry_after));
  json.Key("errors").BeginArray();
  for (const auto& e : problem.errors) {
    json.BeginObject()
        .Key("place")
        .Int(int(e.place))
        .Key("name")
        .String(e.name)
        .Key("code")
        .String(e.code)
        .Key("detail")
        .String(e.detail)
        .EndObject();
  }
  json.EndArray().Key("members").BeginArray();
  for (const auto& [name, value] : problem.members) json.BeginArray().String(name).String(value).EndArray();
  json.EndArray().EndObject();
  return out;
}

std::optional<Problem> Decode(const absl::Cord& payload) {
  auto document = JsonDocument::Parse(std::string(payload));
  if (!document.ok()) return std::nullopt;
  const auto text = [](const JsonValue& object, std::string_view key) {
    const JsonValue* value = object.Find(key);
    return value != nullptr ? std::string(value->text()) : std::string();
  };
  const JsonValue& root = document->root();
  Problem problem;
  problem.type = text(root, "type");
  problem.detail = text(root, "detail");
  if (const JsonValue* ms = root.Find("retry_after_ms"))
    problem.retry_after = absl::Milliseconds(std::stoll(std::string(ms->text())));
  for (const auto& e : root.Find("errors")->items()) {
    problem.errors.push_back(
        {FieldError::Place(std::stoi(text(e, "place"))), text(e, "name"), text(e, "code"), text(e, "detail")});
  }
  for (const auto& m : root.Find("members")->items())
    problem.members.emplace_back(std::string(m.items()[0].text()), std::string(m.items()[1].text()));
  return problem;
}

// Clients read the message of codes that speak of their own request; of the others it may hold internals.
bool MessageIsForClients(Code code) {
  return code == Code::kInvalidArgument || code == Code::kNotFound || code == Code::kFailedPrecondition ||
         code == Code::kAlreadyExists || code == Code::kOutOfRange;
}

std::string_view SlugOf(Code code) {
  switch (code) {
    case Code::kInvalidArgument:
    case Code::kOutOfRange:
      return "invalid-parameter";
    case Code::kNotFound:
      return "not-found";
    case Code::kAlreadyExists:
      return "unique-violation";
    case Code::kFailedPrecondition:
      return "conflict";
    case Code::kPermissionDenied:
      return "forbidden";
    case Code::kUnauthenticated:
      return "unauthenticated";
    case Code::kUnavailable:
      return "service-unavailable";
    case Code::kDeadlineExceeded:
      return "query-timeout";
    case Code::kAborted:
      return "transaction-conflict";
    case Code::kResourceExhausted:
      return "quota-exceeded";
    case Code::kUnimplemented:
      return "not-implemented";
    default:
      return "internal";
  }
}

}  // namespace

absl::Span<const ProblemType> ProblemTypes() {
  return kTypes;
}

const ProblemType& FindProblemType(std::string_view slug) {
  const auto find = [](std::string_view s) {
    return std::find_if(std::begin(kTypes), std::end(kTypes), [s](const ProblemType& type) { return type.slug == s; });
  };
  const auto found = find(slug);
  return found != std::end(kTypes) ? *found : *find("internal");
}

absl::Status MakeProblem(Problem problem) {
  const ProblemType& type = FindProblemType(problem.type);
  problem.type = std::string(type.slug);
  if (!problem.retry_after &&
      (type.http_status == 503 || type.http_status == 429 || type.slug == "idempotency-in-progress")) {
    problem.retry_after = kDefaultRetryAfter;
  }
  absl::Status status(type.code, ToAbsl(problem.detail.empty() ? type.title : std::string_view(problem.detail)));
  status.SetPayload(kPayload, absl::Cord(Encode(problem)));
  return status;
}

absl::Status MakeProblem(std::string_view slug, std::string_view detail, std::vector<FieldError> errors) {
  return MakeProblem(Problem{.type = std::string(slug), .detail = std::string(detail), .errors = std::move(errors)});
}

Problem ProblemFromStatus(const absl::Status& status) {
  if (const auto payload = status.GetPayload(kPayload)) {
    if (auto problem = Decode(*payload)) return *std::move(problem);
  }
  Problem problem;
  problem.type = std::string(SlugOf(status.code()));
  if (MessageIsForClients(status.code())) problem.detail = std::string(status.message());
  if (status.code() == Code::kUnavailable || status.code() == Code::kResourceExhausted ||
      status.code() == Code::kAborted) {
    problem.retry_after = kDefaultRetryAfter;
  }
  return problem;
}

std::string ProblemJson(const Problem& problem, std::string_view instance, std::string_view request_id) {
  const ProblemType& type = FindProblemType(problem.type);
  std::string out;
  JsonWriter json(out);
  json.BeginObject()
      .Key("type")
      .String(StrCat("/problems/", type.slug))
      .Key("title")
      .String(type.title)
      .Key("status")
      .Int(type.http_status);
  if (!problem.detail.empty()) json.Key("detail").String(problem.detail);
  json.Key("instance").String(instance).Key("request_id").String(request_id);
  for (const auto& [name, value] : problem.members) json.Key(name).Raw(value);
  if (!problem.errors.empty()) {
    json.Key("errors").BeginArray();
    for (size_t i = 0; i < std::min(problem.errors.size(), kMaxErrors); ++i) {
      const FieldError& e = problem.errors[i];
      json.BeginObject()
          .Key(PlaceName(e.place))
          .String(e.name)
          .Key("code")
          .String(e.code)
          .Key("detail")
          .String(e.detail)
          .EndObject();
    }
    json.EndArray();
  }
  json.EndObject();
  return out;
}

}  // namespace mainstay
