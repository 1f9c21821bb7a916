package cli

import (
	"archive/zip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"fairlead.dev/fairlead/sdk"
)

const (
	// maxBundleLog is how much of the end of a log goes into a bundle, in bytes.
	maxBundleLog = 1 << 20
	// bundleRows is how many connections do.
	bundleRows = 100
	// bundleStep bounds what one file of a bundle may take.
	bundleStep = 45 * time.Second
)

// bundle is a support bundle that is being made. Only what is put into it by name is in
// it, each text redacted.
type bundle struct {
	redactor *redactor
	files    []bundleFile
	failures []string
}

type bundleFile struct{ name, about, text string }

func newSupportBundle(s streams) *cobra.Command {
	var logs []string
	cmd := &cobra.Command{
		Use:   "support-bundle [FILE]",
		Short: "Put what helps to find a fault into one file, without secrets",
		Long: "Write a zip file with what helps somebody else to find a fault: this program's version,\n" +
			"the logins without their tokens, a netcheck, a server check, the workspaces that you\n" +
			"reach, the last 100 connections and how they ended, and the end of the log files that\n" +
			"--client-log names. Nothing else goes in, and no environment; tokens, keys and what\n" +
			"looks like one are taken out. Names, addresses and the endings' details stay: look at\n" +
			"it before you pass it on. What cannot be had, because the server is away for example,\n" +
			"is named in errors.txt, and is no failure.",
		Example: "  fairlead support-bundle\n  fairlead support-bundle fault.zip --client-log ssh.log",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return withCode(exitUsage, errors.New("name one file at most"))
			}
			return nil
		},
	}
	cmd.Flags().StringArrayVar(&logs, "client-log", nil, "log file of this program whose end goes in (repeatable)")
	profileName := profileFlag(cmd)
	cmd.RunE = run(func(cmd *cobra.Command, args []string) error {
		name := "fairlead-support-" + time.Now().UTC().Format("20060102-150405") + ".zip"
		if len(args) > 0 {
			name = args[0]
		}
		// First of all, so that nobody waits for nothing.
		file, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return fmt.Errorf("write the bundle: %w", err)
		}
		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
		defer stop()
		b := collectBundle(ctx, newStatusLine(s.err), *profileName, logs)
		if err = ctx.Err(); err != nil {
			err = errors.New("stopped")
		} else {
			err = b.write(file)
		}
		if err = errors.Join(err, file.Close()); err != nil {
			_ = os.Remove(name)
			return fmt.Errorf("write the bundle: %w", err)
		}
		return b.tell(s, name)
	})
	return cmd
}

// collectBundle gathers what there is. A failure keeps nothing else out.
func collectBundle(ctx context.Context, status *statusLine, profileName string, logs []string) *bundle {
	defer status.clear()
	all, loadErr := loadProfiles()
	p, profileErr := chooseProfile(profileName)
	secrets := []string{p.Token}
	for _, other := range all.Profiles {
		secrets = append(secrets, other.Token)
	}
	b := &bundle{redactor: newRedactor(secrets, os.Environ())}
	step := func(name, about string, get func(context.Context) (any, error)) {
		status.show("collecting " + name)
		ctx, cancel := context.WithTimeout(ctx, bundleStep)
		defer cancel()
		value, err := get(ctx)
		b.add(name, about, value, err)
	}
	step("version.json", "this program and its system", func(context.Context) (any, error) {
		return map[string]string{
			"version": softwareVersion(), "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH,
			"time": time.Now().UTC().Format(time.RFC3339),
		}, nil
	})
	step("logins.json", "the logins here: servers and users, no tokens", func(context.Context) (any, error) {
		return safeProfiles(all), loadErr
	})
	if profileErr != nil {
		b.failures = append(b.failures, "the rest needs a login: "+profileErr.Error())
	} else {
		b.server(step, p)
	}
	for _, path := range logs {
		step("logs/"+filepath.Base(path), "the end of the log file that was named", func(context.Context) (any, error) { return logEnd(path) })
	}
	return b
}

// server collects what the server, and the way to it, tell.
func (b *bundle) server(step func(string, string, func(context.Context) (any, error)), p profile) {
	u, err := sdk.ParseURL(p.URL)
	if err != nil {
		b.failures = append(b.failures, "the login is damaged: "+err.Error())
		return
	}
	step("netcheck.json", "the network between here and the server, as `fairlead netcheck` sees it", func(ctx context.Context) (any, error) {
		return checkNetwork(ctx, u, p.Token), nil
	})
	step("servercheck.json", "what lies between here and the server, as `fairlead server check` sees it", func(ctx context.Context) (any, error) {
		return checkServer(ctx, u, true), nil
	})
	api, err := sdk.NewClient(p.URL, p.Token)
	if err != nil {
		b.failures = append(b.failures, err.Error())
		return
	}
	defer api.Close()
	step("workspaces.json", "the workspaces that this login reaches", func(ctx context.Context) (any, error) {
		return api.Workspaces(ctx)
	})
	step("connections.json", fmt.Sprintf("the last %d connections, and how they ended", bundleRows), func(ctx context.Context) (any, error) {
		page, err := api.Connections(ctx, sdk.ConnectionQuery{Limit: bundleRows})
		return page.Connections, err
	})
}

// safeProfile is what of a login goes into a bundle: these fields and no others.
type safeProfile struct {
	Name    string `json:"name"`
	URL     string `json:"url"`
	User    string `json:"user"`
	Default bool   `json:"default"`
}

func safeProfiles(all profiles) []safeProfile {
	list := []safeProfile{}
	for _, name := range all.names() {
		p := all.Profiles[name]
		list = append(list, safeProfile{Name: name, URL: p.URL, User: p.User, Default: name == all.Default})
	}
	return list
}

// logEnd returns the last whole lines of a log, of an ordinary file only.
func logEnd(path string) (any, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "read", Path: path, Err: errors.New("it is no ordinary file")}
	}
	skipped := info.Size() > maxBundleLog
	if skipped {
		if _, err := f.Seek(-maxBundleLog, io.SeekEnd); err != nil {
			return nil, err
		}
	}
	data, err := io.ReadAll(io.LimitReader(f, maxBundleLog))
	if err != nil {
		return nil, err
	}
	text := string(data)
	if skipped { // half a line may hold half a secret
		_, text, _ = strings.Cut(text, "\n")
	}
	return text, nil
}

// add puts a value into the bundle, redacted; or why it is not there.
func (b *bundle) add(name, about string, value any, err error) {
	if err != nil {
		b.failures = append(b.failures, name+": "+err.Error())
		return
	}
	text, ok := value.(string)
	if !ok {
		data, err := json.MarshalIndent(value, "", "  ")
		if err != nil {
			b.failures = append(b.failures, name+": "+err.Error())
			return
		}
		text = string(data) + "\n"
	}
	for i := 2; b.has(name); i++ {
		name = fmt.Sprintf("%s.%d", strings.TrimSuffix(name, fmt.Sprintf(".%d", i-1)), i)
	}
	b.files = append(b.files, bundleFile{name, about, b.redactor.redact(text)})
}

func (b *bundle) has(name string) bool {
	for _, f := range b.files {
		if f.name == name {
			return true
		}
	}
	return false
}

// write makes the zip file, with a list of what is in it.
func (b *bundle) write(w io.Writer) error {
	var list strings.Builder
	list.WriteString("What `fairlead support-bundle` has put into this file. Secrets were taken out as far as they are known or look like one.\n\n")
	for _, f := range b.files {
		fmt.Fprintf(&list, "%-20s %s\n", f.name, f.about)
	}
	files := append([]bundleFile{{name: "README.txt", text: list.String()}}, b.files...)
	if len(b.failures) > 0 {
		files = append(files, bundleFile{name: "errors.txt", text: b.redactor.redact(strings.Join(b.failures, "\n") + "\n")})
	}
	z := zip.NewWriter(w)
	for _, f := range files {
		out, err := z.CreateHeader(&zip.FileHeader{Name: f.name, Method: zip.Deflate, Modified: time.Now()})
		if err != nil {
			return err
		}
		if _, err := io.WriteString(out, f.text); err != nil {
			return err
		}
	}
	return z.Close()
}

// tell says what is in the bundle, and what is not.
func (b *bundle) tell(s streams, name string) error {
	for _, failure := range b.failures {
		fmt.Fprintln(s.err, "fairlead: not in the bundle: "+plain(b.redactor.redact(failure)))
	}
	text := "Wrote " + name + ". Look at it before you pass it on; it holds:\n"
	for _, f := range b.files {
		text += fmt.Sprintf("  %-20s %s\n", f.name, f.about)
	}
	_, err := io.WriteString(s.out, text)
	return err
}
