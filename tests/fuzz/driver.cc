// SPDX-License-Identifier: Apache-2.0
// For builds without libFuzzer: NAME SEEDS DICTIONARY. Mutates the seeds a hundred thousand times (MAINSTAY_TEST_LONG:
// ten million times), always the same way; ends with 1 when hardly any input was accepted.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

std::string input;

void Show(int) {
  const ssize_t written = write(2, input.data(), input.size()) + write(2, "\n", 1);
  _exit(written > 0 ? 134 : 135);
}

std::string Read(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// libFuzzer's form: a quoted word per line, with \\, \" and \xNN.
std::vector<std::string> Dictionary(const std::filesystem::path& path) {
  std::vector<std::string> words;
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) {
    if (line.size() < 2 || line.front() != '"') continue;
    std::string word;
    for (size_t i = 1; i + 1 < line.size(); ++i) {
      if (line[i] != '\\') {
        word += line[i];
      } else if (line[++i] == 'x') {
        word += static_cast<char>(std::stoi(line.substr(i + 1, 2), nullptr, 16));
        i += 2;
      } else {
        word += line[i];
      }
    }
    words.push_back(word);
  }
  return words;
}

void Run(const std::string& text) {
  input = text;
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(text.data()), text.size());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "Usage: %s SEEDS DICTIONARY\n", argv[0]);
    return 2;
  }
  signal(SIGABRT, Show);
  signal(SIGSEGV, Show);
  std::vector<std::filesystem::path> files(std::filesystem::directory_iterator(argv[1]), {});
  std::ranges::sort(files);
  std::vector<std::string> seeds, words = Dictionary(argv[2]);
  for (const auto& file : files) seeds.push_back(Read(file));
  if (seeds.empty()) {
    std::fprintf(stderr, "%s holds no seeds\n", argv[1]);
    return 2;
  }
  words.emplace_back();
  for (const std::string& seed : seeds) Run(seed);
  std::mt19937 random(20261127);
  const auto pick = [&](size_t n) { return static_cast<size_t>(random() % n); };
  const int rounds = std::getenv("MAINSTAY_TEST_LONG") != nullptr ? 10'000'000 : 100'000;
  for (int round = 0; round < rounds; ++round) {
    std::string text = seeds[pick(seeds.size())];
    for (size_t edits = 1 + pick(4); edits > 0; --edits) {
      const size_t at = pick(text.size() + 1), length = std::min(pick(6), text.size() - at);
      const std::string& other = seeds[pick(seeds.size())];
      switch (pick(5)) {
        case 0:
          text.replace(at, length, words[pick(words.size())]);
          break;
        case 1:
          text.erase(at, length);
          break;
        case 2:
          text.insert(at, text.substr(pick(text.size() + 1), pick(20)));
          break;
        case 3:
          text.insert(at, other.substr(pick(other.size() + 1), pick(40)));
          break;
        default:
          if (at < text.size()) text[at] = static_cast<char>(pick(256));
      }
    }
    Run(text);
  }
  std::printf("%d inputs, %lld accepted\n", rounds, static_cast<long long>(mainstay::fuzz::accepted));
  return mainstay::fuzz::accepted > rounds / 200 ? 0 : 1;
}
