package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"fairlead.dev/fairlead/client"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/sdk"
	"fairlead.dev/fairlead/tailnet"
)

// Verdicts of a netcheck, from good to bad.
const (
	verdictDirect  = "direct"   // UDP passes, and no NAT is known to be in the way
	verdictHardNAT = "hard_nat" // UDP passes, but only some can be met directly
	verdictRelay   = "relay_only"
	verdictNoRelay = "no_relay"
	verdictLogin   = "login_refused"
	verdictPortal  = "captive_portal"
	verdictOffline = "no_server"
)

// Guesses whether a captive portal stands between here and the server.
const (
	portalNone      = "none"
	portalSuspected = "suspected"
	portalUnknown   = "unknown" // nothing answered at all
)

// netReport is the result of `fairlead netcheck`; docs/cli.md tells the fields.
type netReport struct {
	URL           string     `json:"url"`
	OK            bool       `json:"ok"`
	Server        netServer  `json:"server"`
	Proxy         string     `json:"proxy"` // "" is none
	CaptivePortal string     `json:"captive_portal"`
	ClockOffset   *float64   `json:"clock_offset_ms"` // of the server's clock ahead of ours
	ClockError    *float64   `json:"clock_error_ms"`  // how far that may be off
	UDP           string     `json:"udp"`
	IPv4          string     `json:"ipv4,omitempty"`
	IPv6          string     `json:"ipv6,omitempty"`
	NAT           string     `json:"nat"`
	Relays        []netRelay `json:"relays"`
	Verdict       string     `json:"verdict"`
	Explanation   string     `json:"explanation"`
}

type netServer struct {
	Reached bool     `json:"reached"`
	Version string   `json:"version,omitempty"`
	Latency *float64 `json:"latency_ms,omitempty"`
	Error   string   `json:"error,omitempty"`
}

type netRelay struct {
	Region  int32    `json:"region"`
	Code    string   `json:"code"`
	Name    string   `json:"name"`
	Home    bool     `json:"home"`
	Latency *float64 `json:"latency_ms,omitempty"`
	UDP     *float64 `json:"udp_latency_ms,omitempty"`
	STUN    bool     `json:"stun"`
	Error   string   `json:"error,omitempty"`
}

func newNetcheck(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "netcheck",
		Short: "Look at the network between here and the server and its relays",
		Long: "Look at what the network here allows: whether the server is reached, by which proxy or\n" +
			"past which login page, how far the clocks are apart, whether UDP passes, what NAT does\n" +
			"to it, and how far the relays are. The last line is the verdict. It needs no workspace.\n\n" +
			"The exit code is 0 when workspaces can be reached, directly or over a relay, 4 when the\n" +
			"server does not accept the login, and 1 otherwise.",
		Example: "  fairlead netcheck\n  fairlead netcheck --output json",
		Args:    cobra.NoArgs,
	}
	profileName := profileFlag(cmd)
	output := outputFlag(cmd)
	cmd.RunE = run(func(cmd *cobra.Command, _ []string) error {
		asJSON, err := output()
		if err != nil {
			return err
		}
		p, err := chooseProfile(*profileName)
		if err != nil {
			return err
		}
		u, err := sdk.ParseURL(p.URL)
		if err != nil {
			return withCode(exitAuth, fmt.Errorf("the login is damaged, log in again: %w", err))
		}
		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
		defer stop()
		status := newStatusLine(s.err)
		status.show("looking at the network")
		report := checkNetwork(ctx, u, p.Token)
		status.clear()
		if ctx.Err() != nil {
			return errors.New("stopped before the verdict")
		}
		if asJSON {
			err = printJSON(s.out, report)
		} else {
			err = report.print(s.out)
		}
		switch {
		case err != nil || report.OK:
			return err
		case report.Verdict == verdictLogin:
			return exitWith(exitAuth)
		}
		return exitWith(exitError)
	})
	return cmd
}

// checkNetwork looks from the server outward: what rests on something that failed is not
// tried.
func checkNetwork(ctx context.Context, u *url.URL, token string) *netReport {
	r := &netReport{
		URL: u.String(), CaptivePortal: portalUnknown, UDP: string(tailnet.UDPUnknown), NAT: string(tailnet.NATUnknown),
		Relays: []netRelay{},
	}
	r.server(ctx, u)
	if r.Server.Reached {
		r.relays(ctx, u, token)
	}
	r.judge()
	return r
}

// server asks who answers, and what stands in between.
func (r *netReport) server(ctx context.Context, u *url.URL) {
	p := &probe{url: u, found: map[string]finding{}}
	defer p.close()
	r.Proxy = p.proxy()
	_, ok := p.reach(ctx)
	r.CaptivePortal = p.portal(ok)
	if !ok {
		for _, name := range []string{"connection", "tls", "answer"} {
			if f := p.found[name]; f.Status == checkFail {
				r.Server.Error = f.Found
			}
		}
		return
	}
	r.Server.Reached = true
	r.clock(ctx, u)
}

// portal guesses whether the login page of a network has answered in the server's place.
func (p *probe) portal(reached bool) string {
	switch {
	case reached:
		return portalNone
	case p.answer == nil:
		return portalUnknown
	}
	status := p.answer.StatusCode
	if status == http.StatusNetworkAuthenticationRequired || status >= 300 && status < 400 || strings.Contains(p.answer.Header.Get("Content-Type"), "html") {
		return portalSuspected
	}
	return portalNone
}

// clock asks the server for its time, on a connection that is there already the second
// time: the offset is as sure as half of that round trip.
func (r *netReport) clock(ctx context.Context, u *url.URL) {
	api, err := sdk.NewClient(u.String(), "")
	if err != nil {
		return
	}
	defer api.Close()
	var best time.Duration
	for range 3 {
		began := time.Now()
		info, err := api.Check(ctx)
		took := time.Since(began)
		if err != nil {
			continue
		}
		r.Server.Version = plain(info.Version)
		if best == 0 || took < best {
			best = took
			offset, uncertain, latency := inMilliseconds(info.Time.Sub(began.Add(took/2))), inMilliseconds(took/2), inMilliseconds(took)
			r.ClockOffset, r.ClockError, r.Server.Latency = &offset, &uncertain, &latency
		}
	}
}

// relays joins the network as a session would, and looks around there.
func (r *netReport) relays(ctx context.Context, u *url.URL, token string) {
	cl, err := client.Open(ctx, client.Options{AccessURL: u, Token: token, Instance: uuid.NewString(), Version: softwareVersion()})
	if err != nil {
		r.Server.Error = err.Error()
		if a, _ := disconnect.FromError(err); loginRefused(a) {
			r.Verdict = verdictLogin
		}
		return
	}
	defer func() {
		cl.Close(context.WithoutCancel(ctx), disconnect.Goodbye{
			Reason: disconnect.Graceful, Initiator: disconnect.Client, Detail: "the netcheck is over",
		})
	}()
	found, err := cl.CheckNetwork(ctx)
	if err != nil {
		r.Server.Error = disconnect.Scrub(err.Error())
		return
	}
	r.UDP, r.NAT = string(found.UDP), string(found.NAT)
	if found.IPv4.IsValid() {
		r.IPv4 = found.IPv4.String()
	}
	if found.IPv6.IsValid() {
		r.IPv6 = found.IPv6.String()
	}
	for _, f := range found.Relays {
		relay := netRelay{Region: f.Region, Code: plain(f.Code), Name: plain(f.Name), Home: f.Home, STUN: f.STUN}
		if f.Err != nil {
			a, _ := disconnect.FromError(f.Err)
			relay.Error = a.String()
			if a.IsZero() {
				relay.Error = plain(f.Err.Error())
			}
		} else {
			latency := inMilliseconds(f.Latency)
			relay.Latency = &latency
		}
		if f.UDP > 0 {
			latency := inMilliseconds(f.UDP)
			relay.UDP = &latency
		}
		r.Relays = append(r.Relays, relay)
	}
}

// judge says in one word, and in one sentence, what all of it means.
func (r *netReport) judge() {
	reached := 0
	for _, relay := range r.Relays {
		if relay.Error == "" {
			reached++
		}
	}
	udp := r.UDP == string(tailnet.UDPWorks)
	switch {
	case r.Verdict == verdictLogin:
		r.Explanation = "the server does not accept this login: log in again"
	case r.CaptivePortal == portalSuspected:
		r.Verdict, r.Explanation = verdictPortal, "something else answers in the server's place, perhaps the login page of this network: open a web page in a browser"
	case !r.Server.Reached || r.Server.Error != "":
		r.Verdict, r.Explanation = verdictOffline, "the server cannot be used from here: "+r.Server.Error
	case reached == 0:
		r.Verdict, r.Explanation = verdictNoRelay, "no relay is in reach, and sessions begin on one: no workspace can be reached from here"
	case udp && r.NAT == string(tailnet.NATHard):
		r.OK, r.Verdict, r.Explanation = true, verdictHardNAT, "workspaces can be reached: directly if their network is easier than this one, whose NAT gives each peer another address, else over a relay"
	case udp:
		r.OK, r.Verdict, r.Explanation = true, verdictDirect, "workspaces can be reached, directly where their own network allows it"
	case r.UDP == string(tailnet.UDPBlocked):
		r.OK, r.Verdict, r.Explanation = true, verdictRelay, "workspaces can be reached, but only over a relay: no UDP packet came back, so a firewall blocks it"
	default:
		r.OK, r.Verdict, r.Explanation = true, verdictRelay, "workspaces can be reached over a relay; whether directly is not known, because no relay in reach offers STUN"
	}
	if r.ClockOffset != nil && (time.Duration(*r.ClockOffset)*time.Millisecond).Abs() > maxSkew {
		r.Explanation += "; the clocks are far apart, so that certificates and tokens look expired or not yet valid"
	}
}

func (r *netReport) print(w io.Writer) error {
	var b strings.Builder
	row := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-9s %s\n", name, fmt.Sprintf(format, args...))
	}
	switch {
	case !r.Server.Reached:
		row("server", "%s: %s", r.URL, r.Server.Error)
	case r.Server.Latency == nil:
		row("server", "%s answers", r.URL)
	default:
		row("server", "%s answers in %.1f ms, version %s", r.URL, *r.Server.Latency, r.Server.Version)
	}
	if r.Proxy == "" {
		row("proxy", "none")
	} else {
		row("proxy", "%s", r.Proxy)
	}
	row("portal", "%s", r.CaptivePortal)
	if r.ClockOffset != nil {
		row("clock", "the server's is %+.1f ms from this machine's, give or take %.1f ms", *r.ClockOffset, *r.ClockError)
	}
	seen := strings.Join(strings.Fields(r.IPv4+" "+r.IPv6), " and ")
	if seen != "" {
		seen = ", seen from outside as " + seen
	}
	row("udp", "%s%s", r.UDP, seen)
	row("nat", "%s", natText(r.NAT))
	for _, relay := range r.Relays {
		row("relay", "%s", relay.text())
	}
	row("verdict", "%s: %s", r.Verdict, r.Explanation)
	_, err := io.WriteString(w, b.String())
	return err
}

func natText(kind string) string {
	switch tailnet.NAT(kind) {
	case tailnet.NATEasy:
		return "easy: every server sees the same address"
	case tailnet.NATHard:
		return "hard: each server sees another address"
	case tailnet.NATUnknown:
		return "unknown: it takes two STUN servers to tell"
	}
	return kind
}

func (r netRelay) text() string {
	text := r.Code
	if r.Name != "" && r.Name != r.Code {
		text += " (" + r.Name + ")"
	}
	switch {
	case r.Error != "":
		return text + ": not in reach: " + r.Error
	case r.Latency != nil:
		text += fmt.Sprintf(": %.1f ms", *r.Latency)
	}
	switch {
	case r.UDP != nil:
		text += fmt.Sprintf(", by UDP %.1f ms", *r.UDP)
	case r.STUN:
		text += ", by UDP no answer"
	}
	if r.Home {
		text += ", chosen"
	}
	return text
}
