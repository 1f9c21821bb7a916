package cli

import (
	"bytes"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPlainBeyondLoopback(t *testing.T) {
	for text, plain := range map[string]bool{
		"http://127.0.0.1:7080": false, "http://127.9.9.9": false, "http://[::1]:7080": false, "http://[::ffff:127.0.0.1]": false,
		"http://localhost": false, "http://LOCALHOST.:80": false, "http://fairlead.localhost": false,
		"https://fairlead.example.com": false, "https://10.0.0.1": false,
		"http://fairlead.example.com": true, "http://10.0.0.1": true, "http://0.0.0.0": true, "http://[::]": true,
		"http://localhost.example.com": true, "http://notlocalhost": true, "http://127.0.0.1.example.com": true,
	} {
		u, err := url.Parse(text)
		require.NoError(t, err)
		require.Equal(t, plain, plainBeyondLoopback(u), text)
	}
}

// TestPlainHTTPIsRefused: nothing leaves this machine before the word is given.
func TestPlainHTTPIsRefused(t *testing.T) {
	t.Setenv("FAIRLEAD_CONFIG_DIR", t.TempDir())
	t.Setenv("HTTP_PROXY", "") // an address nobody has must not lead anywhere else
	login := func(args ...string) (int, string) {
		var out, errOut bytes.Buffer
		code := Run(t.Context(), append([]string{"login", "http://192.0.2.1:1", "--code", "x"}, args...), nil, &out, &errOut)
		require.Empty(t, out.String())
		return code, errOut.String()
	}
	var errOut bytes.Buffer
	t.Setenv("FAIRLEAD_AGENT_TOKEN", "fl_a_x")
	require.Equal(t, exitUsage, Run(t.Context(), []string{"agent", "http://192.0.2.1:1", "--state-dir", t.TempDir()}, nil, &errOut, &errOut))
	require.Contains(t, errOut.String(), "refusing to use http://192.0.2.1:1: plain HTTP")

	code, text := login()
	require.Equal(t, exitUsage, code)
	require.Contains(t, text, "refusing to log in to http://192.0.2.1:1: plain HTTP")
	require.Contains(t, text, "--insecure-http")
}
