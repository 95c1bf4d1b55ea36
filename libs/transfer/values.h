// SPDX-License-Identifier: Apache-2.0
// A cell's text as a value of its field. The field's type decides; nothing is guessed per cell, and nothing is rounded,
// moved through a zone or cut in silence.
//
// What comes out is PostgreSQL's own text form, checked by records::ValidateValue as every other write is. Pure; one
// parser per column, used by one thread.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/time/time.h"
#include "libs/catalog/model.h"

namespace mainstay::transfer {

struct CellError {
  std::string code;  // "cell.invalid_number"
  std::string message;
  std::string suggestion;
};

// Without the white space at both ends, NBSP, zero-width space and byte order mark included.
std::string_view TrimCell(std::string_view text);

// The import's code for a violation of records' validation: "too_long" → "cell.too_long".
std::string CellCode(std::string_view code, const catalog::Field& field);

// '.' or ',' when this number can only be read with that decimal mark; 0 when it tells nothing ("1,234", "12").
char ProvenDecimalMark(std::string_view text);

class ValueParser {
 public:
  // `locale`: "en", "de", "de-CH": decides the decimal mark where the column does not. `zone`: for times without an
  // offset; empty: they are errors.
  ValueParser(const catalog::Field& field, std::string_view locale, std::string_view zone);
  // The sample's cells of the column, before the first Parse: what they prove outweighs the locale unless they
  // contradict one another.
  void Learn(std::string_view cell);
  // "column.mixed_locale" or "column.ambiguous_number" after learning; empty: fine.
  std::string warning() const;

  // nullopt without an error: blank. With errors: wrong.
  std::optional<std::string> Parse(std::string_view cell, std::vector<CellError>& errors) const;

 private:
  std::optional<std::string> ParseBool(std::string_view text, std::vector<CellError>& errors) const;
  std::optional<std::string> ParseNumber(std::string_view text, bool integer, std::vector<CellError>& errors) const;
  std::optional<std::string> ParseDate(std::string_view text, std::vector<CellError>& errors) const;
  std::optional<std::string> ParseTimestamp(std::string_view text, bool with_zone,
                                            std::vector<CellError>& errors) const;
  std::optional<std::string> ParseEnum(std::string_view text, std::vector<CellError>& errors) const;
  char decimal_mark() const;

  const catalog::Field& field_;
  char locale_mark_ = '.';
  std::optional<absl::TimeZone> zone_;
  int proofs_of_point_ = 0, proofs_of_comma_ = 0, undecided_ = 0;
};

}  // namespace mainstay::transfer
