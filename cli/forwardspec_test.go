package cli

import (
	"testing"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/client"
)

// TestForwardSpecs: what OpenSSH takes, and one sentence for what it would not.
func TestForwardSpecs(t *testing.T) {
	tcp := func(address string) client.Endpoint { return client.Endpoint{Network: "tcp", Address: address} }
	unix := func(path string) client.Endpoint { return client.Endpoint{Network: "unix", Address: path} }
	none := client.Endpoint{}
	for spec, want := range map[string][2]client.Endpoint{
		"8080:web:80":                 {tcp("localhost:8080"), tcp("web:80")},
		"0:web:80":                    {tcp("localhost:0"), tcp("web:80")},
		"127.0.0.1:8080:web:80":       {tcp("127.0.0.1:8080"), tcp("web:80")},
		"*:8080:web:80":               {tcp(":8080"), tcp("web:80")},
		":8080:web:80":                {tcp(":8080"), tcp("web:80")},
		"[::1]:8080:[2001:db8::1]:80": {tcp("[::1]:8080"), tcp("[2001:db8::1]:80")},
		"8080:/run/web.sock":          {tcp("localhost:8080"), unix("/run/web.sock")},
		"10.0.0.1:8080:/run/web":      {tcp("10.0.0.1:8080"), unix("/run/web")},
		"./here.sock:web:80":          {unix("./here.sock"), tcp("web:80")},
		"/tmp/a:/run/b":               {unix("/tmp/a"), unix("/run/b")},
		`/tmp/a\:b:/run/c`:            {unix("/tmp/a:b"), unix("/run/c")},
	} {
		f, err := parseForward(spec, false)
		require.NoError(t, err, spec)
		require.Equal(t, want, [2]client.Endpoint{f.Listen, f.Target}, spec)
		f, err = parseForward(spec, true)
		require.NoError(t, err, spec)
		require.True(t, f.Remote)
	}
	for spec, listen := range map[string]client.Endpoint{"1080": tcp("localhost:1080"), "[::1]:0": tcp("[::1]:0"), "*:1080": tcp(":1080")} {
		f, err := parseDynamic(spec)
		require.NoError(t, err, spec)
		require.Equal(t, client.Forward{Listen: listen, Target: none}, f)
		f, err = parseForward(spec, true)
		require.NoError(t, err, spec)
		require.Equal(t, client.Forward{Remote: true, Listen: listen}, f)
	}
	for spec, want := range map[string][2]client.Endpoint{
		"80":      {tcp("localhost:80"), tcp("localhost:80")},
		"8080:80": {tcp("localhost:8080"), tcp("localhost:80")},
		"0:80":    {tcp("localhost:0"), tcp("localhost:80")},
	} {
		f, err := parsePort(spec)
		require.NoError(t, err, spec)
		require.Equal(t, want, [2]client.Endpoint{f.Listen, f.Target}, spec)
	}
	for _, spec := range []string{"", ":", "x", "80", "80:", "80:web", "80:web:", "80:web:0", "80:web:65536", "web:80", "a:b:c:d:e", "[::1:80:web:80",
		"[::1]x:80:web:80", "80::80", `80:web:80\`, "65536:web:80", "-1:web:80", "80:web:80:90", "/a", "/a:web", "80:web:/x/y:1"} {
		_, err := parseForward(spec, false)
		require.ErrorContains(t, err, "is not a forward; it has the form", "%q", spec)
	}
	for _, spec := range []string{"", "x", "/a", "1:2:3", "70000", "a:b"} {
		_, err := parseDynamic(spec)
		require.Error(t, err, "%q", spec)
		_, err = parsePort(spec)
		require.Error(t, err, "%q", spec)
	}
}

func TestByteCount(t *testing.T) {
	for n, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 5 << 20: "5.0 MiB", 3 << 30: "3.0 GiB", 1<<64 - 1: "16384.0 PiB"} {
		require.Equal(t, want, byteCount(n))
	}
}
