package store

import (
	"context"
	"encoding/json"
	"fmt"
)

// Settings are how sessions in a workspace begin.
type Settings struct {
	// Directory is where; empty: the home directory.
	Directory string
	// Environment is set for each of them.
	Environment map[string]string
	// MOTDFile is shown before a login shell; empty: none.
	MOTDFile string
}

// settingsColumns are those of Settings, in the order of scannedSettings.
const settingsColumns = `workspaces.directory, workspaces.environment, workspaces.motd_file`

// scannedSettings are the columns of Settings as the database gives them.
type scannedSettings struct{ directory, environment, motdFile string }

func (s *scannedSettings) dest() []any { return []any{&s.directory, &s.environment, &s.motdFile} }

func (s *scannedSettings) settings() (Settings, error) {
	out := Settings{Directory: s.directory, MOTDFile: s.motdFile}
	if s.environment == "" {
		return out, nil
	}
	if err := json.Unmarshal([]byte(s.environment), &out.Environment); err != nil {
		return Settings{}, fmt.Errorf("read the environment of a workspace: %w", err)
	}
	return out, nil
}

// SetSettings sets how sessions in a workspace begin. No such workspace is ErrNotFound.
func (s *Store) SetSettings(ctx context.Context, id string, set Settings) error {
	environment := ""
	if len(set.Environment) > 0 {
		text, err := json.Marshal(set.Environment)
		if err != nil {
			return fmt.Errorf("set settings: %w", err)
		}
		environment = string(text)
	}
	err := affectOne(ctx, s.write, `UPDATE workspaces SET directory = $1, environment = $2, motd_file = $3 WHERE id = $4`,
		set.Directory, environment, set.MOTDFile, id)
	if err != nil {
		return fmt.Errorf("set settings: %w", err)
	}
	return nil
}
