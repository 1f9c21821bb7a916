package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"fairlead.dev/fairlead/sdk"
)

// knownKeys is the content of known_hosts.json: by server URL and OWNER/WORKSPACE, the
// SSH host key that was met there first, or after a change that the owner allowed. It
// keeps a server that was taken over from passing somebody else off as a workspace.
type knownKeys map[string]map[string]string

func knownKeysPath() (string, error) {
	dir, err := configDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "known_hosts.json"), nil
}

func loadKnownKeys() (knownKeys, error) {
	path, err := knownKeysPath()
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return knownKeys{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read known hosts: %w; repair or remove it", err)
	}
	known := knownKeys{}
	if err := json.Unmarshal(data, &known); err != nil {
		return nil, fmt.Errorf("read known hosts: %s is damaged; repair or remove it: %w", path, err)
	}
	return known, nil
}

func (k knownKeys) save() error {
	path, err := knownKeysPath()
	if err != nil {
		return err
	}
	data, err := json.MarshalIndent(k, "", "  ")
	if err != nil {
		return fmt.Errorf("save known hosts: %w", err)
	}
	if err := writePrivate(path, append(data, '\n')); err != nil {
		return fmt.Errorf("save known hosts: %w", err)
	}
	return nil
}

// hostKeyChecker says whether a workspace's host key is the one that is known here.
type hostKeyChecker struct {
	profile profile
}

// fullName is how known hosts name a workspace.
func (c hostKeyChecker) fullName(workspace string) string {
	if strings.Contains(workspace, "/") {
		return workspace
	}
	return c.profile.User + "/" + workspace // the user is not known of a login by environment
}

// check accepts the first key of a workspace and the same one ever after. Another one
// needs the server's record that the owner allowed the change from the known key to it.
func (c hostKeyChecker) check(ctx context.Context, workspace string, key ssh.PublicKey) error {
	if _, err := knownKeysPath(); err != nil {
		return nil // there is nowhere to know anything
	}
	known, err := loadKnownKeys()
	if err != nil {
		return err
	}
	name, offered := c.fullName(workspace), strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
	before := known[c.profile.URL][name]
	if before == offered {
		return nil
	}
	if before != "" {
		if err := c.changeAllowed(ctx, workspace, before, offered); err != nil {
			return err
		}
	}
	if known[c.profile.URL] == nil {
		known[c.profile.URL] = map[string]string{}
	}
	known[c.profile.URL][name] = offered
	_ = known.save() // as with OpenSSH, who cannot remember may still connect
	return nil
}

// changeAllowed follows the record of allowed changes from one key to another.
func (c hostKeyChecker) changeAllowed(ctx context.Context, workspace, before, offered string) error {
	api, err := sdk.NewClient(c.profile.URL, c.profile.Token)
	if err != nil {
		return err
	}
	defer api.Close()
	rekeys, err := api.Rekeys(ctx, workspace)
	if err != nil {
		return fmt.Errorf("ask whether the host key of workspace %s may have changed: %w", plain(workspace), err)
	}
	at := before
	for _, r := range rekeys {
		if r.OldKey == at && r.NewKey != "" {
			at = r.NewKey
		}
	}
	if at == offered {
		return nil
	}
	return fmt.Errorf("refuse to connect to workspace %s: its SSH host key is %s, but %s is known here, and its owner did not run"+
		" `fairlead workspace rekey`; if you know why, run: fairlead workspace forget %s",
		plain(workspace), fingerprint(offered), fingerprint(before), plain(workspace))
}

func fingerprint(text string) string {
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(text))
	if err != nil {
		return "a damaged key"
	}
	return ssh.FingerprintSHA256(key)
}

func newWorkspaceForget(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "forget WORKSPACE",
		Short: "Forget a workspace's SSH host key here, so that the next one is accepted",
		Args:  cobra.ExactArgs(1),
	}
	profileName := profileFlag(cmd)
	cmd.RunE = run(func(_ *cobra.Command, args []string) error {
		if !validWorkspace(args[0]) {
			return withCode(exitUsage, fmt.Errorf("%q cannot be a workspace: %s", plain(args[0]), sdk.NameRule))
		}
		p, err := chooseProfile(*profileName)
		if err != nil {
			return err
		}
		known, err := loadKnownKeys()
		if err != nil {
			return err
		}
		name := hostKeyChecker{profile: p}.fullName(args[0])
		if known[p.URL][name] == "" {
			return fmt.Errorf("no host key of workspace %s is known here", plain(args[0]))
		}
		delete(known[p.URL], name)
		if err := known.save(); err != nil {
			return err
		}
		fmt.Fprintf(s.out, "The host key of workspace %s is forgotten.\n", plain(args[0]))
		return nil
	})
	return cmd
}

func newWorkspaceRekey(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rekey WORKSPACE",
		Short: "Let a workspace's agent have another SSH host key",
		Long: "Let a workspace's agent register another SSH host key than the pinned one, once and\n" +
			"within 24 hours: after it lost its state directory, or moved to another machine. Until\n" +
			"it does, the pinned key stays good. Clients that know the old key accept the new one.",
		Args: cobra.ExactArgs(1),
	}
	withAPI(cmd, s, func(cmd *cobra.Command, api *sdk.Client, args []string, asJSON bool) error {
		if err := api.RekeyWorkspace(cmd.Context(), args[0]); err != nil {
			return err
		}
		if asJSON {
			return printJSON(s.out, map[string]string{"rekey": args[0]})
		}
		fmt.Fprintf(s.out, "The agent of workspace %s may register another host key within 24 hours.\n", plain(args[0]))
		return nil
	})
	return cmd
}
