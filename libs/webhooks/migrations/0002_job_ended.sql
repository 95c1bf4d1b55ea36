-- SPDX-License-Identifier: Apache-2.0
-- The event of a job that ended without concluding it (dead after its last retry or crash, cancelled, discarded) has failed, in the same transaction, whoever ends
-- the job: nothing stays `received` that nobody works on. It can be replayed then.
CREATE FUNCTION mainstay.fail_webhook_event() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, mainstay AS $$
BEGIN
  UPDATE mainstay.webhook_events e
  SET state = 'failed', processed_at = NEW.finished_at,
      detail = left(CASE WHEN NEW.state = 9 THEN coalesce(NEW.errors -> -1 ->> 'message', nullif(e.detail, ''), 'its job died')
                         ELSE 'its job was ' || mainstay.job_state_name(NEW.state) END, 1000)
  WHERE e.id = mainstay.parse_id('evt', NEW.args ->> 'event') AND e.job_id = NEW.id AND e.state IN ('received', 'failed');
  RETURN NULL;
END $$;
CREATE TRIGGER webhook_event_failed AFTER INSERT ON mainstay.jobs_history FOR EACH ROW
  WHEN (NEW.kind = 'webhooks.process' AND NEW.state IN (7, 8, 9)) EXECUTE FUNCTION mainstay.fail_webhook_event();

-- Those that ended before this.
UPDATE mainstay.webhook_events e
SET state = 'failed', processed_at = h.finished_at, detail = left(coalesce(h.errors -> -1 ->> 'message', nullif(e.detail, ''), 'its job ended before it did'), 1000)
FROM mainstay.jobs_history h
WHERE e.state = 'received' AND h.id = e.job_id AND h.state IN (7, 8, 9);
