// SPDX-License-Identifier: Apache-2.0
#include "services/cli/gateway.h"

#include <curl/curl.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"

namespace mainstay::cli {
namespace {

constexpr size_t kMaxAnswer = 64 << 20;

size_t AppendTo(char* data, size_t size, size_t count, void* out) {
  auto& text = *static_cast<std::string*>(out);
  if (text.size() + size * count > kMaxAnswer) return 0;
  text.append(data, size * count);
  return size * count;
}

// One transfer and its header list.
class Transfer {
 public:
  explicit Transfer(const std::string& url) : curl_(curl_easy_init()), url_(url) {
    curl_easy_setopt(curl_, CURLOPT_URL, url_.c_str());
    curl_easy_setopt(curl_, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(curl_, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl_, CURLOPT_CONNECTTIMEOUT_MS, 5000L);
    curl_easy_setopt(curl_, CURLOPT_USERAGENT, "mainstay-cli/" MAINSTAY_VERSION);
  }
  Transfer(const Transfer&) = delete;
  Transfer& operator=(const Transfer&) = delete;
  ~Transfer() {
    curl_slist_free_all(headers_);
    curl_easy_cleanup(curl_);
  }
  void AddHeader(const std::string& line) { headers_ = curl_slist_append(headers_, line.c_str()); }
  CURL* handle() { return curl_; }
  absl::StatusOr<int> Perform() {
    curl_easy_setopt(curl_, CURLOPT_HTTPHEADER, headers_);
    const CURLcode code = curl_easy_perform(curl_);
    if (code != CURLE_OK) return absl::UnavailableError(StrCat(url_, ": ", curl_easy_strerror(code)));
    long status = 0;
    curl_easy_getinfo(curl_, CURLINFO_RESPONSE_CODE, &status);
    return static_cast<int>(status);
  }

 private:
  CURL* curl_;
  const std::string url_;
  curl_slist* headers_ = nullptr;
};

// The sentence for a person out of problem details.
absl::Status ErrorOf(int status, const std::string& body) {
  std::string message;
  if (const auto document = JsonDocument::Parse(body); document.ok() && document->root().is_object()) {
    const JsonValue& root = document->root();
    message = Text(root, "title");
    if (const std::string detail = Text(root, "detail"); !detail.empty() && detail != message)
      StrAppend(&message, message.empty() ? "" : ": ", detail);
    if (const JsonValue* errors = root.Find("errors"); errors != nullptr && errors->is_array()) {
      for (const JsonValue& error : errors->items()) {
        std::string place = Text(error, "pointer");
        if (place.empty()) place = Text(error, "parameter");
        if (place.empty()) place = Text(error, "header");
        StrAppend(&message, "\n  ", place, ": ", Text(error, "detail"), " (", Text(error, "code"), ")");
      }
    }
    if (const std::string request = Text(root, "request_id"); !request.empty())
      StrAppend(&message, "\n  request ", request);
  }
  if (message.empty()) message = body.substr(0, 200);
  return absl::UnknownError(StrCat("HTTP ", status, ": ", message));
}

struct UploadState {
  std::FILE* file;
  const std::function<void(double)>* progress;
  double size, sent = 0;
};
size_t ReadFile(char* buffer, size_t size, size_t count, void* data) {
  auto& state = *static_cast<UploadState*>(data);
  const size_t n = std::fread(buffer, 1, size * count, state.file);
  if (n == 0 && std::ferror(state.file) != 0) return CURL_READFUNC_ABORT;
  state.sent += static_cast<double>(n);
  if (state.size > 0) (*state.progress)(std::min(1.0, state.sent / state.size));
  return n;
}

// Bytes go to the file only when the answer is a good one; else they are the problem.
struct DownloadState {
  CURL* curl;
  std::FILE* out;
  std::string problem;
};
size_t WriteFile(char* data, size_t size, size_t count, void* target) {
  auto& state = *static_cast<DownloadState*>(target);
  long status = 0;
  curl_easy_getinfo(state.curl, CURLINFO_RESPONSE_CODE, &status);
  if (status >= 400) return AppendTo(data, size, count, &state.problem);
  return std::fwrite(data, size, count, state.out) * size;
}

struct StreamState {
  CURL* curl;
  const std::function<bool(const std::string&)>* line;
  std::string rest, problem;
  bool stopped = false;
};
size_t TakeLines(char* data, size_t size, size_t count, void* target) {
  auto& state = *static_cast<StreamState*>(target);
  long status = 0;
  curl_easy_getinfo(state.curl, CURLINFO_RESPONSE_CODE, &status);
  if (status >= 400) return AppendTo(data, size, count, &state.problem);
  if (AppendTo(data, size, count, &state.rest) == 0) return 0;
  for (size_t end = state.rest.find('\n'); end != std::string::npos; end = state.rest.find('\n')) {
    const std::string line = state.rest.substr(0, end);
    state.rest.erase(0, end + 1);
    if (!line.empty() && !(*state.line)(line)) {
      state.stopped = true;
      return 0;
    }
  }
  return size * count;
}

absl::StatusOr<std::string> ReadKeyFile(const std::string& file) {
  std::ifstream in(file);
  if (!in) return absl::NotFoundError(StrCat("cannot read the API key from ", file));
  std::string key{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  absl::StripAsciiWhitespace(&key);
  return key;
}

}  // namespace

absl::StatusOr<HttpAnswer> HttpGet(const std::string& url, long timeout_ms) {
  HttpAnswer answer;
  Transfer transfer(url);
  curl_easy_setopt(transfer.handle(), CURLOPT_TIMEOUT_MS, timeout_ms);
  curl_easy_setopt(transfer.handle(), CURLOPT_WRITEFUNCTION, AppendTo);
  curl_easy_setopt(transfer.handle(), CURLOPT_WRITEDATA, &answer.body);
  ASSIGN_OR_RETURN(answer.status, transfer.Perform());
  return answer;
}

absl::StatusOr<Gateway> Gateway::FromArguments(const Arguments& arguments) {
  Gateway gateway;
  const auto environment = [](const char* name) -> std::string {
    const char* value = std::getenv(name);
    return value == nullptr ? "" : value;
  };
  gateway.url_ = arguments.Get("url", environment("MAINSTAY_URL"));
  if (gateway.url_.empty()) gateway.url_ = "http://127.0.0.1:8080";
  while (absl::EndsWith(gateway.url_, "/")) gateway.url_.pop_back();
  if (arguments.Has("key-file")) {
    ASSIGN_OR_RETURN(gateway.key_, ReadKeyFile(arguments.Get("key-file")));
  } else if (gateway.key_ = environment("MAINSTAY_KEY"); gateway.key_.empty()) {
    const std::string file = environment("MAINSTAY_KEY_FILE");
    if (file.empty())
      return absl::InvalidArgumentError("--key-file is missing (or set MAINSTAY_KEY_FILE or MAINSTAY_KEY)");
    ASSIGN_OR_RETURN(gateway.key_, ReadKeyFile(file));
  }
  return gateway;
}

absl::StatusOr<std::string> Gateway::Call(const std::string& method, const std::string& path,
                                          const std::string& body) const {
  std::string answer;
  Transfer transfer(StrCat(url_, path));
  transfer.AddHeader(StrCat("Authorization: Bearer ", key_));
  curl_easy_setopt(transfer.handle(), CURLOPT_TIMEOUT_MS, 90000L);
  curl_easy_setopt(transfer.handle(), CURLOPT_WRITEFUNCTION, AppendTo);
  curl_easy_setopt(transfer.handle(), CURLOPT_WRITEDATA, &answer);
  if (method != "GET") {
    transfer.AddHeader("Content-Type: application/json");
    curl_easy_setopt(transfer.handle(), CURLOPT_CUSTOMREQUEST, method.c_str());
    curl_easy_setopt(transfer.handle(), CURLOPT_POSTFIELDS, body.c_str());
    curl_easy_setopt(transfer.handle(), CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(body.size()));
  }
  ASSIGN_OR_RETURN(const int status, transfer.Perform());
  if (status >= 400) return ErrorOf(status, answer);
  return answer;
}

absl::StatusOr<std::string> Gateway::Upload(const std::string& path, const std::string& file,
                                            const std::string& content_type,
                                            const std::function<void(double)>& progress) const {
  std::FILE* in = std::fopen(file.c_str(), "rb");
  if (in == nullptr) return absl::NotFoundError(StrCat("cannot read ", file));
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> closer(in, std::fclose);
  std::fseek(in, 0, SEEK_END);
  const long size = std::ftell(in);
  std::rewind(in);
  std::string answer;
  UploadState state{in, &progress, static_cast<double>(size)};
  Transfer transfer(StrCat(url_, path));
  transfer.AddHeader(StrCat("Authorization: Bearer ", key_));
  transfer.AddHeader(StrCat("Content-Type: ", content_type));
  transfer.AddHeader(StrCat("X-Filename: ", PercentEncode(std::filesystem::path(file).filename().string())));
  curl_easy_setopt(transfer.handle(), CURLOPT_POST, 1L);
  curl_easy_setopt(transfer.handle(), CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(size));
  curl_easy_setopt(transfer.handle(), CURLOPT_READFUNCTION, ReadFile);
  curl_easy_setopt(transfer.handle(), CURLOPT_READDATA, &state);
  curl_easy_setopt(transfer.handle(), CURLOPT_WRITEFUNCTION, AppendTo);
  curl_easy_setopt(transfer.handle(), CURLOPT_WRITEDATA, &answer);
  ASSIGN_OR_RETURN(const int status, transfer.Perform());
  if (status >= 400) return ErrorOf(status, answer);
  return answer;
}

absl::Status Gateway::Download(const std::string& path, std::FILE* out) const {
  Transfer transfer(StrCat(url_, path));
  DownloadState state{transfer.handle(), out, ""};
  transfer.AddHeader(StrCat("Authorization: Bearer ", key_));
  curl_easy_setopt(transfer.handle(), CURLOPT_WRITEFUNCTION, WriteFile);
  curl_easy_setopt(transfer.handle(), CURLOPT_WRITEDATA, &state);
  ASSIGN_OR_RETURN(const int status, transfer.Perform());
  if (status >= 400) return ErrorOf(status, state.problem);
  return absl::OkStatus();
}

absl::Status Gateway::Stream(const std::string& path, const std::function<bool(const std::string&)>& line) const {
  Transfer transfer(StrCat(url_, path));
  StreamState state{.curl = transfer.handle(), .line = &line};
  transfer.AddHeader(StrCat("Authorization: Bearer ", key_));
  curl_easy_setopt(transfer.handle(), CURLOPT_WRITEFUNCTION, TakeLines);
  curl_easy_setopt(transfer.handle(), CURLOPT_WRITEDATA, &state);
  const absl::StatusOr<int> status = transfer.Perform();
  if (state.stopped) return absl::OkStatus();
  if (!status.ok()) return status.status();
  return *status >= 400 ? ErrorOf(*status, state.problem) : absl::OkStatus();
}

std::string Text(const JsonValue& object, std::string_view key) {
  const JsonValue* value = object.Find(key);
  if (value == nullptr || value->is_null()) return "";
  if (value->is_string() || value->is_number()) return std::string(value->text());
  return std::string(value->raw());
}

absl::Status PrintTable(const std::string& json, const std::vector<std::string>& fields) {
  ASSIGN_OR_RETURN(const JsonDocument document, JsonDocument::Parse(json));
  const JsonValue* data = document.root().Find("data");
  if (data == nullptr || !data->is_array()) return absl::InternalError("the answer is not a list");
  std::vector<std::vector<std::string>> rows = {fields};
  for (const JsonValue& item : data->items()) {
    std::vector<std::string>& row = rows.emplace_back();
    for (const std::string& field : fields) row.push_back(Text(item, field));
  }
  std::vector<size_t> widths(fields.size());
  for (const auto& row : rows)
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  for (const auto& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) StrAppend(&line, row[i], std::string(widths[i] - row[i].size() + 2, ' '));
    absl::StripTrailingAsciiWhitespace(&line);
    std::printf("%s\n", line.c_str());
  }
  if (const JsonValue* page = document.root().Find("page"); page != nullptr && Text(*page, "has_more") == "true")
    std::printf("… more: --cursor %s\n", Text(*page, "next_cursor").c_str());
  return absl::OkStatus();
}

absl::Status PrintObject(const std::string& json) {
  ASSIGN_OR_RETURN(const JsonDocument document, JsonDocument::Parse(json));
  if (!document.root().is_object()) return absl::InternalError("the answer is not an object");
  for (const JsonValue::Member& member : document.root().members()) {
    const std::string text = Text(document.root(), member.key);
    if (!text.empty() && text != "[]" && text != "{}")
      std::printf("%-16s %s\n", std::string(member.key).c_str(), text.c_str());
  }
  return absl::OkStatus();
}

absl::Status Show(const Arguments& arguments, const std::string& json) {
  if (!arguments.Has("json")) return PrintObject(json);
  std::printf("%s\n", json.c_str());
  return absl::OkStatus();
}

absl::Status Act(const Arguments& arguments, std::string_view collection, std::string_view action) {
  ASSIGN_OR_RETURN(const Gateway gateway, Gateway::FromArguments(arguments));
  std::string body = "{}";
  if (arguments.Has("reason")) body = StrCat("{\"reason\":", JsonQuote(arguments.Get("reason")), "}");
  ASSIGN_OR_RETURN(const std::string json,
                   gateway.Post(StrCat(collection, "/", PercentEncode(arguments[0]), ":", action), body));
  return Show(arguments, json);
}

absl::Status List(const Arguments& arguments, std::string_view path, const std::vector<std::string>& filters,
                  const std::vector<std::string>& columns, std::string_view more) {
  ASSIGN_OR_RETURN(const Gateway gateway, Gateway::FromArguments(arguments));
  std::string query = StrCat("?limit=", PercentEncode(arguments.Get("limit", "20")));
  for (const std::string& field : filters)
    if (arguments.Has(field)) StrAppend(&query, "&filter[", field, "]=", PercentEncode(arguments.Get(field)));
  StrAppend(&query, more);
  if (arguments.Has("cursor")) StrAppend(&query, "&cursor=", PercentEncode(arguments.Get("cursor")));
  ASSIGN_OR_RETURN(const std::string json, gateway.Get(StrCat(path, query)));
  if (!arguments.Has("json")) return PrintTable(json, columns);
  std::printf("%s\n", json.c_str());
  return absl::OkStatus();
}

}  // namespace mainstay::cli
