package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"fairlead.dev/fairlead/sdk"
)

// profile is one login: where a server is and what proves who we are.
type profile struct {
	URL   string `json:"url"`
	Token string `json:"token"`
	User  string `json:"user,omitempty"`
}

// profiles is the content of profiles.json.
type profiles struct {
	Default  string             `json:"default"`
	Profiles map[string]profile `json:"profiles"`
}

// errNoLogin says that there is nothing to use as a login.
var errNoLogin = errors.New("you are not logged in; run `fairlead login URL`, or `fairlead up` to try Fairlead on this machine")

// configDir is $FAIRLEAD_CONFIG_DIR, or fairlead in the user's configuration.
func configDir() (string, error) {
	if dir := os.Getenv("FAIRLEAD_CONFIG_DIR"); dir != "" {
		return dir, nil
	}
	base, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("find the configuration directory: set FAIRLEAD_CONFIG_DIR or HOME: %w", err)
	}
	return filepath.Join(base, "fairlead"), nil
}

// loadProfiles reads the logins; there may be none. Files that others can read are
// refused: a login is a secret.
func loadProfiles() (profiles, error) {
	none := profiles{Profiles: map[string]profile{}}
	dir, err := configDir()
	if err != nil {
		return none, err
	}
	path := filepath.Join(dir, "profiles.json")
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return none, nil
	}
	if err != nil {
		return none, fmt.Errorf("read logins: %w; repair or remove it, then log in again", err)
	}
	if err := errors.Join(private(dir, 0o700), private(path, 0o600)); err != nil {
		return none, err
	}
	var p profiles
	if err := json.Unmarshal(data, &p); err != nil {
		return none, fmt.Errorf("read logins: %s is damaged; repair or remove it, then log in again: %w", path, err)
	}
	if p.Profiles == nil {
		p.Profiles = map[string]profile{}
	}
	return p, nil
}

func private(path string, want fs.FileMode) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("read logins: %w", err)
	}
	if mode := info.Mode().Perm(); modesCount && mode&0o077 != 0 {
		return fmt.Errorf("read logins: %s has mode %04o and others could read your login; run: chmod %o %s", path, mode, want, path)
	}
	return nil
}

// saveProfile stores one login whole or not at all. makeDefault also makes it the
// default; the first login is the default in any case.
func saveProfile(name string, p profile, makeDefault bool) error {
	all, err := loadProfiles()
	if err != nil {
		return err
	}
	all.Profiles[name] = p
	if makeDefault || all.Default == "" {
		all.Default = name
	}
	return writeProfiles(all)
}

// writeProfiles stores the logins whole or not at all.
func writeProfiles(all profiles) error {
	dir, err := configDir()
	if err != nil {
		return err
	}
	data, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return fmt.Errorf("save login: %w", err)
	}
	if err := writePrivate(filepath.Join(dir, "profiles.json"), append(data, '\n')); err != nil {
		return fmt.Errorf("save login: %w", err)
	}
	return nil
}

// writePrivate writes a file that only its user can read, whole or not at all, and
// makes its directory.
func writePrivate(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), "new-*.json") // mode 0600
	if err != nil {
		return err
	}
	_, err = tmp.Write(data)
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
	}
	return err
}

// removeProfile forgets one login. If it was the default, the first of the others is.
func removeProfile(name string) error {
	all, err := loadProfiles()
	if err != nil {
		return err
	}
	delete(all.Profiles, name)
	if all.Default == name {
		all.Default = ""
		if names := all.names(); len(names) > 0 {
			all.Default = names[0]
		}
	}
	return writeProfiles(all)
}

// names returns the logins' names in order.
func (p profiles) names() []string { return slices.Sorted(maps.Keys(p.Profiles)) }

// chooseProfile returns the login to use: FAIRLEAD_URL with FAIRLEAD_TOKEN, else the
// named profile, else the default.
func chooseProfile(name string) (profile, error) {
	if p, ok := envProfile(name); ok {
		return p, nil
	}
	_, p, err := storedProfile(name)
	return p, err
}

// envProfile returns the login that the environment gives, unless another is named.
func envProfile(name string) (profile, bool) {
	p := profile{URL: os.Getenv("FAIRLEAD_URL"), Token: os.Getenv("FAIRLEAD_TOKEN")}
	return p, name == "" && p.URL != "" && p.Token != ""
}

// storedProfile returns the named login, or the default, with its name.
func storedProfile(name string) (string, profile, error) {
	all, err := loadProfiles()
	if err != nil {
		return "", profile{}, withCode(exitAuth, err)
	}
	if name == "" {
		name = all.Default
	}
	if len(all.Profiles) == 0 {
		return "", profile{}, withCode(exitAuth, errNoLogin)
	}
	p, ok := all.Profiles[name]
	if !ok {
		return "", profile{}, withCode(exitAuth, fmt.Errorf("there is no profile %q; the profiles are %q", name, all.names()))
	}
	if _, err := sdk.ParseURL(p.URL); err != nil {
		return "", profile{}, withCode(exitAuth, fmt.Errorf("the login %q is damaged, log in again: %w", name, err))
	}
	return name, p, nil
}
