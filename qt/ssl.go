package qt

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/foyerws/foyer"
)

// An SslConfiguration is QSslConfiguration. It must not be changed once a socket or server has it.
type SslConfiguration = *tls.Config

// An SslMode says whether a [WebSocketServer] speaks wss.
type SslMode int

// The modes of a server.
const (
	SecureMode    SslMode = iota // wss
	NonSecureMode                // ws
)

// An SslErrorType is QSslError::SslError.
type SslErrorType int

// The errors of a certificate that are told apart.
const (
	NoError                           SslErrorType = 0
	CertificateNotYetValid            SslErrorType = 5
	CertificateExpired                SslErrorType = 6
	SelfSignedCertificate             SslErrorType = 9
	UnableToGetLocalIssuerCertificate SslErrorType = 11
	CertificateUntrusted              SslErrorType = 17
	NoPeerCertificate                 SslErrorType = 21
	HostNameMismatch                  SslErrorType = 22
	UnspecifiedError                  SslErrorType = -1
)

// An SslError is QSslError: something wrong with the peer's certificate.
type SslError struct {
	kind        SslErrorType
	text        string
	certificate *x509.Certificate
}

// NewSslError returns an error, for [WebSocket.IgnoreTheseSslErrors]. certificate may be nil.
func NewSslError(kind SslErrorType, certificate *x509.Certificate) SslError {
	return SslError{kind: kind, certificate: certificate}
}

// Error returns the type of the error.
func (e SslError) Error() SslErrorType { return e.kind }

// ErrorString returns a description in English.
func (e SslError) ErrorString() string { return e.text }

// Certificate returns the certificate that the error is about, or nil.
func (e SslError) Certificate() *x509.Certificate { return e.certificate }

// equal reports whether two errors are of the same type and about the same certificate.
func (e SslError) equal(other SslError) bool {
	return e.kind == other.kind && (e.certificate == other.certificate || e.certificate.Equal(other.certificate))
}

// verify returns what is wrong with the certificates of the server that has this name, and the chains to a trusted one if
// nothing is.
func verify(state tls.ConnectionState, config *tls.Config, name string) (found []SslError, chains [][]*x509.Certificate) {
	leaf := state.PeerCertificates[0] // crypto/tls accepts no server without one
	options := x509.VerifyOptions{Roots: config.RootCAs, Intermediates: x509.NewCertPool(), CurrentTime: time.Now()}
	if config.Time != nil {
		options.CurrentTime = config.Time()
	}
	for _, c := range state.PeerCertificates[1:] {
		options.Intermediates.AddCert(c)
	}
	now := options.CurrentTime
	chains, err := leaf.Verify(options)
	if e := sslError(err, leaf, now); err != nil && (e.kind == CertificateExpired || e.kind == CertificateNotYetValid) {
		found = append(found, e)
		// Ignoring this error must not ignore what else there is: an issuer that is not known, or not valid now.
		options.CurrentTime = leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) / 2)
		if chains, err = leaf.Verify(options); err == nil && !slices.ContainsFunc(chains, func(chain []*x509.Certificate) bool { return validIssuers(chain, now) }) ||
			errors.As(err, new(x509.CertificateInvalidError)) {
			err = errors.New("the certificate of an issuer is not valid")
		}
	}
	if err != nil {
		found = append(found, sslError(err, leaf, now))
	}
	if err := leaf.VerifyHostname(name); err != nil {
		found = append(found, sslError(err, leaf, now))
	}
	if len(found) > 0 {
		return found, nil
	}
	return nil, chains
}

// validIssuers reports whether the certificates of a chain are valid at a time, but for the first.
func validIssuers(chain []*x509.Certificate, at time.Time) bool {
	for _, c := range chain[1:] {
		if at.Before(c.NotBefore) || at.After(c.NotAfter) {
			return false
		}
	}
	return true
}

// sslError returns what Qt calls an error of crypto/x509 about leaf or one of its issuers.
func sslError(err error, leaf *x509.Certificate, now time.Time) SslError {
	if err == nil {
		return SslError{}
	}
	e := SslError{kind: CertificateUntrusted, text: err.Error(), certificate: leaf}
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired && invalid.Cert != nil:
		e.kind, e.certificate = CertificateExpired, invalid.Cert
		if now.Before(invalid.Cert.NotBefore) {
			e.kind = CertificateNotYetValid
		}
	case errors.As(err, new(x509.HostnameError)):
		e.kind = HostNameMismatch
	case errors.As(err, new(x509.UnknownAuthorityError)) && leaf != nil && leaf.CheckSignatureFrom(leaf) == nil:
		e.kind = SelfSignedCertificate
	case errors.As(err, new(x509.UnknownAuthorityError)):
		e.kind = UnableToGetLocalIssuerCertificate
	}
	return e
}

// clientErrors returns what a server found wrong with the certificate of its client, if that was the error.
func clientErrors(err error) []SslError {
	var unverified *tls.CertificateVerificationError
	if errors.As(err, &unverified) && len(unverified.UnverifiedCertificates) > 0 {
		return []SslError{sslError(unverified.Err, unverified.UnverifiedCertificates[0], time.Now())}
	}
	return nil
}

// allIgnored reports whether each of found is among ignored.
func allIgnored(found, ignored []SslError) bool {
	for _, e := range found {
		if !slices.ContainsFunc(ignored, e.equal) {
			return false
		}
	}
	return true
}

// An AlertLevel is QSsl::AlertLevel.
type AlertLevel int

// The levels of an alert. crypto/tls reports fatal alerts only.
const (
	AlertWarning AlertLevel = 1
	AlertFatal   AlertLevel = 2
	AlertUnknown AlertLevel = 3
)

// An AlertType is QSsl::AlertType: the number of an alert (RFC 8446 section 6), or UnknownAlertMessage.
type AlertType int

// UnknownAlertMessage is the type of an alert that is not known.
const UnknownAlertMessage AlertType = 255

// An alert is one that a TLS handshake ended with.
type alert struct {
	sent        bool
	kind        AlertType
	description string
}

// alertNumbers has the numbers of the alerts by the texts that crypto/tls has for them.
var alertNumbers = sync.OnceValue(func() map[string]AlertType {
	numbers := make(map[string]AlertType)
	for n := range 256 {
		numbers[tls.AlertError(n).Error()] = AlertType(n)
	}
	return numbers
})

// alertOf returns the alert that ended a TLS handshake, if err says which it was. crypto/tls does not report all alerts
// that it sends.
func alertOf(err error) (a alert, ok bool) {
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "remote error" && op.Op != "local error" {
		return a, false
	}
	a = alert{sent: op.Op == "local error", kind: UnknownAlertMessage, description: op.Err.Error()}
	if n, known := alertNumbers()[a.description]; known {
		a.kind = n
	}
	return a, true
}

// An SslPreSharedKeyAuthenticator is QSslPreSharedKeyAuthenticator: a question for a pre-shared key (RFC 4279). On a
// server, Identity is what the client has sent; on a client, IdentityHint is what the server has sent.
type SslPreSharedKeyAuthenticator struct {
	hint, identity, key []byte
	maxIdentity, maxKey int
}

// NewSslPreSharedKeyAuthenticator returns a question, for a [TlsBackend]. The limits are in bytes.
func NewSslPreSharedKeyAuthenticator(identityHint, identity []byte, maxIdentity, maxKey int) *SslPreSharedKeyAuthenticator {
	return &SslPreSharedKeyAuthenticator{hint: identityHint, identity: identity, maxIdentity: maxIdentity, maxKey: maxKey}
}

// IdentityHint returns the hint that the server has sent, or nil.
func (a *SslPreSharedKeyAuthenticator) IdentityHint() []byte { return a.hint }

// SetIdentity sets the identity that the client sends.
func (a *SslPreSharedKeyAuthenticator) SetIdentity(identity []byte) { a.identity = identity }

// Identity returns the identity.
func (a *SslPreSharedKeyAuthenticator) Identity() []byte { return a.identity }

// MaximumIdentityLength returns how many bytes the identity may have.
func (a *SslPreSharedKeyAuthenticator) MaximumIdentityLength() int { return a.maxIdentity }

// SetPreSharedKey sets the key. Without a key the handshake fails.
func (a *SslPreSharedKeyAuthenticator) SetPreSharedKey(key []byte) { a.key = key }

// PreSharedKey returns the key.
func (a *SslPreSharedKeyAuthenticator) PreSharedKey() []byte { return a.key }

// MaximumPreSharedKeyLength returns how many bytes the key may have.
func (a *SslPreSharedKeyAuthenticator) MaximumPreSharedKeyLength() int { return a.maxKey }

// A TlsBackend performs TLS in the place of crypto/tls, which has no pre-shared keys. See [SetActiveBackend].
type TlsBackend interface {
	// Server returns a connection that speaks TLS over conn, on the side of the server. The handshake is made by the
	// first Read, and obeys the deadlines of the connection. psk answers a client that wants to use a pre-shared key;
	// it waits for the event loop, at most until the handshake timeout. The connection may have a method TLSError() error
	// that says why its handshake has failed.
	Server(conn net.Conn, config SslConfiguration, psk func(*SslPreSharedKeyAuthenticator)) net.Conn
	// Client is Server for the other side. The handshake is made by the first Read or Write.
	Client(conn net.Conn, config SslConfiguration, psk func(*SslPreSharedKeyAuthenticator)) net.Conn
}

// failureOf returns the error of a handshake on conn: that of TLS if conn knows one.
func failureOf(conn net.Conn, err error) error {
	if c, ok := conn.(interface{ TLSError() error }); ok && c.TLSError() != nil {
		return &foyer.TLSError{Err: c.TLSError(), RemoteAddr: conn.RemoteAddr()}
	}
	return err
}

// askForKey asks the slots of a signal for a pre-shared key.
func askForKey(ctx context.Context, signal *Signal[func(*SslPreSharedKeyAuthenticator)], a *SslPreSharedKeyAuthenticator) {
	asked := *a // which a slot that is late may change when nobody waits any more
	if wait(ctx, func() {
		signal.emit(func(slot func(*SslPreSharedKeyAuthenticator)) { slot(&asked) })
	}) {
		*a = asked
	}
}

var backend struct {
	sync.Mutex
	active TlsBackend
}

// SetActiveBackend makes servers and sockets that have a slot for PreSharedKeyAuthenticationRequired use b for TLS. It
// is QSslSocket::setActiveBackend. Nil means crypto/tls, which is the default.
func SetActiveBackend(b TlsBackend) {
	backend.Lock()
	defer backend.Unlock()
	backend.active = b
}

func activeBackend() TlsBackend {
	backend.Lock()
	defer backend.Unlock()
	return backend.active
}
