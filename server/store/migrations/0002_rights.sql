-- +goose Up
ALTER TABLE tokens ADD COLUMN scope TEXT NOT NULL DEFAULT 'full' CHECK (scope IN ('full', 'read', 'ssh'));

-- A share lets a user reach a workspace that another one owns.
CREATE TABLE shares (
    workspace_id TEXT NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    user_id      TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    created_at   BIGINT NOT NULL,
    PRIMARY KEY (workspace_id, user_id)
);

CREATE INDEX shares_by_user ON shares (user_id);

-- A rekey is an owner's word that a workspace's agent may have another SSH host key;
-- new_key is empty until the agent registers it.
CREATE TABLE rekeys (
    id           TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    user_name    TEXT NOT NULL,
    created_at   BIGINT NOT NULL,
    old_key      TEXT NOT NULL,
    new_key      TEXT NOT NULL DEFAULT ''
);

CREATE INDEX rekeys_by_workspace ON rekeys (workspace_id, created_at);

-- +goose Down
DROP TABLE rekeys;
DROP TABLE shares;
ALTER TABLE tokens DROP COLUMN scope;
