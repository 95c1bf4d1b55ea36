// SPDX-License-Identifier: Apache-2.0
#include "libs/tabular/encoding.h"

#include <uchardet.h>
#include <unicode/normalizer2.h>
#include <unicode/ucnv.h>
#include <unicode/unistr.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"

namespace mainstay::tabular {
namespace {

// A sample may end inside a character.
std::string_view WithoutCutCharacter(std::string_view text) {
  for (size_t back = 1; back <= 3 && back <= text.size(); ++back) {
    const auto byte = static_cast<unsigned char>(text[text.size() - back]);
    if (byte < 0x80) break;
    if (byte >= 0xC0) return text.substr(0, text.size() - back);
  }
  return text;
}

// Bytes that windows-1252 leaves undefined; ICU would let them through as control characters.
bool UndefinedIn1252(char c) {
  switch (static_cast<unsigned char>(c)) {
    case 0x81:
    case 0x8D:
    case 0x8F:
    case 0x90:
    case 0x9D:
      return true;
    default:
      return false;
  }
}

bool DecodesCleanly(std::string_view sample, std::string_view encoding, bool complete) {
  auto source = DecodeToUtf8(std::make_unique<MemorySource>(sample), encoding);
  if (!source.ok()) return false;
  std::string text;
  while (true) {
    auto piece = (*source)->Next();
    if (!piece.ok()) return false;
    if (piece->empty()) break;
    text += *piece;
  }
  // One bad mark at the very end is the cut of the sample.
  if (!complete && !text.empty() && text.back() == '\xFF') text.pop_back();
  return text.find('\xFF') == std::string::npos;
}

std::string AskUchardet(std::string_view sample) {
  uchardet_t detector = uchardet_new();
  std::string name;
  if (uchardet_handle_data(detector, sample.data(), sample.size()) == 0) {
    uchardet_data_end(detector);
    name = uchardet_get_charset(detector);
  }
  uchardet_delete(detector);
  return absl::AsciiStrToLower(name);
}

class PassThrough : public ByteSource {
 public:
  explicit PassThrough(std::unique_ptr<ByteSource> source) : source_(std::move(source)) {}
  absl::StatusOr<std::string_view> Next() override {
    auto piece = source_->Next();
    if (!piece.ok() || started_) return piece;
    // The mark may come in several pieces.
    while (head_.size() < 3) {
      if (!piece.ok()) return piece;
      if (piece->empty()) break;
      head_ += *piece;
      if (head_.size() < 3) piece = source_->Next();
    }
    started_ = true;
    std::string_view out = head_;
    if (absl::StartsWith(head_, "\xEF\xBB\xBF")) out.remove_prefix(3);
    if (out.empty() && !head_.empty()) return source_->Next();
    return out;
  }

 private:
  std::unique_ptr<ByteSource> source_;
  std::string head_;
  bool started_ = false;
};

class IcuSource : public ByteSource {
 public:
  IcuSource(std::unique_ptr<ByteSource> source, UConverter* converter, bool windows1252)
      : source_(std::move(source)), converter_(converter), windows1252_(windows1252) {}
  ~IcuSource() override { ucnv_close(converter_); }

  absl::StatusOr<std::string_view> Next() override {
    out_.clear();
    while (out_.empty() && !ended_) {
      auto piece = source_->Next();
      if (!piece.ok()) return piece.status();
      ended_ = piece->empty();
      Convert(*piece, ended_);
    }
    return std::string_view(out_);
  }

 private:
  void Convert(std::string_view bytes, bool flush) {
    if (!windows1252_) return ConvertRun(bytes, flush);
    while (!bytes.empty()) {
      const auto bad = std::find_if(bytes.begin(), bytes.end(), UndefinedIn1252);
      const size_t length = static_cast<size_t>(bad - bytes.begin());
      ConvertRun(bytes.substr(0, length), false);
      bytes.remove_prefix(length);
      if (!bytes.empty()) {
        out_ += '\xFF';
        bytes.remove_prefix(1);
      }
    }
  }

  void ConvertRun(std::string_view bytes, bool flush) {
    const char* from = bytes.data();
    const char* end = from + bytes.size();
    while (true) {
      // Pieces fit into the target, so that no surrogate pair is ever cut by it.
      const char* stop = std::min(end, from + kRun);
      UChar target[kRun + 64];
      UChar* to = target;
      UErrorCode error = U_ZERO_ERROR;
      ucnv_toUnicode(converter_, &to, target + std::size(target), &from, stop, nullptr, flush && stop == end, &error);
      if (to != target) {
        std::string text;
        icu::UnicodeString(false, target, static_cast<int32_t>(to - target)).toUTF8String(text);
        if (!begun_ && absl::StartsWith(text, "\xEF\xBB\xBF")) text.erase(0, 3);
        begun_ = true;
        out_ += text;
      }
      if (error == U_INVALID_CHAR_FOUND || error == U_ILLEGAL_CHAR_FOUND || error == U_TRUNCATED_CHAR_FOUND) {
        begun_ = true;
        out_ += '\xFF';
        if (error == U_TRUNCATED_CHAR_FOUND) return;
        continue;
      }
      if (error == U_BUFFER_OVERFLOW_ERROR) continue;
      if (U_FAILURE(error)) {
        out_ += '\xFF';
        return;
      }
      if (from == end) return;
    }
  }

  static constexpr size_t kRun = 8192;
  std::unique_ptr<ByteSource> source_;
  UConverter* converter_;
  const bool windows1252_;
  bool begun_ = false;
  bool ended_ = false;
  std::string out_;
};

}  // namespace

EncodingGuess DetectEncoding(std::string_view sample, bool complete) {
  if (absl::StartsWith(ToAbsl(sample), "\xEF\xBB\xBF")) return {"utf-8", 3, true};
  if (absl::StartsWith(ToAbsl(sample), "\xFF\xFE")) return {"utf-16le", 2, true};
  if (absl::StartsWith(ToAbsl(sample), "\xFE\xFF")) return {"utf-16be", 2, true};
  // UTF-16 without a mark: text in it has a NUL in nearly every other byte.
  size_t even = 0, odd = 0;
  for (size_t i = 0; i < sample.size(); ++i)
    if (sample[i] == '\0') ++(i % 2 == 0 ? even : odd);
  const size_t pairs = sample.size() / 2;
  if (pairs >= 2 && odd * 2 > pairs && even * 10 < odd) return {"utf-16le", 0, false};
  if (pairs >= 2 && even * 2 > pairs && odd * 10 < even) return {"utf-16be", 0, false};
  if (IsValidUtf8(complete ? sample : WithoutCutCharacter(sample))) return {"utf-8", 0, true};

  // A single-byte guess between the western code pages is not worth more than windows-1252, which contains them; a
  // multi-byte or Cyrillic one is believed when there is enough of it and it decodes without a fault.
  const auto high = static_cast<size_t>(
      std::count_if(sample.begin(), sample.end(), [](char c) { return static_cast<unsigned char>(c) >= 0x80; }));
  static constexpr std::string_view kBelieved[] = {"shift_jis", "gb18030", "euc-kr",       "uhc",
                                                   "euc-jp",    "big5",    "windows-1251", "koi8-r"};
  if (high >= 8) {
    const std::string guess = AskUchardet(sample.substr(0, 256 << 10));
    for (std::string_view name : kBelieved)
      if (guess == name && DecodesCleanly(sample, name, complete))
        return {std::string(name == "uhc" ? "windows-949" : name), 0, false};
  }
  return {"windows-1252", 0, false};
}

absl::StatusOr<std::unique_ptr<ByteSource>> DecodeToUtf8(std::unique_ptr<ByteSource> source,
                                                         std::string_view encoding) {
  const std::string name = absl::AsciiStrToLower(ToAbsl(encoding));
  if (name == "utf-8" || name == "utf8") return std::unique_ptr<ByteSource>(new PassThrough(std::move(source)));
  UErrorCode error = U_ZERO_ERROR;
  UConverter* converter = ucnv_open(name == "uhc" ? "windows-949" : name.c_str(), &error);
  if (U_FAILURE(error)) return absl::InvalidArgumentError(StrCat("unknown encoding ", encoding));
  ucnv_setToUCallBack(converter, UCNV_TO_U_CALLBACK_STOP, nullptr, nullptr, nullptr, &error);
  const bool windows1252 = name == "windows-1252" || name == "cp1252";
  return std::unique_ptr<ByteSource>(new IcuSource(std::move(source), converter, windows1252));
}

std::string NormalizeNfc(std::string_view text) {
  if (std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; }))
    return std::string(text);
  UErrorCode error = U_ZERO_ERROR;
  const icu::Normalizer2* nfc = icu::Normalizer2::getNFCInstance(error);
  if (U_FAILURE(error)) return std::string(text);
  const auto unicode = icu::UnicodeString::fromUTF8(icu::StringPiece(text.data(), static_cast<int32_t>(text.size())));
  std::string out;
  nfc->normalize(unicode, error).toUTF8String(out);
  return U_FAILURE(error) ? std::string(text) : out;
}

}  // namespace mainstay::tabular
