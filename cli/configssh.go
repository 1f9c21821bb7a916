package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"fairlead.dev/fairlead/sdk"
)

// configSSH is one run of `fairlead config-ssh`.
type configSSH struct {
	streams
	profile, file, suffix string
	dryRun, remove        bool
}

func newConfigSSH(s streams) *cobra.Command {
	c := &configSSH{streams: s}
	cmd := &cobra.Command{
		Use:   "config-ssh",
		Short: "Make stock ssh, and whatever uses it, know your workspaces",
		Long: "Write a block of hosts into ~/.ssh/config, so that `ssh dev.fairlead` reaches workspace\n" +
			"dev, and so do rsync, git, scp and sftp; somebody else's is dev.OWNER.fairlead. The\n" +
			"hosts' keys are pinned in a known-hosts file beside the login. Nothing outside the block\n" +
			"changes; a new one is put first, because OpenSSH takes the first value it finds. Run it\n" +
			"again when workspaces come or go; --remove undoes it.",
		Example: "  fairlead config-ssh --dry-run\n  fairlead config-ssh && ssh dev.fairlead\n  fairlead config-ssh --remove",
		Args:    cobra.NoArgs,
	}
	flags := cmd.Flags()
	flags.StringVar(&c.file, "ssh-config-file", "", "OpenSSH configuration to change (default ~/.ssh/config)")
	flags.StringVar(&c.suffix, "host-suffix", "fairlead", "what the hosts' names end with; a block of its own for each")
	flags.BoolVarP(&c.dryRun, "dry-run", "n", false, "change nothing and show the change as a unified diff")
	flags.BoolVar(&c.remove, "remove", false, "remove the block and its known-hosts file")
	profileName := profileFlag(cmd)
	cmd.RunE = run(func(cmd *cobra.Command, _ []string) error {
		c.profile = *profileName
		if !sdk.ValidName(c.suffix) {
			return withCode(exitUsage, fmt.Errorf("--host-suffix %q is not valid: %s", plain(c.suffix), sdk.NameRule))
		}
		return c.run(cmd.Context())
	})
	return cmd
}

func (c *configSSH) run(ctx context.Context) error {
	config, known, err := c.open()
	if err != nil {
		return err
	}
	var hosts []sshHost
	if !c.remove {
		if hosts, err = c.hosts(ctx); err != nil {
			return err
		}
		if !c.dryRun { // which changes nothing, what is known here included
			if err := c.checkKeys(ctx, hosts); err != nil {
				return err
			}
		}
	}
	block, pins := "", []byte(nil)
	if len(hosts) > 0 {
		if block, err = c.block(hosts, known.shown); err != nil {
			return err
		}
		pins = knownHosts(hosts)
	}
	text, err := replaceBlock(config.old, c.suffix, block)
	if err != nil {
		return fmt.Errorf("read %s: %w", config.shown, err)
	}
	if c.dryRun {
		_, err := fmt.Fprint(c.out, known.diff(pins), config.diff(text))
		return err
	}
	return c.write(config, known, text, pins, hosts)
}

// open reads both files.
func (c *configSSH) open() (config, known *managedFile, err error) {
	if c.file == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return nil, nil, fmt.Errorf("find ~/.ssh/config: %w", err)
		}
		c.file = filepath.Join(home, ".ssh", "config")
	}
	if config, err = openManaged(c.file); err != nil {
		return nil, nil, fmt.Errorf("read ssh configuration: %w", err)
	}
	dir, err := configDir()
	if err != nil {
		return nil, nil, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, nil, fmt.Errorf("find the configuration directory: %w", err)
	}
	known, err = openManaged(filepath.Join(dir, "ssh_known_hosts."+c.suffix))
	if err != nil {
		return nil, nil, fmt.Errorf("read known hosts: %w", err)
	}
	return config, known, nil
}

// write changes the files: keys before the hosts that need them, and hosts before the
// keys that nobody needs any more.
func (c *configSSH) write(config, known *managedFile, text, pins []byte, hosts []sshHost) error {
	writeKnown := func() error {
		if pins == nil {
			return known.remove()
		}
		return known.replace(pins)
	}
	steps := []struct {
		file *managedFile
		do   func() error
	}{{known, writeKnown}, {config, func() error {
		if config.fresh && len(text) == 0 {
			return nil
		}
		return config.replace(text)
	}}}
	if pins == nil {
		steps[0], steps[1] = steps[1], steps[0]
	}
	for _, step := range steps {
		if err := step.do(); err != nil {
			return fmt.Errorf("write %s: %w", step.file.shown, err)
		}
	}
	switch {
	case string(text) == string(config.old) && string(pins) == string(known.old):
		fmt.Fprintf(c.err, "%s is up to date.\n", config.shown)
	case len(hosts) == 0:
		fmt.Fprintf(c.err, "%s has no workspaces of Fairlead any more.\n", config.shown)
	default:
		fmt.Fprintf(c.err, "%s knows your workspaces now, %d in all, for example: ssh %s\n", config.shown, len(hosts), hosts[0].name)
	}
	return nil
}

// sshHost is one workspace as a host of OpenSSH.
type sshHost struct {
	name      string // dev.fairlead
	workspace string // what `fairlead ssh` calls it
	id        string
	key       ssh.PublicKey
}

// hosts asks the server. A workspace without a host key is left out: no agent has
// spoken for it yet, so there is nothing to pin.
func (c *configSSH) hosts(ctx context.Context) ([]sshHost, error) {
	api, err := newAPI(c.profile)
	if err != nil {
		return nil, err
	}
	defer api.Close()
	me, err := api.WhoAmI(ctx)
	if err != nil {
		return nil, loginError(err)
	}
	workspaces, err := api.Workspaces(ctx)
	if err != nil {
		return nil, loginError(err)
	}
	var hosts []sshHost
	for _, ws := range workspaces {
		if !sdk.ValidName(ws.Name) || !sdk.ValidName(ws.Owner) {
			return nil, fmt.Errorf("the server lists the workspace %q, which cannot be one: %s", plain(ws.Owner+"/"+ws.Name), sdk.NameRule)
		}
		h := sshHost{name: ws.Name + "." + c.suffix, workspace: ws.Owner + "/" + ws.Name, id: ws.ID}
		if ws.Owner != me.Name {
			h.name = ws.Name + "." + ws.Owner + "." + c.suffix
		}
		if ws.SSHHostKey == "" {
			fmt.Fprintf(c.err, "Workspace %s is left out: its agent has not connected yet. Run this again when it has.\n", h.workspace)
			continue
		}
		h.key, _, _, _, err = ssh.ParseAuthorizedKey([]byte(ws.SSHHostKey))
		if err = errors.Join(err, uuid.Validate(ws.ID)); err != nil {
			return nil, fmt.Errorf("the server's record of workspace %s is damaged: %w", h.workspace, err)
		}
		hosts = append(hosts, h)
	}
	if len(hosts) == 0 {
		fmt.Fprintln(c.err, "There is no workspace to write down yet.")
	}
	return hosts, nil
}

// checkKeys refuses a host key that is another than the one known here, unless the
// workspace's owner allowed the change.
func (c *configSSH) checkKeys(ctx context.Context, hosts []sshHost) error {
	p, err := chooseProfile(c.profile)
	if err != nil {
		return err
	}
	for _, h := range hosts {
		if err := (hostKeyChecker{profile: p}).check(ctx, h.workspace, h.key); err != nil {
			return err
		}
	}
	return nil
}

// knownHosts is the content of the known-hosts file.
func knownHosts(hosts []sshHost) []byte {
	var b strings.Builder
	b.WriteString("# Written by `fairlead config-ssh`. Changes here are lost.\n")
	for _, h := range hosts {
		fmt.Fprintf(&b, "%s %s %s\n", h.name, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(h.key))), h.id)
	}
	return []byte(b.String())
}

// block is the text for ~/.ssh/config. It ends with `Host *`, so that what follows
// it, such as an Include, is meant for every host as it was before.
func (c *configSSH) block(hosts []sshHost, known string) (string, error) {
	command, err := c.proxyCommand()
	if err != nil {
		return "", err
	}
	if strings.ContainsAny(known, "\"\n\r") || strings.Contains(known, "${") {
		return "", fmt.Errorf("the path %q cannot be written into an ssh configuration", known)
	}
	var b strings.Builder
	b.WriteString(blockStart(c.suffix) + "\n" +
		"# Written by `fairlead config-ssh`, which also rewrites and removes it. Changes here are lost.\n")
	for _, h := range hosts {
		fmt.Fprintf(&b, "Host %s\n\tHostKeyAlias %s\n\tProxyCommand %s %s\n\tUserKnownHostsFile \"%s\"\n"+
			"\tGlobalKnownHostsFile /dev/null\n\tStrictHostKeyChecking yes\n\tUpdateHostKeys no\n\tCheckHostIP no\n",
			h.name, h.name, command, h.workspace, percent(known))
	}
	b.WriteString("Host *\n" + blockEnd(c.suffix) + "\n")
	return b.String(), nil
}

// proxyCommand is the beginning of the command for every host. It names this program
// and this login so that it means the same wherever ssh is started from.
func (c *configSSH) proxyCommand() (string, error) {
	self, err := selfPath()
	if err != nil {
		return "", err
	}
	args := []string{self, "ssh", "--stdio"}
	if dir := os.Getenv("FAIRLEAD_CONFIG_DIR"); dir != "" {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return "", fmt.Errorf("find the configuration directory: %w", err)
		}
		args = append([]string{"env", "FAIRLEAD_CONFIG_DIR=" + abs}, args...)
	}
	name := c.profile
	if name == "" && (os.Getenv("FAIRLEAD_URL") == "" || os.Getenv("FAIRLEAD_TOKEN") == "") {
		all, err := loadProfiles()
		if err != nil {
			return "", err
		}
		name = all.Default
	}
	if name != "" {
		args = append(args, "--profile", name)
	}
	for i, arg := range args {
		if strings.ContainsAny(arg, "\n\r") {
			return "", fmt.Errorf("%q cannot be written into an ssh configuration", arg)
		}
		args[i] = percent(shellQuote(arg))
	}
	return strings.Join(args, " "), nil
}

// percent keeps OpenSSH from seeing one of its tokens in s.
func percent(s string) string { return strings.ReplaceAll(s, "%", "%%") }

// selfPath is the absolute path of this program, as it was called if possible: a
// symbolic link outlives an upgrade.
func selfPath() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find this program: %w", err)
	}
	called, err := exec.LookPath(os.Args[0])
	if err != nil {
		return self, nil
	}
	if called, err = filepath.Abs(called); err != nil {
		return self, nil
	}
	a, errA := os.Stat(self)
	b, errB := os.Stat(called)
	if errA == nil && errB == nil && os.SameFile(a, b) {
		return called, nil
	}
	return self, nil
}
