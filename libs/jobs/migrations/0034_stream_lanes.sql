-- SPDX-License-Identifier: Apache-2.0
-- Which of a worker's kinds run only at the ends of its streams: those always have lanes, so that nothing is read for a program that has no credit.
ALTER TABLE mainstay.job_workers ADD COLUMN lanes text[] NOT NULL DEFAULT '{}';
