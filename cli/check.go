package cli

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"fairlead.dev/fairlead/sdk"
)

func newServerCheck(s streams) *cobra.Command {
	var insecure bool
	cmd := &cobra.Command{
		Use:   "check URL",
		Short: "Find what lies between here and a server that will break connections",
		Long: "Find what lies between here and a server that will break connections: TLS that\n" +
			"others will refuse, a proxy that strips the WebSocket upgrade or cuts what is silent\n" +
			"for a few seconds, a page instead of the server, a wrong access URL, clocks that\n" +
			"differ. It needs no login, and takes a few seconds. Run it where agents and clients\n" +
			"run: that is the way that counts. The exit code is 0 if all is well, else 1.",
		Example: "  fairlead server check https://fairlead.example.com",
		Args:    cobra.ExactArgs(1),
	}
	cmd.Flags().BoolVar(&insecure, "insecure-http", false, "accept plain HTTP beyond loopback")
	output := outputFlag(cmd)
	cmd.RunE = run(func(cmd *cobra.Command, args []string) error {
		asJSON, err := output()
		if err != nil {
			return err
		}
		u, err := sdk.ParseURL(args[0])
		if err != nil {
			return withCode(exitUsage, err)
		}
		report := checkServer(cmd.Context(), u, insecure)
		if asJSON {
			err = printJSON(s.out, report)
		} else {
			err = report.print(s.out)
		}
		if err == nil && !report.OK {
			return exitWith(exitError)
		}
		return err
	})
	return cmd
}

// Results of one check.
const (
	checkOK   = "ok"
	checkFail = "fail"
	checkSkip = "skip" // a check before it failed, so that this one would tell nothing
)

// finding is what one check found.
type finding struct {
	Name   string `json:"name"`
	Status string `json:"status"`
	Found  string `json:"found"`
	// Meaning and Advice say, of a failure, what it leads to and what to do.
	Meaning string `json:"meaning,omitempty"`
	Advice  string `json:"advice,omitempty"`
}

// checkReport is the result of `fairlead server check`.
type checkReport struct {
	URL    string    `json:"url"`
	OK     bool      `json:"ok"`
	Checks []finding `json:"checks"`
}

func (r *checkReport) print(w io.Writer) error {
	var b strings.Builder
	for _, f := range r.Checks {
		fmt.Fprintf(&b, "%-4s  %-12s  %s\n", f.Status, f.Name, f.Found)
		if f.Status == checkFail {
			fmt.Fprintf(&b, "%20s%s\n%20sWhat to do: %s\n", "", f.Meaning, "", f.Advice)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// checkNames are all checks in their order.
var checkNames = []string{"encryption", "connection", "tls", "answer", "clock", "access_url", "caller", "paths", "upgrade", "idle"}

// checkServer runs the checks against one server, each as soon as those that it rests
// on have passed.
func checkServer(ctx context.Context, u *url.URL, insecure bool) *checkReport {
	p := &probe{url: u, found: map[string]finding{}}
	defer p.close()
	p.encryption(insecure)
	if info, ok := p.reach(ctx); ok {
		p.clock(info)
		p.accessURL(ctx, info)
		p.caller(info)
		p.paths(ctx)
		p.socket(ctx, info)
	}
	report := &checkReport{URL: u.String(), OK: true}
	for _, name := range checkNames {
		f, ok := p.found[name]
		if !ok {
			f = finding{Name: name, Status: checkSkip, Found: "not tried, because of the failure above"}
		}
		report.OK = report.OK && f.Status == checkOK
		report.Checks = append(report.Checks, f)
	}
	return report
}

// plainBeyondLoopback reports whether whoever is between here and u can read what is
// sent there.
func plainBeyondLoopback(u *url.URL) bool {
	return u.Scheme == "http" && !isLoopbackHost(u.Hostname())
}

// isLoopbackHost reports whether a host in a URL can only be this machine (RFC 6761).
func isLoopbackHost(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.Unmap().IsLoopback()
	}
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}
