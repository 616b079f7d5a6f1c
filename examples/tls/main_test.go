package main

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/foyerws/foyer"
	"github.com/foyerws/foyer/foyertest"
	"github.com/foyerws/foyer/internal/crowd"
)

func TestClientCertificates(t *testing.T) {
	dir := t.TempDir()
	s, err := serve("127.0.0.1:0", dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ca, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{RootCAs: x509.NewCertPool()}
	config.RootCAs.AppendCertsFromPEM(ca)

	if _, _, err := foyer.Dial(t.Context(), s.URL().String(), &foyer.DialOptions{TLSConfig: config}); err == nil || !strings.Contains(err.Error(), "certificate required") {
		t.Error(err)
	}
	alice, err := tls.LoadX509KeyPair(filepath.Join(dir, "client.pem"), filepath.Join(dir, "client.key"))
	if err != nil {
		t.Fatal(err)
	}
	config.Certificates = []tls.Certificate{alice}
	c := foyertest.Dial(t, s.URL().String(), &foyer.DialOptions{TLSConfig: config})
	if _, p, err := c.Read(t.Context()); err != nil || string(p) != "hello, alice" {
		t.Errorf("%q, %v", p, err)
	}
	crowd.Come(t, s.URL().String(), &foyer.DialOptions{TLSConfig: config}, crowd.Echo("hello, alice"))
}
