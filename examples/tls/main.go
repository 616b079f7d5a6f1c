// Tls serves wss to clients that show a certificate, and greets them by the name in it. At the start it makes an authority
// and writes to a directory what a client needs: ca.pem, client.pem and client.key.
//
//	go run ./examples/tls -dir /tmp/certs
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"flag"
	"log"
	"math/big"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/foyerws/foyer"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8443", "address to listen on")
	dir := flag.String("dir", ".", "where to write the certificates for a client")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()

	s, err := serve(*addr, *dir)
	if err != nil {
		log.Fatal(err)
	}
	log.Println("listening on", s.URL())
	<-ctx.Done()
	if err := s.Close(); err != nil {
		log.Fatal(err)
	}
}

// serve serves wss at addr, having written a client's files to dir.
func serve(addr, dir string) (*foyer.Server, error) {
	ca, err := newAuthority()
	if err != nil {
		return nil, err
	}
	server, err := ca.issue("localhost", x509.ExtKeyUsageServerAuth)
	if err != nil {
		return nil, err
	}
	client, err := ca.issue("alice", x509.ExtKeyUsageClientAuth)
	if err != nil {
		return nil, err
	}
	if err := writeClient(dir, ca, client); err != nil {
		return nil, err
	}

	h := &foyer.Handler{} // which logs clients that do not get so far
	s := &foyer.Server{Handler: h, TLSConfig: &tls.Config{
		Certificates: []tls.Certificate{server},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    ca.pool(),
	}}
	if err := s.Listen("tcp", addr); err != nil {
		return nil, err
	}
	go h.ForEach(context.Background(), greet)
	return s, nil
}

// greet finds out who the client is from the request of its handshake.
func greet(ctx context.Context, s *foyer.Socket) {
	name := s.Request().TLS.PeerCertificates[0].Subject.CommonName
	s.SendText(ctx, "hello, "+name)
	for {
		t, p, err := s.Read(ctx)
		if err != nil || s.Write(ctx, t, p) != nil {
			return
		}
	}
}

// An authority signs certificates.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "foyer example authority"},
		NotBefore:             time.Now().Add(-time.Minute),
		NotAfter:              time.Now().Add(24 * time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	return &authority{certificate, key}, err
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.certificate)
	return pool
}

// issue returns a certificate for a name.
func (a *authority) issue(name string, use x509.ExtKeyUsage) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: name},
		DNSNames:     []string{name},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		NotBefore:    time.Now().Add(-time.Minute),
		NotAfter:     time.Now().Add(24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{use},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// writeClient writes what a client needs to dir.
func writeClient(dir string, ca *authority, client tls.Certificate) error {
	key, err := x509.MarshalPKCS8PrivateKey(client.PrivateKey)
	if err != nil {
		return err
	}
	return errors.Join(
		writePEM(filepath.Join(dir, "ca.pem"), "CERTIFICATE", ca.certificate.Raw),
		writePEM(filepath.Join(dir, "client.pem"), "CERTIFICATE", client.Certificate[0]),
		writePEM(filepath.Join(dir, "client.key"), "PRIVATE KEY", key),
	)
}

func writePEM(name, kind string, der []byte) error {
	return os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}
