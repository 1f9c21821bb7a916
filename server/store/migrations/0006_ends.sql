-- +goose Up

-- What the workspace's agent is told to do. stopped_at: sessions end, and no new ones
-- begin. The limits of a session are in milliseconds, 0: never; NULL: the server's
-- default. notice_*: the platform's word that the host will be gone, given at notice_at.
ALTER TABLE workspaces ADD COLUMN stopped_at BIGINT;
ALTER TABLE workspaces ADD COLUMN stopped_by TEXT NOT NULL DEFAULT '';
ALTER TABLE workspaces ADD COLUMN idle_timeout_ms BIGINT;
ALTER TABLE workspaces ADD COLUMN session_limit_ms BIGINT;
ALTER TABLE workspaces ADD COLUMN notice_kind TEXT NOT NULL DEFAULT '';
ALTER TABLE workspaces ADD COLUMN notice_at BIGINT;
ALTER TABLE workspaces ADD COLUMN notice_deadline BIGINT;

-- +goose Down
ALTER TABLE workspaces DROP COLUMN stopped_at;
ALTER TABLE workspaces DROP COLUMN stopped_by;
ALTER TABLE workspaces DROP COLUMN idle_timeout_ms;
ALTER TABLE workspaces DROP COLUMN session_limit_ms;
ALTER TABLE workspaces DROP COLUMN notice_kind;
ALTER TABLE workspaces DROP COLUMN notice_at;
ALTER TABLE workspaces DROP COLUMN notice_deadline;
