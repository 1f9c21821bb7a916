-- +goose Up

-- What a workspace's policy blocks, of file_transfer, local_forwarding and
-- remote_forwarding, and the names of variables that a client may set; both separated by
-- commas, and no names: any.
ALTER TABLE workspaces ADD COLUMN blocked TEXT NOT NULL DEFAULT '';
ALTER TABLE workspaces ADD COLUMN accept_env TEXT NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE workspaces DROP COLUMN blocked;
ALTER TABLE workspaces DROP COLUMN accept_env;
