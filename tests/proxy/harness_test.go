package proxy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/tests/site"
)

func TestMain(m *testing.M) { site.Main(m) }

// machine is where the processes of one test live.
type machine struct {
	*site.Site
	t *testing.T
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	return &machine{site.Empty(t), t}
}

// certify writes a certificate for the names, trusted by the machine's fairlead
// processes, and returns its files.
func (m *machine) certify(names ...string) (cert, key string) {
	m.t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(m.t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(0, 1, 0),
		DNSNames: names, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	require.NoError(m.t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(m.t, err)
	cert = m.Write("cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	key = m.Write("key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})))
	m.Setenv("SSL_CERT_FILE=" + cert)
	return cert, key
}

// settle logs in at url, creates the workspace dev and starts its agent.
func (m *machine) settle(url string) {
	m.t.Helper()
	m.URL = url
	m.Settle()
	m.LaunchAgent("--force-relay")
}

// report is the output of `fairlead server check --output json`.
type report struct {
	OK     bool `json:"ok"`
	Checks []struct {
		Name, Status, Found, Meaning, Advice string
	} `json:"checks"`
	Code int
}

func (m *machine) check(url string, args ...string) report {
	m.t.Helper()
	r := m.Run(append([]string{"server", "check", url, "--output", "json"}, args...)...)
	out := report{Code: r.Code}
	require.NoError(m.t, json.Unmarshal([]byte(r.Stdout), &out), "%s%s", r.Stdout, r.Stderr)
	return out
}

// requireFailed checks that exactly the named checks failed, and returns what the
// first found.
func (r report) requireFailed(t *testing.T, names ...string) string {
	t.Helper()
	var failed []string
	found := ""
	for _, c := range r.Checks {
		if c.Status != "fail" {
			continue
		}
		if failed = append(failed, c.Name); found == "" {
			found = c.Found
		}
		require.NotEmpty(t, c.Meaning)
		require.NotEmpty(t, c.Advice)
	}
	require.Equal(t, names, failed, "%+v", r)
	require.Equal(t, len(names) == 0, r.OK)
	require.Equal(t, map[bool]int{true: 0, false: 1}[r.OK], r.Code)
	return found
}
