-- +goose Up
CREATE TABLE settings (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

CREATE TABLE users (
    id         TEXT PRIMARY KEY,
    name       TEXT NOT NULL UNIQUE,
    role       TEXT NOT NULL CHECK (role IN ('admin', 'member')),
    created_at BIGINT NOT NULL,
    disabled   BOOLEAN NOT NULL DEFAULT FALSE
);

CREATE TABLE tokens (
    id           TEXT PRIMARY KEY,
    user_id      TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    label        TEXT NOT NULL,
    hash         TEXT NOT NULL UNIQUE,
    created_at   BIGINT NOT NULL,
    expires_at   BIGINT,
    last_used_at BIGINT
);

CREATE INDEX tokens_by_user ON tokens (user_id, label);

CREATE TABLE codes (
    hash       TEXT PRIMARY KEY,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    used_at    BIGINT
);

-- agent_* tell the last that is known of the workspace's agent. While agent_online is
-- true, agent_instance names the life of the process that holds the control link;
-- otherwise ending_* tell how that link ended at agent_seen_at.
CREATE TABLE workspaces (
    id               TEXT PRIMARY KEY,
    owner_id         TEXT NOT NULL REFERENCES users (id),
    name             TEXT NOT NULL,
    agent_token_hash TEXT NOT NULL UNIQUE,
    ssh_host_key     TEXT NOT NULL DEFAULT '',
    created_at       BIGINT NOT NULL,
    agent_online     BOOLEAN NOT NULL DEFAULT FALSE,
    agent_instance   TEXT NOT NULL DEFAULT '',
    agent_seen_at    BIGINT,
    ending_reason    INTEGER,
    ending_initiator INTEGER,
    ending_detail    TEXT NOT NULL DEFAULT '',
    UNIQUE (owner_id, name)
);

-- +goose Down
DROP TABLE workspaces;
DROP TABLE codes;
DROP TABLE tokens;
DROP TABLE users;
DROP TABLE settings;
