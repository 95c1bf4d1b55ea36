-- SPDX-License-Identifier: Apache-2.0
-- Who works at the ends of a worker's streams, for the list of workers: services/worker/stream_runner.h.
ALTER TABLE mainstay.job_workers ADD COLUMN streams json NOT NULL DEFAULT '[]';
