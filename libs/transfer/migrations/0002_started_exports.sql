-- SPDX-License-Identifier: Apache-2.0
-- The job kind exports.start makes exports, for schedules: the worker inserts them.
GRANT INSERT ON mainstay.exports TO mainstay_worker;
