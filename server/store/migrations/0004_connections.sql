-- +goose Up

-- The log keeps whom and what it tells of when the user or the workspace is gone. Its
-- rows name them by small numbers: the indexes are many, and this is their size.
CREATE TABLE logged_users (
    no   INTEGER PRIMARY KEY,
    id   TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL
);

CREATE INDEX logged_users_by_name ON logged_users (name);

CREATE TABLE logged_workspaces (
    no    INTEGER PRIMARY KEY,
    id    TEXT NOT NULL UNIQUE,
    name  TEXT NOT NULL,
    owner INTEGER NOT NULL REFERENCES logged_users (no)
);

CREATE INDEX logged_workspaces_by_name ON logged_workspaces (name);
CREATE INDEX logged_workspaces_by_owner ON logged_workspaces (owner);

-- One row per connection. key begins with the milliseconds of connected_at, so rows lie
-- in the order of time and a page is a range of keys in every index. live is 1 while the
-- connection is open, 3 while it is unheard of, and NULL once it is closed; the columns
-- from disconnected_at to exit_code are NULL until then.
CREATE TABLE connections (
    key             INTEGER PRIMARY KEY,
    id              TEXT NOT NULL UNIQUE,
    connect_type    SMALLINT NOT NULL,
    type            SMALLINT NOT NULL,
    app             TEXT NOT NULL,
    workspace       INTEGER REFERENCES logged_workspaces (no),
    user_no         INTEGER REFERENCES logged_users (no),
    instance        TEXT NOT NULL,
    ip              TEXT NOT NULL,
    client_version  TEXT NOT NULL,
    path            SMALLINT NOT NULL,
    connected_at    BIGINT NOT NULL,
    observed_at     BIGINT,
    bytes_sent      BIGINT NOT NULL DEFAULT 0,
    bytes_received  BIGINT NOT NULL DEFAULT 0,
    live            SMALLINT,
    revision        INTEGER NOT NULL DEFAULT 0,
    provisional     BOOLEAN NOT NULL DEFAULT FALSE,
    disconnected_at BIGINT,
    ended_observed_at BIGINT,
    reason          SMALLINT,
    initiator       SMALLINT,
    expected        BOOLEAN,
    detail          TEXT NOT NULL DEFAULT '',
    exit_code       INTEGER
);

CREATE INDEX connections_by_workspace ON connections (workspace, key);
CREATE INDEX connections_by_user ON connections (user_no, key);
CREATE INDEX connections_by_type ON connections (type, key);
CREATE INDEX connections_by_app ON connections (app, key);
CREATE INDEX connections_by_connect_type ON connections (connect_type, key);
CREATE INDEX connections_by_live ON connections (live, key) WHERE live IS NOT NULL;
CREATE INDEX connections_by_reason ON connections (reason, key) WHERE reason IS NOT NULL;
CREATE INDEX connections_by_initiator ON connections (initiator, key) WHERE initiator IS NOT NULL;
CREATE INDEX connections_by_expected ON connections (expected, key) WHERE expected IS NOT NULL;

CREATE INDEX connections_by_workspace_user ON connections (workspace, user_no, key);
CREATE INDEX connections_by_workspace_type ON connections (workspace, type, key);
CREATE INDEX connections_by_workspace_app ON connections (workspace, app, key);
CREATE INDEX connections_by_workspace_connect_type ON connections (workspace, connect_type, key);
CREATE INDEX connections_by_workspace_live ON connections (workspace, live, key) WHERE live IS NOT NULL;
CREATE INDEX connections_by_workspace_reason ON connections (workspace, reason, key) WHERE reason IS NOT NULL;
CREATE INDEX connections_by_workspace_initiator ON connections (workspace, initiator, key) WHERE initiator IS NOT NULL;
CREATE INDEX connections_by_workspace_expected ON connections (workspace, expected, key) WHERE expected IS NOT NULL;

-- A gap is a time in which an agent may have had connections of which nothing is known.
CREATE TABLE connection_gaps (
    id        TEXT PRIMARY KEY,
    workspace INTEGER NOT NULL REFERENCES logged_workspaces (no),
    began_at  BIGINT NOT NULL,
    ended_at  BIGINT NOT NULL,
    detail    TEXT NOT NULL
);

CREATE INDEX connection_gaps_by_time ON connection_gaps (ended_at);
CREATE INDEX connection_gaps_by_workspace ON connection_gaps (workspace, ended_at);

-- Who was ever let into a workspace that is not theirs: its agent may tell of them after
-- the right is gone.
CREATE TABLE reached (
    workspace_id TEXT NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    user_id      TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    PRIMARY KEY (workspace_id, user_id)
);

CREATE INDEX reached_by_user ON reached (user_id);

-- +goose Down
DROP TABLE reached;
DROP TABLE connection_gaps;
DROP TABLE connections;
DROP TABLE logged_workspaces;
DROP TABLE logged_users;
