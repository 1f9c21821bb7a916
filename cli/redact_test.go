package cli

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestRedact: secrets by their looks and by what this process knows; what only resembles
// one stays readable.
func TestRedact(t *testing.T) {
	r := newRedactor([]string{"known-secret", "known", ""}, []string{
		"MY_TOKEN=of-the-environment", "PASSWORD=line\nbreak\"quote", "PATH=/usr/bin:/bin", "SHORT_KEY=abc",
	})
	const pem = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\nc2VjcmV0\n"
	for text, secret := range map[string]string{
		"a known-secret here":                       "known-secret",
		"value of-the-environment.":                 "of-the-environment",
		`{"detail":"line\nbreak\"quote"}`:           "quote",
		"token fl_u_AbC-_0123456789 was refused":    "AbC",
		"cut off fl_a_Ab":                           "fl_a_Ab",
		"login --code 4kx0-9mqt-77ab-zc2d":          "9mqt",
		pem + "-----END OPENSSH PRIVATE KEY-----\n": "c2VjcmV0",
		pem:                                     "c2VjcmV0",
		"Authorization: Bearer abc.def":         "abc.def",
		"authorization=Basic dXNlcjpwYXNz":      "dXNlcjpwYXNz",
		"proxy http://ada:hunter22@proxy:3128/": "hunter22",
		`"password": "hunter22", "user": "ada"`: "hunter22",
		"api_key=hunter22&x=1":                  "hunter22",
		"jwt eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abcDEF was seen": "eyJzdWIiOiIxIn0",
	} {
		got := r.redact(text)
		require.NotContains(t, got, secret, text)
		require.Contains(t, got, hidden)
	}
	for _, text := range []string{
		"f607f3ca-0176-4bbb-94c3-675e98765560", "the token has expired", "https://fairlead.example.com/x@y", "/usr/bin:/bin abc",
		`reason=auth_revoked initiator=server detail="the token was revoked"`, "SHA256:abcdefghijklmnopqrstuvwxyz",
	} {
		require.Equal(t, text, r.redact(text))
	}
	require.Contains(t, r.redact(`"password": "hunter22", "user": "ada"`), `"user": "ada"`)
	require.False(t, strings.Contains(r.redact(strings.Repeat("fl_u_x ", 1000)), "fl_u_"))
}
