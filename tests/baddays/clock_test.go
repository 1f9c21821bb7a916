package baddays

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/server"
	"fairlead.dev/fairlead/tests/site"
)

// skewed is a site whose server's clock is off against that of its agent and clients.
// The server is in this process, because its clock can be set there; the rest are real
// processes with the machine's clock.
func skewed(t *testing.T, skew time.Duration) *site.Site {
	t.Helper()
	s := site.Empty(t)
	log := site.NewOutput()
	srv, err := server.New(t.Context(), server.Options{
		Listen: s.Address, StateDir: s.Path("server"), Local: true, Logger: slog.New(slog.NewJSONHandler(log, nil)),
		Now: func() time.Time { return time.Now().Add(skew) },
	})
	require.NoError(t, err)
	user, agent, err := srv.EnsureLocal(t.Context(), "admin", "dev")
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- srv.Serve() }()
	t.Cleanup(func() {
		require.NoError(t, srv.Close(context.Background()))
		require.NoError(t, <-served)
		if t.Failed() {
			t.Logf("server:\n%s", log)
		}
	})
	s.Must("login", s.URL, "--token-file", s.Write("user-token", user))
	s.Write("agent-token", agent)
	s.StartAgent()
	return s
}

// TestClocksDisagree: with a server an hour ahead or behind, sessions, relays and tokens
// with an end all work, and the check names the difference.
func TestClocksDisagree(t *testing.T) {
	t.Parallel()
	for name, skew := range map[string]time.Duration{"server ahead": time.Hour, "server behind": -time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := skewed(t, skew)
			require.Equal(t, "direct\n", s.Must("ssh", "dev", "--", "echo direct"))
			require.Equal(t, "relayed\n", s.Must("ssh", "--force-relay", "dev", "--", "echo relayed"))

			// Ten minutes are ten minutes, whoever's clock counts.
			s.Must("token", "create", "short", "--expires", "10m", "--token-file", s.Path("short"))
			other := site.NewHome(t)
			other.Must("login", s.URL, "--token-file", s.Path("short"))
			require.Equal(t, "short\n", other.Must("ssh", "dev", "--", "echo short"))
			s.Must("token", "create", "over", "--expires", "2s", "--token-file", s.Path("over"))
			late := site.NewHome(t)
			site.Eventually(t, "the end of a token of two seconds", func() bool {
				return late.Run("login", s.URL, "--token-file", s.Path("over")).Code == 4
			})

			r := s.Run("server", "check", s.URL)
			require.Equal(t, 1, r.Code)
			require.Contains(t, r.Stdout, "fail  clock")
			require.Contains(t, r.Stdout, "the server's clock is 1h0m0s "+strings.TrimPrefix(name, "server "))

			s.Agent.Stop()
			begin := time.Now()
			r = s.Run("ssh", "dev", "--", "true")
			require.Equal(t, 255, r.Code)
			require.Contains(t, r.Stderr, "is offline since")
			require.Less(t, time.Since(begin), 10*time.Second)
			if skew > 0 {
				require.Contains(t, r.Stderr, "the server's clock is ahead of this machine's by ")
			}
		})
	}
}

// TestCertificateAndClock: a certificate that is not valid by this machine's clock is
// told with that clock, because either may be wrong.
func TestCertificateAndClock(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for name, c := range map[string]struct {
		from, until time.Time
		says        string
	}{
		"this clock is behind": {now.Add(30 * time.Minute), now.Add(time.Hour), "is not valid yet"},
		"this clock is ahead":  {now.Add(-time.Hour), now.Add(-30 * time.Minute), "is not valid any more"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := site.Empty(t)
			cert := certificate(t, c.from, c.until)
			key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
			require.NoError(t, err)
			certFile := s.Write("cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]})))
			keyFile := s.Write("key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})))
			s.StartServer("--tls-cert", certFile, "--tls-key", keyFile)
			url := "https://localhost" + s.Address[strings.LastIndex(s.Address, ":"):]
			s.Setenv("SSL_CERT_FILE="+certFile, "FAIRLEAD_URL="+url, "FAIRLEAD_TOKEN=fl_u_x")

			r := s.Run("ssh", "dev", "--", "true")
			require.Equal(t, 255, r.Code, r.Stderr)
			require.Contains(t, r.Stderr, "the certificate of the server at "+url+" "+c.says)
			require.Contains(t, r.Stderr, "by this machine's clock")
			require.Equal(t, 1, strings.Count(r.Stderr, "\n"), r.Stderr)

			agent := s.Start("agent", url, "--token-file", s.Write("agent-token", "fl_a_x"), "--state-dir", s.Path("agent"), "--log-format", "json")
			agent.Stderr.AwaitText(t, `"attempt":3,`)
			for _, w := range agent.Stderr.Records(t) {
				require.Equal(t, "tls_failure", w["reason"], w)
				require.Contains(t, w["error"], "current time", "it names the clock")
			}
			agent.Stop()
		})
	}
}
