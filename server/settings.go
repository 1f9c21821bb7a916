package server

import (
	"errors"
	"maps"
	"net/http"
	"path"
	"regexp"
	"strings"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/sdk"
	"fairlead.dev/fairlead/server/auth"
	"fairlead.dev/fairlead/server/store"
)

// Bounds of a workspace's settings.
const (
	maxSettingPath   = 4096  // bytes of a path
	maxVariables     = 100   // of the environment
	maxVariableBytes = 32768 // of all names and values
)

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`)

// getSettings tells whoever reaches a workspace how sessions there begin.
func (s *Server) getSettings(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	ws, err := s.reachable(r.Context(), p, r.PathValue("owner"), r.PathValue("name"))
	if errors.Is(err, store.ErrNotFound) {
		return errNoWorkspace
	}
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, settingsOut(ws.Settings))
	return nil
}

// patchSettings changes it, for sessions that begin from then on.
func (s *Server) patchSettings(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	ws, err := s.managed(r, p)
	if err != nil {
		return err
	}
	var req sdk.UpdateSettingsRequest
	if err := readJSON(r, &req); err != nil {
		return err
	}
	set, err := changedSettings(ws.Settings, req)
	if err != nil {
		return err
	}
	if err := s.store.SetSettings(r.Context(), ws.ID, set); err != nil {
		return gone(err)
	}
	s.logger.InfoContext(r.Context(), "session settings changed", "workspace", ws.OwnerName+"/"+ws.Name, "workspace_id", ws.ID, "by", p.UserName)
	s.orders.changed(ws.ID)
	writeJSON(w, http.StatusOK, settingsOut(set))
	return nil
}

// changedSettings returns what settings are after a change, or why they cannot be.
func changedSettings(set store.Settings, req sdk.UpdateSettingsRequest) (store.Settings, error) {
	if req.Directory != nil {
		set.Directory = *req.Directory
		if !validSettingPath(set.Directory) {
			return set, invalid("the directory is no path")
		}
	}
	if req.MOTDFile != nil {
		set.MOTDFile = *req.MOTDFile
		if !validSettingPath(set.MOTDFile) || set.MOTDFile != "" && !path.IsAbs(set.MOTDFile) {
			return set, invalid("the file with the message of the day is an absolute path")
		}
	}
	set.Environment = maps.Clone(set.Environment)
	size := 0
	for name, value := range req.Environment {
		switch {
		case !variableName.MatchString(name):
			return set, invalid("a variable's name has letters, digits and underscores, and begins with no digit")
		case value == nil:
			delete(set.Environment, name)
			continue
		case strings.ContainsRune(*value, 0):
			return set, invalid("the value of " + name + " has a byte that no variable can have")
		case set.Environment == nil:
			set.Environment = make(map[string]string)
		}
		set.Environment[name] = *value
	}
	for name, value := range set.Environment {
		size += len(name) + len(value)
	}
	if len(set.Environment) > maxVariables || size > maxVariableBytes {
		return set, invalid("the environment has at most 100 variables and 32768 bytes")
	}
	return set, nil
}

// validSettingPath allows what can be a path, and be shown; "" is none.
func validSettingPath(p string) bool { return len(p) <= maxSettingPath && disconnect.Scrub(p) == p }

func settingsOut(set store.Settings) sdk.Settings {
	out := sdk.Settings{Directory: set.Directory, Environment: set.Environment, MOTDFile: set.MOTDFile}
	if out.Environment == nil {
		out.Environment = map[string]string{}
	}
	return out
}
