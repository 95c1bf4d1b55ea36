// SPDX-License-Identifier: Apache-2.0
#include "libs/jobs/frames.h"

#include <cstring>

namespace mainstay::jobs {
namespace {

constexpr size_t kHead = 5;

uint64_t Micros(absl::Duration duration) {
  return static_cast<uint64_t>(std::max<int64_t>(0, absl::ToInt64Microseconds(duration)));
}
absl::Duration Duration(uint64_t micros) {
  return absl::Microseconds(static_cast<int64_t>(micros));
}

}  // namespace

FrameWriter::FrameWriter(std::string& out, FrameType type) : out_(out), start_(out.size()) {
  out_.append(4, '\0');
  out_ += static_cast<char>(type);
}

FrameWriter::~FrameWriter() {
  const auto size = static_cast<uint32_t>(out_.size() - start_ - 4);
  std::memcpy(out_.data() + start_, &size, 4);
}

FrameWriter& FrameWriter::Number(uint64_t value) {
  while (value >= 0x80) {
    out_ += static_cast<char>(value | 0x80);
    value >>= 7;
  }
  out_ += static_cast<char>(value);
  return *this;
}

FrameWriter& FrameWriter::Text(std::string_view text) {
  Number(text.size());
  out_.append(text);
  return *this;
}

uint64_t FrameReader::Number() {
  uint64_t value = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    if (rest_.empty()) break;
    const auto byte = static_cast<uint8_t>(rest_.front());
    rest_.remove_prefix(1);
    value |= static_cast<uint64_t>(byte & 0x7f) << shift;
    if (byte < 0x80) return value;
  }
  ok_ = false;
  rest_ = {};
  return 0;
}

std::string_view FrameReader::Text() {
  const uint64_t size = Number();
  if (size > rest_.size()) {
    ok_ = false;
    rest_ = {};
    return {};
  }
  const std::string_view text = rest_.substr(0, size);
  rest_.remove_prefix(size);
  return text;
}

char* FrameBuffer::Space(size_t bytes) {
  if (begin_ == end_) begin_ = end_ = 0;
  if (data_.size() < end_ + bytes) {
    data_.erase(0, begin_);
    end_ -= begin_;
    begin_ = 0;
    if (data_.size() < end_ + bytes) data_.resize(end_ + bytes);
  }
  return data_.data() + end_;
}

std::optional<std::pair<FrameType, std::string_view>> FrameBuffer::Next() {
  if (broken_ || end_ - begin_ < kHead) return std::nullopt;
  uint32_t size;
  std::memcpy(&size, data_.data() + begin_, 4);
  if (size == 0 || size > kMaxFrame) {
    broken_ = true;
    return std::nullopt;
  }
  if (end_ - begin_ < 4 + static_cast<size_t>(size)) return std::nullopt;
  const auto type = static_cast<FrameType>(data_[begin_ + 4]);
  const std::string_view body(data_.data() + begin_ + kHead, size - 1);
  begin_ += 4 + size;
  return std::make_pair(type, body);
}

void WriteJob(FrameWriter& frame, const JobData& job) {
  frame.Text(Bytes(job.id))
      .Number(static_cast<uint64_t>(job.fence))
      .Number(static_cast<uint64_t>(job.attempt))
      .Number(static_cast<uint64_t>(job.max_attempts))
      .Number(static_cast<uint64_t>(job.version))
      .Text(job.kind)
      .Text(job.queue)
      .Text(job.args)
      .Text(job.checkpoint)
      .Text(job.tenant)
      .Text(job.principal)
      .Text(job.traceparent)
      .Text(job.request_id)
      .Number(Micros(job.soft_limit))
      .Number(static_cast<uint64_t>(job.backoff.kind))
      .Number(Micros(job.backoff.base))
      .Number(Micros(job.backoff.cap))
      .Number(Micros(job.backoff.floor));
}

bool ReadJob(FrameReader& frame, JobData& job) {
  const std::string_view id = frame.Text();
  if (id.size() != job.id.bytes.size()) return false;
  std::memcpy(job.id.bytes.data(), id.data(), id.size());
  job.fence = static_cast<int64_t>(frame.Number());
  job.attempt = static_cast<int>(frame.Number());
  job.max_attempts = static_cast<int>(frame.Number());
  job.version = static_cast<int>(frame.Number());
  job.kind = frame.Text();
  job.queue = frame.Text();
  job.args = frame.Text();
  job.checkpoint = frame.Text();
  job.tenant = frame.Text();
  job.principal = frame.Text();
  job.traceparent = frame.Text();
  job.request_id = frame.Text();
  job.soft_limit = Duration(frame.Number());
  job.backoff.kind = frame.Number() == 0 ? BackoffPolicy::Kind::kExponential : BackoffPolicy::Kind::kFixed;
  job.backoff.base = Duration(frame.Number());
  job.backoff.cap = Duration(frame.Number());
  job.backoff.floor = Duration(frame.Number());
  return frame.ok();
}

void WriteResult(FrameWriter& frame, const ChildResult& r) {
  frame.Number(r.slot).Number((r.unstarted ? 1 : 0) | (r.finished_in ? 2 : 0) | (r.fenced ? 4 : 0) |
                              (r.outcome.after.has_value() ? 8 : 0));
  if (r.unstarted) return;
  frame.Number(static_cast<uint64_t>(r.ran_us))
      .Number(static_cast<uint64_t>(r.outcome.kind))
      .Text(r.outcome.result == "null" ? std::string_view() : r.outcome.result)
      .Text(r.outcome.code)
      .Text(r.outcome.message);
  if (r.outcome.after.has_value()) frame.Number(Micros(*r.outcome.after));
  frame.Number(r.successors.size());
  for (const Handout& next : r.successors) frame.Text(next.stream).Text(next.entry);
}

bool ReadResult(FrameReader& frame, ChildResult& r) {
  r = ChildResult();
  r.slot = static_cast<uint32_t>(frame.Number());
  const uint64_t flags = frame.Number();
  r.unstarted = (flags & 1) != 0;
  r.finished_in = (flags & 2) != 0;
  r.fenced = (flags & 4) != 0;
  if (r.unstarted) return frame.ok();
  r.ran_us = static_cast<int64_t>(frame.Number());
  const uint64_t kind = frame.Number();
  if (kind > static_cast<uint64_t>(Outcome::Kind::kDead)) return false;
  r.outcome.kind = static_cast<Outcome::Kind>(kind);
  if (const std::string_view result = frame.Text(); !result.empty()) r.outcome.result = result;
  r.outcome.code = frame.Text();
  r.outcome.message = frame.Text();
  if ((flags & 8) != 0) r.outcome.after = Duration(frame.Number());
  for (uint64_t n = frame.Number(); n > 0 && frame.ok(); --n) {
    Handout& next = r.successors.emplace_back();
    next.stream = frame.Text();
    next.entry = frame.Text();
  }
  return frame.ok();
}

}  // namespace mainstay::jobs
