// SPDX-License-Identifier: Apache-2.0
// What a worker and its children say to each other over their socket pair. Both ends are the same program of the same
// build, so the layout has no version. Inside the engine.
//
// A frame is its length (32 bits, of what follows), its type (8 bits) and fields: numbers as varints, text as length
// and bytes. Neither end trusts the other's numbers: a frame that does not decode, or is longer than kMaxFrame, ends
// the conversation (and the child).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "libs/jobs/in_hand.h"

namespace mainstay::jobs {

enum class FrameType : uint8_t {
  // To the child.
  kJobs = 1,    // jobs to run: (slot, whether it follows the one before it, JobData)…
  kStop,        // slot, why: tell the handler
  kRecall,      // send back what has not started
  kNoteAnswer,  // to kNote: request, status code, message
  // To the worker.
  kReady = 16,  // handlers are registered, jobs may come
  kResults,     // ChildResult…
  kNote,        // request, slot, checkpoint or progress, JSON
};

// Jobs travel in frames of at most kMaxJobs or about kFullFrame bytes; arguments of one job may exceed the latter.
inline constexpr size_t kMaxJobs = 20, kFullFrame = 256 << 10, kMaxFrame = 16 << 20;

class FrameWriter {
 public:
  // Appends one frame to `out`; finished by the destructor.
  FrameWriter(std::string& out, FrameType type);
  ~FrameWriter();
  FrameWriter(const FrameWriter&) = delete;
  FrameWriter& operator=(const FrameWriter&) = delete;
  FrameWriter& Number(uint64_t value);
  FrameWriter& Text(std::string_view text);

 private:
  std::string& out_;
  const size_t start_;
};

class FrameReader {
 public:
  explicit FrameReader(std::string_view body) : rest_(body) {}
  uint64_t Number();
  std::string_view Text();
  bool done() const { return rest_.empty(); }
  bool ok() const { return ok_; }  // false: what was read since is meaningless

 private:
  std::string_view rest_;
  bool ok_ = true;
};

// Takes whole frames off the front of what was read from a socket.
class FrameBuffer {
 public:
  // Where the next read may write, and how much it wrote.
  char* Space(size_t bytes);
  void Wrote(size_t bytes) { end_ += bytes; }
  // The next whole frame's type and body, valid until the next call of Space; nullopt: not there yet.
  std::optional<std::pair<FrameType, std::string_view>> Next();
  bool broken() const { return broken_; }  // longer than kMaxFrame

 private:
  std::string data_;
  size_t begin_ = 0, end_ = 0;
  bool broken_ = false;
};

void WriteJob(FrameWriter& frame, const JobData& job);
bool ReadJob(FrameReader& frame, JobData& job);

struct ChildResult {
  uint32_t slot = 0;
  bool unstarted = false;    // recalled: nothing below counts
  int64_t ran_us = 0;        // in the handler, at least 1
  bool finished_in = false;  // by the handler's own transaction
  bool fenced = false;       // the handler was told that the job is no longer ours
  Outcome outcome;
  std::vector<Handout> successors;
};
void WriteResult(FrameWriter& frame, const ChildResult& result);
bool ReadResult(FrameReader& frame, ChildResult& result);

}  // namespace mainstay::jobs
