package server

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCallerBehindProxies(t *testing.T) {
	trusted, err := parseProxies([]string{"192.0.2.1", " 10.0.0.0/8", "2001:db8:1::/48", "::ffff:198.51.100.7", "::ffff:172.16.0.0/108"})
	require.NoError(t, err)
	for name, c := range map[string]struct {
		peer    string
		headers []string
		want    string
		ignored bool
	}{
		"no header":            {"192.0.2.1:1234", nil, "192.0.2.1:1234", false},
		"one":                  {"192.0.2.1:1234", []string{"203.0.113.9"}, "203.0.113.9:0", false},
		"with the caller's":    {"192.0.2.1:1234", []string{"1.1.1.1, 203.0.113.9"}, "203.0.113.9:0", false},
		"through two":          {"192.0.2.1:1234", []string{"1.1.1.1, 203.0.113.9, 10.3.4.5"}, "203.0.113.9:0", false},
		"two headers":          {"192.0.2.1:1234", []string{"1.1.1.1", "2001:db8::1"}, "[2001:db8::1]:0", false},
		"only proxies":         {"192.0.2.1:1234", []string{"10.0.0.2, 10.3.4.5"}, "10.0.0.2:0", false},
		"garbage last":         {"192.0.2.1:1234", []string{"203.0.113.9, evil\x1b"}, "192.0.2.1:1234", false},
		"garbage behind proxy": {"192.0.2.1:1234", []string{"evil, 10.3.4.5"}, "10.3.4.5:0", false},
		"with ports":           {"192.0.2.1:1234", []string{"203.0.113.9:77"}, "203.0.113.9:0", false},
		"v6 with port":         {"[2001:db8:1::9]:1", []string{"[2001:db8::7]:77"}, "[2001:db8::7]:0", false},
		"mapped peer":          {"[::ffff:192.0.2.1]:1234", []string{"203.0.113.9"}, "203.0.113.9:0", false},
		"mapped in the list":   {"198.51.100.7:1", []string{"::ffff:203.0.113.9"}, "203.0.113.9:0", false},
		"mapped network":       {"172.31.0.9:1", []string{"203.0.113.9"}, "203.0.113.9:0", false},
		"beyond it":            {"172.32.0.9:1", []string{"203.0.113.9"}, "172.32.0.9:1", true},
		"a stranger's word":    {"203.0.113.9:1234", []string{"10.0.0.1"}, "203.0.113.9:1234", true},
	} {
		r := httptest.NewRequestWithContext(t.Context(), "GET", "/", nil)
		r.RemoteAddr = c.peer
		if c.headers != nil {
			r.Header["X-Forwarded-For"] = c.headers
		}
		got, ignored := trusted.caller(r)
		require.Equal(t, c.want, got, name)
		require.Equal(t, c.ignored, ignored, name)
	}
}

func TestTrustedProxiesOption(t *testing.T) {
	refuse(t, Options{Listen: "127.0.0.1:0", TrustedProxies: []string{"10.0.0.0/8", "proxy.example.com"}}, `trusted proxies: "proxy.example.com" is not an address`)
	refuse(t, Options{Listen: "127.0.0.1:0", TrustedProxies: []string{"10.0.0.0/33"}}, "trusted proxies")

	for name, c := range map[string]struct {
		change func(*Options)
		want   string // remote_addr of the refused relay connection, as far as it is known
		warned bool
	}{
		"nobody":       {nil, "127.0.0.1:", true},
		"this host":    {func(o *Options) { o.BehindProxy = true }, "203.0.113.9:0", false},
		"by name":      {func(o *Options) { o.TrustedProxies = []string{"127.0.0.1"} }, "203.0.113.9:0", false},
		"another host": {func(o *Options) { o.BehindProxy, o.TrustedProxies = true, []string{"192.0.2.0/24"} }, "127.0.0.1:", true},
	} {
		t.Run(name, func(t *testing.T) {
			s := run(t, c.change)
			for range 3 {
				req, err := http.NewRequestWithContext(t.Context(), "GET", s.URL().String()+"/api/v1/relay", nil)
				require.NoError(t, err)
				req.Header.Set("X-Forwarded-For", "1.1.1.1, 203.0.113.9")
				require.Equal(t, http.StatusUnauthorized, do(t, req).StatusCode)
			}
			require.Contains(t, s.log.String(), `"remote_addr":"`+c.want)
			warnings := 0
			if c.warned {
				warnings = 1
			}
			require.Equal(t, warnings, strings.Count(s.log.String(), "a proxy that is not trusted"))
		})
	}
}
