package cli

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/sdk"
	"fairlead.dev/fairlead/server"
)

// check runs `fairlead server check` and returns its report, which must fit its exit
// code and its form for people.
func check(t *testing.T, target string, args ...string) checkReport {
	t.Helper()
	var out, errOut bytes.Buffer
	code := Run(t.Context(), append([]string{"server", "check", target, "--output", "json"}, args...), nil, &out, &errOut)
	require.Empty(t, errOut.String())
	var report checkReport
	require.NoError(t, json.Unmarshal(out.Bytes(), &report), out.String())
	require.Equal(t, report.OK, code == exitOK)
	require.Len(t, report.Checks, len(checkNames))
	for i, f := range report.Checks {
		require.Equal(t, checkNames[i], f.Name)
		require.Contains(t, []string{checkOK, checkFail, checkSkip}, f.Status)
		require.NotEmpty(t, f.Found)
		require.Equal(t, f.Status == checkFail, f.Meaning != "" && f.Advice != "", "%+v", f)
	}
	var text bytes.Buffer
	require.NoError(t, report.print(&text))
	require.Equal(t, report.OK, !strings.Contains(text.String(), "What to do: "))
	return report
}

// failed returns what the only failed check found.
func (r checkReport) failed(t *testing.T, name string) string {
	t.Helper()
	found := ""
	for _, f := range r.Checks {
		if f.Status == checkFail {
			require.Equal(t, name, f.Name, "%+v", r)
			found = f.Found
		}
	}
	require.NotEmpty(t, found, "%s has not failed: %+v", name, r)
	return found
}

// probeOf runs the checks that need no WebSocket, which takes its time.
func probeOf(t *testing.T, target string) *probe {
	t.Helper()
	u, err := url.Parse(target)
	require.NoError(t, err)
	p := &probe{url: u, found: map[string]finding{}}
	defer p.close()
	info, ok := p.reach(t.Context())
	require.True(t, ok, "%+v", p.found)
	p.clock(info)
	p.accessURL(t.Context(), info)
	failed := 0
	for _, f := range p.found {
		if f.Status == checkFail {
			failed++
		}
	}
	require.Equal(t, 1, failed, "%+v", p.found)
	return p
}

// runServer runs a real server for the test and returns its URL.
func runServer(t *testing.T, change func(*server.Options)) string {
	t.Helper()
	opts := server.Options{Listen: "127.0.0.1:0", StateDir: t.TempDir(), Version: "v1.2.3-test"}
	if change != nil {
		change(&opts)
	}
	s, err := server.New(t.Context(), opts)
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- s.Serve() }()
	t.Cleanup(func() {
		require.NoError(t, s.Close(context.Background()))
		require.NoError(t, <-served)
	})
	return "http://" + s.Addr().String()
}

func TestCheckOfAGoodServer(t *testing.T) {
	t.Parallel()
	u := runServer(t, nil)
	t.Run("by its access URL", func(t *testing.T) {
		t.Parallel()
		require.True(t, check(t, u).OK)
	})
	t.Run("by another name", func(t *testing.T) {
		t.Parallel()
		report := check(t, strings.Replace(u, "127.0.0.1", "localhost", 1))
		require.True(t, report.OK)
		require.Contains(t, report.Checks[5].Found, "which leads to it as well")
	})
}

func TestCheckFindsAClockThatDiffers(t *testing.T) {
	t.Parallel()
	for _, skew := range []time.Duration{time.Hour, -time.Hour} {
		t.Run(skew.String(), func(t *testing.T) {
			t.Parallel()
			u := runServer(t, func(o *server.Options) { o.Now = func() time.Time { return time.Now().Add(skew) } })
			want := map[bool]string{true: "ahead of", false: "behind"}[skew > 0]
			require.Regexp(t, `the server's clock is (1h0m|59m)\d+s `+want+` this machine's`, probeOf(t, u).found["clock"].Found)
		})
	}
}

func TestCheckFindsAWrongAccessURL(t *testing.T) {
	t.Parallel()
	other := runServer(t, nil)
	for access, want := range map[string]string{
		other:                "another server answers there",
		"http://127.0.0.1:1": "does not lead to it",
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			u := runServer(t, func(o *server.Options) { o.AccessURL = access })
			require.Contains(t, probeOf(t, u).found["access_url"].Found, want)
		})
	}
}

func TestCheckFindsPlainHTTP(t *testing.T) {
	t.Parallel()
	p := &probe{url: &url.URL{Scheme: "http", Host: "fairlead.example.com"}, found: map[string]finding{}}
	p.encryption(false)
	require.Equal(t, checkFail, p.found["encryption"].Status)
	p.encryption(true)
	require.Equal(t, checkOK, p.found["encryption"].Status)
}

// TestCheckFindsWhoElseAnswers: what is there instead of the server.
func TestCheckFindsWhoElseAnswers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		want    string
	}{
		"a page": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			_, _ = io.WriteString(w, "<html>\x1b[31m")
		}, "is not a Fairlead server: it answered with status 200 and text/html"},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://login.example.com/", http.StatusFound)
		}, `redirects to "https://login.example.com/"`},
		"a login":   {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }, "status 403"},
		"no server": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }, "does not answer"},
		"an older one": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set(sdk.HeaderVersion, "v0")
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, `{"error":{"code":"not_found","message":"this Fairlead server has nothing at that path"}}`)
		}, "does not know this check"},
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(c.handler)
			defer s.Close()
			found := check(t, s.URL).failed(t, "answer")
			require.Contains(t, found, c.want)
			require.NotContains(t, found, "\x1b")
		})
	}
}

func TestCheckFindsNobody(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, ln.Close())
	require.Contains(t, check(t, "http://"+ln.Addr().String()).failed(t, "connection"), "refuses connections")
	require.Contains(t, check(t, "https://nobody.invalid").failed(t, "connection"), `"nobody.invalid" does not resolve`)

	ssh, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	talked := make(chan struct{})
	go func() {
		defer close(talked)
		for {
			conn, err := ssh.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "SSH-2.0-OpenSSH_9.2\r\n")
			_, _ = conn.Read(make([]byte, 1))
			_ = conn.Close()
		}
	}()
	require.Contains(t, check(t, "http://"+ssh.Addr().String()).failed(t, "answer"), "does not speak HTTP")
	require.NoError(t, ssh.Close())
	<-talked

	var out, errOut bytes.Buffer
	require.Equal(t, exitUsage, Run(t.Context(), []string{"server", "check", "fairlead.example.com"}, nil, &out, &errOut))
	require.Contains(t, errOut.String(), "is not a server URL")
}

func TestCheckFindsBadTLS(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for name, c := range map[string]struct {
		cert tls.Certificate
		want string
	}{
		"expired":    {certify(t, "localhost", now.Add(-48*time.Hour), now.Add(-time.Hour)), "the certificate is valid from"},
		"not yet":    {certify(t, "localhost", now.Add(time.Hour), now.Add(48*time.Hour)), "the certificate is valid from"},
		"wrong name": {certify(t, "other.example.com", now.Add(-time.Hour), now.Add(time.Hour)), `the certificate is for other.example.com, not for "localhost"`},
		"no trust":   {certify(t, "localhost", now.Add(-time.Hour), now.Add(time.Hour)), "signed by nobody whom this machine trusts"},
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewUnstartedServer(http.NotFoundHandler())
			s.TLS = &tls.Config{Certificates: []tls.Certificate{c.cert}}
			s.Config.ErrorLog = log.New(io.Discard, "", 0)
			s.StartTLS()
			defer s.Close()
			_, port, err := net.SplitHostPort(s.Listener.Addr().String())
			require.NoError(t, err)
			require.Contains(t, check(t, "https://localhost:"+port).failed(t, "tls"), c.want)
		})
	}
	t.Run("plain HTTP", func(t *testing.T) {
		s := httptest.NewServer(http.NotFoundHandler())
		defer s.Close()
		require.Contains(t, check(t, strings.Replace(s.URL, "http", "https", 1)).failed(t, "tls"), "does not speak TLS")
	})
	t.Run("expires soon", func(t *testing.T) {
		cert := certify(t, "localhost", now.Add(-time.Hour), now.Add(3*time.Hour))
		leaf, err := x509.ParseCertificate(cert.Certificate[0])
		require.NoError(t, err)
		p := &probe{found: map[string]finding{}}
		p.certificate(&http.Response{TLS: &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}})
		require.Equal(t, checkFail, p.found["tls"].Status)
		require.Contains(t, p.found["tls"].Found, "the certificate expires in ")
	})
}

// certify returns a certificate that nobody trusts.
func certify(t *testing.T, name string, from, until time.Time) tls.Certificate {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: from, NotAfter: until, DNSNames: []string{name}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}
}
