# SPDX-License-Identifier: Apache-2.0
# Writes OUT: the file IN as adjacent C++ raw string literals (compilers limit the length of one).
file(READ ${IN} text)
string(LENGTH "${text}" length)
set(literals "")
set(at 0)
while(at LESS length)
  string(SUBSTRING "${text}" ${at} 8000 piece)
  string(APPEND literals "R\"__json__(${piece})__json__\"\n")
  math(EXPR at "${at} + 8000")
endwhile()
file(WRITE ${OUT} "${literals}")
