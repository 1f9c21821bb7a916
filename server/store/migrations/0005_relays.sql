-- +goose Up
-- A relay is one that runs as a process of its own. region is its number in the map of
-- relays; it never changes, and is not given away again. in_map says that the relay was
-- in reach when this was written, or was lost without a goodbye.
CREATE TABLE relays (
    id         TEXT PRIMARY KEY,
    name       TEXT NOT NULL UNIQUE,
    region     INTEGER NOT NULL UNIQUE,
    code       TEXT NOT NULL,
    token_hash TEXT NOT NULL UNIQUE,
    created_at BIGINT NOT NULL,
    access_url TEXT NOT NULL DEFAULT '',
    stun_port  INTEGER NOT NULL DEFAULT 0,
    in_map     BOOLEAN NOT NULL DEFAULT FALSE,
    seen_at    BIGINT
);

-- +goose Down
DROP TABLE relays;
