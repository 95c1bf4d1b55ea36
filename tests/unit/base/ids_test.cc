// SPDX-License-Identifier: Apache-2.0
#include "libs/base/ids.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <set>

namespace mainstay {

TEST_CASE("ids read back, and only under their own prefix") {
  for (int i = 0; i < 1000; ++i) {
    const Uuid uuid = NewUuid();
    const std::string id = FormatId("job", uuid);
    REQUIRE(id.size() == 30);
    REQUIRE(*ParseId("job", id) == uuid);
    REQUIRE(*ParseUuid(uuid.ToString()) == uuid);
  }
  const std::string id = NewId("job");
  CHECK_FALSE(ParseId("evt", id).ok());
  CHECK_FALSE(ParseId("job", id + "0").ok());
  CHECK_FALSE(ParseId("job", id.substr(0, 29)).ok());
  CHECK_FALSE(ParseId("job", "job_" + std::string(26, 'u')).ok());
  CHECK_FALSE(ParseId("job", "job_8" + std::string(25, '0')).ok());
  CHECK(ParseId("job", "job_7" + std::string(25, 'z')).ok());
  CHECK_FALSE(ParseId("job", "JOB_7" + std::string(25, 'z')).ok());
}

TEST_CASE("the text form is fixed: 128 bits behind two zero bits") {
  Uuid uuid;
  uuid.bytes = {0x01, 0x90, 0xa1, 0xb2, 0xc3, 0xd4, 0x7e, 0x5f, 0x8a, 0x9b, 0x0c, 0x1d, 0x2e, 0x3f, 0x4a, 0x5b};
  CHECK(uuid.ToString() == "0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b");
  CHECK(FormatId("job", uuid) == "job_01j2gv5gymfsfrn6rc3mq3yjjv");
  CHECK(*ParseId("job", FormatId("job", uuid)) == uuid);
}

TEST_CASE("uuids are version 7, unique and ordered by time to the millisecond") {
  std::set<Uuid> seen;
  Uuid last;
  for (int i = 0; i < 10000; ++i) {
    const Uuid uuid = NewUuid();
    REQUIRE((uuid.bytes[6] & 0xf0) == 0x70);
    REQUIRE((uuid.bytes[8] & 0xc0) == 0x80);
    REQUIRE(seen.insert(uuid).second);
    const bool same_millisecond = std::equal(last.bytes.begin(), last.bytes.begin() + 6, uuid.bytes.begin());
    REQUIRE((same_millisecond || last < uuid));
    last = uuid;
  }
}

TEST_CASE("what is not a uuid is refused") {
  CHECK_FALSE(ParseUuid("").ok());
  CHECK_FALSE(ParseUuid("0190a1b2c3d47e5f8a9b0c1d2e3f4a5b").ok());
  CHECK_FALSE(ParseUuid("0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5g").ok());
}

}  // namespace mainstay
