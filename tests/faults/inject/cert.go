package inject

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

// Certificate is what a server shows, in files, from an authority of the lab's own. Who
// is to trust it starts with SSL_CERT_FILE=CAFile.
type Certificate struct {
	CertFile, KeyFile, CAFile string

	ca    *x509.Certificate
	caKey *ecdsa.PrivateKey
	names []string
}

// NewCertificate makes an authority and a certificate in a directory, for names and
// addresses, good from an hour ago to a day from now.
func NewCertificate(dir string, names ...string) (*Certificate, error) {
	c := &Certificate{
		CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem"), CAFile: filepath.Join(dir, "ca.pem"),
		names: names,
	}
	var err error
	if c.caKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	c.ca = &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority of the lab"},
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, c.ca, c.ca, c.caKey.Public(), c.caKey)
	if err != nil {
		return nil, err
	}
	if err := writePEM(c.CAFile, "CERTIFICATE", der); err != nil {
		return nil, err
	}
	return c, c.issue(time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour))
}

// issue replaces key and certificate.
func (c *Certificate) issue(from, until time.Time) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return err
	}
	leaf := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "the lab's server"}, NotBefore: from, NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, name := range c.names {
		if addr, err := netip.ParseAddr(name); err == nil {
			leaf.IPAddresses = append(leaf.IPAddresses, net.IP(addr.AsSlice()))
		} else {
			leaf.DNSNames = append(leaf.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, c.ca, key.Public(), c.caKey)
	if err != nil {
		return err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := writePEM(c.KeyFile, "PRIVATE KEY", pkcs8); err != nil {
		return err
	}
	return writePEM(c.CertFile, "CERTIFICATE", der)
}

func writePEM(path, kind string, der []byte) error {
	fresh := path + ".new"
	if err := os.WriteFile(fresh, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		return err
	}
	return os.Rename(fresh, path)
}

// Expire puts a certificate in the place of the good one that was over an hour ago. Servers
// that watch their files show it from the next connection on; connections that are open
// stay. The undo issues a good one.
func (c *Certificate) Expire(ctx context.Context) (*Injection, error) {
	return inject(ctx, Truth{Fault: "certificate expired", Whom: fmt.Sprint(c.names)},
		func(context.Context) error {
			return c.issue(time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour))
		},
		func(context.Context) error {
			return c.issue(time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour))
		})
}
