-- +goose Up

-- What somebody testified of a connection, as it came: a row is never changed, and goes
-- with its connection. testimony is the id that the observer gave it; body is JSON.
CREATE TABLE testimonies (
    no          INTEGER PRIMARY KEY,
    connection  BIGINT NOT NULL REFERENCES connections (key) ON DELETE CASCADE,
    observer    SMALLINT NOT NULL,
    testimony   TEXT NOT NULL,
    principal   TEXT NOT NULL,
    received_at BIGINT NOT NULL,
    body        TEXT NOT NULL,
    UNIQUE (connection, observer, testimony)
);

-- +goose Down
DROP TABLE testimonies;
