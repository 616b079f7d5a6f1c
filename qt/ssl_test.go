package qt

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

// secureServer returns a server with a certificate.
func secureServer(t *testing.T, c tls.Certificate) *WebSocketServer {
	server := listening(t, SecureMode)
	server.SetSslConfiguration(&tls.Config{Certificates: []tls.Certificate{c}})
	return server
}

// trusting returns a configuration that trusts a certificate.
func trusting(c tls.Certificate) SslConfiguration {
	roots := x509.NewCertPool()
	roots.AddCert(c.Leaf)
	return &tls.Config{RootCAs: roots}
}

func kinds(errors []SslError) (kinds []SslErrorType) {
	for _, e := range errors {
		kinds = append(kinds, e.Error())
	}
	return kinds
}

func TestSslErrors(t *testing.T) {
	good := certificate(t, time.Hour, "localhost")
	expired := certificate(t, -time.Hour, "localhost")
	for name, test := range map[string]struct {
		certificate tls.Certificate
		config      SslConfiguration
		found       []SslErrorType
	}{
		"trusted":             {good, trusting(good), nil},
		"self-signed":         {good, new(tls.Config), []SslErrorType{SelfSignedCertificate}},
		"expired":             {expired, trusting(expired), []SslErrorType{CertificateExpired}},
		"expired, not known":  {expired, new(tls.Config), []SslErrorType{CertificateExpired, SelfSignedCertificate}},
		"of another":          {good, &tls.Config{RootCAs: trusting(good).RootCAs, ServerName: "other.example"}, []SslErrorType{HostNameMismatch}},
		"nothing is verified": {good, &tls.Config{InsecureSkipVerify: true}, nil},
	} {
		for _, ignore := range []string{"nothing", "all", "before", "these", "others"} {
			server := secureServer(t, test.certificate)
			w := newClient(t, "")
			w.SetSslConfiguration(test.config)
			errors, each, failed := spy1(&w.SslErrors), spy1(&w.PeerVerifyError), spy1(&w.ErrorOccurred)
			w.SslErrors.Connect(func(found []SslError) {
				switch ignore {
				case "all":
					w.IgnoreSslErrors()
				case "these":
					w.IgnoreTheseSslErrors(found)
				case "others":
					w.IgnoreTheseSslErrors([]SslError{NewSslError(CertificateExpired, test.certificate.Leaf), NewSslError(SelfSignedCertificate, good.Leaf), NewSslError(HostNameMismatch, nil)}[:1])
				}
			})
			if ignore == "before" {
				w.IgnoreSslErrors()
			}
			w.Open(server.ServerUrl().String())
			enters := len(test.found) == 0 || ignore == "all" || ignore == "before" || ignore == "these" ||
				ignore == "others" && slices.Equal(test.found, []SslErrorType{CertificateExpired})
			if enters {
				try(t, name+", connected in spite of "+ignore, w.IsValid)
			} else {
				tryCount(t, name+", refused in spite of "+ignore, failed, 1)
				if failed.all()[0] != SslHandshakeFailedError || w.ErrorString() == "" {
					t.Error(failed.all(), w.ErrorString())
				}
			}
			if len(test.found) == 0 {
				if errors.count() != 0 {
					t.Error(name, errors.all())
				}
				continue
			}
			if got := errors.all(); len(got) != 1 || !slices.Equal(kinds(got[0]), test.found) || !slices.Equal(kinds(each.all()), test.found) {
				t.Errorf("%s: %v, %v", name, got, each.all())
			} else if e := got[0][0]; e.ErrorString() == "" || !e.Certificate().Equal(test.certificate.Leaf) {
				t.Errorf("%s: %+v", name, e)
			}
		}
	}
}

func TestPauseOnSslErrors(t *testing.T) {
	server := secureServer(t, certificate(t, time.Hour, "localhost"))
	w := newClient(t, "")
	w.SetPauseMode(PauseOnSslErrors)
	errors := spy1(&w.SslErrors)
	w.Open(server.ServerUrl().String())
	tryCount(t, "sslErrors", errors, 1)
	time.Sleep(50 * time.Millisecond)
	if w.State() != ConnectingState {
		t.Fatal(w.State())
	}
	w.IgnoreSslErrors()
	w.Resume()
	try(t, "connected", w.IsValid)
}

func TestInterruptedHandshake(t *testing.T) {
	server := secureServer(t, certificate(t, time.Hour, "localhost"))
	w := newClient(t, "")
	interrupted := spy1(&w.HandshakeInterruptedOnError)
	errors := spy1(&w.SslErrors)
	w.IgnoreSslErrors()
	w.Open(server.ServerUrl().String())
	tryCount(t, "handshakeInterruptedOnError", interrupted, 1)
	time.Sleep(50 * time.Millisecond)
	if w.State() != ConnectingState || errors.count() != 0 {
		t.Fatal(w.State(), errors.count())
	}
	w.ContinueInterruptedHandshake()
	try(t, "connected", w.IsValid)

	w.Open(server.ServerUrl().String())
	tryCount(t, "handshakeInterruptedOnError", interrupted, 2)
	w.Abort() // instead
	try(t, "unconnected", func() bool { return w.State() == UnconnectedState })
}

func TestAlerts(t *testing.T) {
	server := secureServer(t, certificate(t, time.Hour, "localhost"))
	client := certificate(t, time.Hour, "client")
	config := server.SslConfiguration().Clone()
	config.ClientAuth = tls.RequireAndVerifyClientCert
	config.ClientCAs = trusting(certificate(t, time.Hour, "other")).RootCAs
	server.SetSslConfiguration(config)
	each, errors, interrupted, failed := spy1(&server.PeerVerifyError), spy1(&server.SslErrors), spy1(&server.HandshakeInterruptedOnError), spy1(&server.ServerError)

	type alerted struct {
		level AlertLevel
		kind  AlertType
		text  string
	}
	var received spy[alerted]
	w := newClient(t, "")
	w.AlertReceived.Connect(func(level AlertLevel, kind AlertType, text string) { received.add(alerted{level, kind, text}) })
	w.SetSslConfiguration(&tls.Config{InsecureSkipVerify: true, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return &client, nil // though the server does not ask for one of this issuer
	}})
	w.Open(server.ServerUrl().String())
	try(t, "alertReceived", func() bool { return received.count() == 1 })
	tryCount(t, "peerVerifyError", each, 1)
	tryCount(t, "sslErrors", errors, 1)
	tryCount(t, "serverError", failed, 1)
	if got := received.all()[0]; got.level != AlertFatal || got.kind != 48 || !strings.Contains(got.text, "unknown certificate authority") { // RFC 8446 section 6
		t.Errorf("%+v", got)
	}
	if each.all()[0].Error() != SelfSignedCertificate || interrupted.count() != 1 || failed.all()[0] != CloseCodeTlsHandshakeFailed || server.ErrorString() == "" {
		t.Error(each.all(), interrupted.all(), failed.all(), server.ErrorString())
	}

	var seen spy[alerted]
	server.AlertReceived.Connect(func(level AlertLevel, kind AlertType, text string) { seen.add(alerted{level, kind, text}) })
	stranger := newClient(t, "")
	stranger.Open(server.ServerUrl().String())
	try(t, "alertReceived", func() bool { return seen.count() == 1 })
	if got := seen.all()[0]; got.kind != 42 { // bad certificate
		t.Errorf("%+v", got)
	}
}

func TestSecureServerWithAClientThatSpeaksPlainHTTP(t *testing.T) {
	server := secureServer(t, certificate(t, time.Hour, "localhost"))
	failed := spy1(&server.ServerError)
	conn, err := net.Dial("tcp", server.ServerUrl().Host)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
	tryCount(t, "serverError", failed, 1)
	if failed.all()[0] != CloseCodeTlsHandshakeFailed {
		t.Error(failed.all())
	}
}

// A plainBackend is a TlsBackend that does nothing but ask for the key.
type plainBackend struct{}

type asking struct {
	net.Conn
	ask  func()
	done bool
}

func (a *asking) Read(p []byte) (int, error) {
	if !a.done {
		a.done = true
		a.ask()
	}
	return a.Conn.Read(p)
}

func (plainBackend) Server(conn net.Conn, config SslConfiguration, psk func(*SslPreSharedKeyAuthenticator)) net.Conn {
	return &asking{Conn: conn, ask: func() {
		a := NewSslPreSharedKeyAuthenticator(nil, []byte("client"), 128, 64)
		if psk(a); string(a.PreSharedKey()) != "secret" {
			conn.Close()
		}
	}}
}

func (plainBackend) Client(conn net.Conn, config SslConfiguration, psk func(*SslPreSharedKeyAuthenticator)) net.Conn {
	return &asking{Conn: conn, ask: func() {
		a := NewSslPreSharedKeyAuthenticator([]byte("hint"), nil, 128, 64)
		if psk(a); string(a.Identity()) != "client" || string(a.PreSharedKey()) != "secret" {
			conn.Close()
		}
	}}
}

func TestPreSharedKey(t *testing.T) {
	SetActiveBackend(plainBackend{})
	defer SetActiveBackend(nil)
	server := listening(t, SecureMode)
	key := "secret"
	server.PreSharedKeyAuthenticationRequired.Connect(func(a *SslPreSharedKeyAuthenticator) {
		if string(a.Identity()) == "client" && a.MaximumPreSharedKeyLength() == 64 {
			a.SetPreSharedKey([]byte(key))
		}
	})
	w := newClient(t, "")
	w.PreSharedKeyAuthenticationRequired.Connect(func(a *SslPreSharedKeyAuthenticator) {
		if string(a.IdentityHint()) == "hint" && a.MaximumIdentityLength() == 128 {
			a.SetIdentity([]byte("client"))
			a.SetPreSharedKey([]byte("secret"))
		}
	})
	connect(t, w, server)
	if socket := take(t, server, nil); socket.RequestUrl().Scheme != "wss" || w.RequestUrl().Scheme != "wss" {
		t.Error(socket.RequestUrl(), w.RequestUrl())
	}
	invoke(func() { key = "another" })
	failed := spy1(&w.ErrorOccurred)
	w.Open(server.ServerUrl().String())
	tryCount(t, "errorOccurred", failed, 1)
}

// TestFunctionsOfTheConfiguration see the chains that were verified, and may panic.
func TestFunctionsOfTheConfiguration(t *testing.T) {
	c := certificate(t, time.Hour, "localhost")
	server := secureServer(t, c)
	seen := make(chan int, 10)
	w := newClient(t, "")
	w.SetSslConfiguration(&tls.Config{
		RootCAs: trusting(c).RootCAs,
		VerifyPeerCertificate: func(raw [][]byte, chains [][]*x509.Certificate) error {
			seen <- 10*len(raw) + len(chains)
			return nil
		},
		VerifyConnection: func(state tls.ConnectionState) error {
			seen <- len(state.VerifiedChains)
			return nil
		},
	})
	connect(t, w, server)
	if a, b := <-seen, <-seen; a != 11 || b != 1 {
		t.Error(a, b)
	}
	for name, panicking := range map[string]SslConfiguration{
		"peer":       {RootCAs: trusting(c).RootCAs, VerifyPeerCertificate: func([][]byte, [][]*x509.Certificate) error { panic(expectedPanic) }},
		"connection": {RootCAs: trusting(c).RootCAs, VerifyConnection: func(tls.ConnectionState) error { panic(expectedPanic) }},
	} {
		w.SetSslConfiguration(panicking)
		failed := spy1(&w.ErrorOccurred)
		w.Open(server.ServerUrl().String())
		tryCount(t, name, failed, 1)
		if failed.all()[0] != SslHandshakeFailedError {
			t.Error(failed.all(), w.ErrorString())
		}
	}
}

// TestSlotThatPanicsIgnoresNothing though it had begun to.
func TestSlotThatPanicsIgnoresNothing(t *testing.T) {
	server := secureServer(t, certificate(t, time.Hour, "localhost"))
	w := newClient(t, "")
	failed := spy1(&w.ErrorOccurred)
	w.SslErrors.Connect(func(found []SslError) {
		w.IgnoreTheseSslErrors(found)
		panic(expectedPanic)
	})
	w.Open(server.ServerUrl().String())
	tryCount(t, "errorOccurred", failed, 1)
}

// TestIssuersThatHaveExpired are found though the certificate itself has expired, and that is ignored.
func TestIssuersThatHaveExpired(t *testing.T) {
	root := certificate(t, time.Hour, "root")
	middle := issued(t, root, -time.Hour, "middle")
	leaf := issued(t, middle, -90*time.Minute, "localhost")
	leaf.Certificate = append(leaf.Certificate, middle.Certificate...)
	server := secureServer(t, leaf)
	w := newClient(t, "")
	w.SetSslConfiguration(trusting(root))
	failed, errors := spy1(&w.ErrorOccurred), spy1(&w.SslErrors)
	w.IgnoreTheseSslErrors([]SslError{NewSslError(CertificateExpired, leaf.Leaf)})
	w.Open(server.ServerUrl().String())
	tryCount(t, "errorOccurred", failed, 1)
	if got := errors.all(); len(got) != 1 || !slices.Equal(kinds(got[0]), []SslErrorType{CertificateExpired, CertificateUntrusted}) {
		t.Errorf("%+v", got)
	}
}

// TestSessionsAreResumed by a server whose configuration says nothing about protocols.
func TestSessionsAreResumed(t *testing.T) {
	c := certificate(t, time.Hour, "localhost")
	server := secureServer(t, c)
	config := trusting(c)
	config.ClientSessionCache = tls.NewLRUClientSessionCache(10)
	config.ServerName = "localhost"
	resumed := 0
	for range 3 {
		w := newClient(t, "")
		w.SetSslConfiguration(config)
		message := spy1(&w.TextMessageReceived)
		connect(t, w, server)
		take(t, server, nil).SendTextMessage("and the ticket")
		tryCount(t, "textMessageReceived", message, 1)
		if w.Request().TLS.DidResume {
			resumed++
		}
	}
	if resumed != 2 {
		t.Errorf("%d sessions were resumed", resumed)
	}
}

// TestDefaultProxyWithAPassword of the slot.
func TestDefaultProxyWithAPassword(t *testing.T) {
	p := NetworkProxy{}
	p.SetUser("me")
	p.SetPassword("secret")
	t.Setenv("HTTP_PROXY", "http://proxy.example:3128") // which net/http reads once in a process
	r := httptest.NewRequest("GET", "http://example.com/", nil)
	if u, err := p.find(r); err != nil || u != nil && u.String() != "http://me:secret@proxy.example:3128" {
		t.Error(u, err)
	}
}
