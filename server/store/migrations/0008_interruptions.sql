-- +goose Up

-- A time in which a connection's client was silent, and that the connection survived.
-- observed_at is its beginning by the agent's clock, by which it is known when it is told
-- again; lasted is in microseconds.
CREATE TABLE connection_interruptions (
    connection  BIGINT NOT NULL REFERENCES connections (key) ON DELETE CASCADE,
    observed_at BIGINT NOT NULL,
    began_at    BIGINT NOT NULL,
    lasted      BIGINT NOT NULL,
    reason      SMALLINT NOT NULL,
    initiator   SMALLINT NOT NULL,
    expected    BOOLEAN NOT NULL,
    detail      TEXT NOT NULL,
    PRIMARY KEY (connection, observed_at)
);

-- +goose Down
DROP TABLE connection_interruptions;
