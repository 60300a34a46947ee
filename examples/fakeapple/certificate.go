package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// newCertificate makes a certificate that signs itself, for this machine and the hosts of the address and the public URL, and
// writes it to a file that a client can be told to trust.
func newCertificate(addr, publicURL string) (tls.Certificate, string, error) {
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader) // which does not fail
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "fakeapple"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(30 * 24 * time.Hour),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		IsCA:                  true, // some clients trust nothing else
	}
	host, _, _ := net.SplitHostPort(addr)
	public, _ := url.Parse(publicURL)
	for _, name := range []string{"localhost", "127.0.0.1", "::1", host, public.Hostname()} {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else if name != "" {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, "", err
	}
	path := filepath.Join(os.TempDir(), "fakeapple-"+rand.Text()+".pem")
	err = os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, path, err
}
