-- +goose Up

-- How sessions begin: directory and motd_file are paths on the workspace's host, empty:
-- its home directory, none. environment is a JSON object of strings, or empty.
ALTER TABLE workspaces ADD COLUMN directory TEXT NOT NULL DEFAULT '';
ALTER TABLE workspaces ADD COLUMN environment TEXT NOT NULL DEFAULT '';
ALTER TABLE workspaces ADD COLUMN motd_file TEXT NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE workspaces DROP COLUMN directory;
ALTER TABLE workspaces DROP COLUMN environment;
ALTER TABLE workspaces DROP COLUMN motd_file;
