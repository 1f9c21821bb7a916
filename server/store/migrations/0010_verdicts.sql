-- +goose Up

-- peer names who is at the other end, '' if that is not known: of an agent's control link
-- the life of its process, of all others the client's address inside the tailnet. The
-- word is how the row was closed, where the verdict on all testimonies is another; the
-- columns from locus on are that verdict's, NULL before there is one. waits: a witness has
-- not spoken yet.
ALTER TABLE connections ADD COLUMN peer TEXT NOT NULL DEFAULT '';
ALTER TABLE connections ADD COLUMN word_reason SMALLINT;
ALTER TABLE connections ADD COLUMN word_initiator SMALLINT;
ALTER TABLE connections ADD COLUMN word_detail TEXT;
ALTER TABLE connections ADD COLUMN locus TEXT;
ALTER TABLE connections ADD COLUMN rule SMALLINT;
ALTER TABLE connections ADD COLUMN evidence SMALLINT;
ALTER TABLE connections ADD COLUMN confidence SMALLINT;
ALTER TABLE connections ADD COLUMN observer SMALLINT;
ALTER TABLE connections ADD COLUMN waits BOOLEAN NOT NULL DEFAULT FALSE;

CREATE INDEX connections_by_peer ON connections (peer, key) WHERE peer <> '';
CREATE INDEX connections_by_end ON connections (disconnected_at) WHERE disconnected_at IS NOT NULL;
CREATE INDEX connections_by_workspace_end ON connections (workspace, disconnected_at) WHERE disconnected_at IS NOT NULL;

-- +goose Down
DROP INDEX connections_by_workspace_end;
DROP INDEX connections_by_end;
DROP INDEX connections_by_peer;
ALTER TABLE connections DROP COLUMN waits;
ALTER TABLE connections DROP COLUMN observer;
ALTER TABLE connections DROP COLUMN confidence;
ALTER TABLE connections DROP COLUMN evidence;
ALTER TABLE connections DROP COLUMN rule;
ALTER TABLE connections DROP COLUMN locus;
ALTER TABLE connections DROP COLUMN word_detail;
ALTER TABLE connections DROP COLUMN word_initiator;
ALTER TABLE connections DROP COLUMN word_reason;
ALTER TABLE connections DROP COLUMN peer;
