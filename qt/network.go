package qt

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"syscall"

	"github.com/foyerws/foyer"
)

// A HostAddress is QHostAddress: an IPv4 or IPv6 address. The zero value is QHostAddress::Null.
type HostAddress = netip.Addr

// Addresses to listen on.
var (
	Any           = netip.IPv6Unspecified() // all addresses, IPv4 and IPv6
	AnyIPv4       = netip.IPv4Unspecified()
	LocalHost     = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	LocalHostIPv6 = netip.IPv6Loopback()
)

// A SocketState is QAbstractSocket::SocketState. A WebSocket has the states UnconnectedState, ConnectingState (until
// the handshake has succeeded), ConnectedState and ClosingState.
type SocketState int

// The states of a socket.
const (
	UnconnectedState SocketState = iota
	HostLookupState
	ConnectingState
	ConnectedState
	BoundState
	ListeningState
	ClosingState
)

// A SocketError is QAbstractSocket::SocketError.
type SocketError int

// The errors of a socket.
const (
	ConnectionRefusedError SocketError = iota
	RemoteHostClosedError
	HostNotFoundError
	SocketAccessError
	SocketResourceError
	SocketTimeoutError
	DatagramTooLargeError
	NetworkError
	AddressInUseError
	SocketAddressNotAvailableError
	UnsupportedSocketOperationError
	UnfinishedSocketOperationError
	ProxyAuthenticationRequiredError
	SslHandshakeFailedError
	ProxyConnectionRefusedError
	ProxyConnectionClosedError
	ProxyConnectionTimeoutError
	ProxyNotFoundError
	ProxyProtocolError
	OperationError
	SslInternalError
	SslInvalidUserDataError
	TemporaryError

	UnknownSocketError SocketError = -1
)

// PauseModes is QAbstractSocket::PauseModes.
type PauseModes int

// The pause modes. See [WebSocket.SetPauseMode].
const (
	PauseNever       PauseModes = 0
	PauseOnSslErrors PauseModes = 1
)

// errorOf returns Qt's error and description for an error of the network.
func errorOf(err error) (SocketError, string) {
	var unknownHost *net.DNSError
	var timeout net.Error
	var insecure *foyer.TLSError
	var refusal *foyer.HandshakeError
	a, alerted := alertOf(err)
	switch {
	case errors.As(err, &refusal) && refusal.Status == http.StatusProxyAuthRequired:
		return ProxyAuthenticationRequiredError, "Proxy requires authentication"
	case errors.As(err, &refusal):
		text := fmt.Sprintf("Unhandled http status code: %d (%s).", refusal.Status, refusal.Reason)
		if refusal.Status == http.StatusSwitchingProtocols {
			text = refusal.Error()
		}
		return ConnectionRefusedError, text
	case errors.As(err, &insecure):
		return SslHandshakeFailedError, insecure.Err.Error()
	case alerted:
		return SslHandshakeFailedError, a.description
	case errors.As(err, &unknownHost):
		return HostNotFoundError, "Host not found"
	case errors.Is(err, syscall.ECONNREFUSED):
		return ConnectionRefusedError, "Connection refused"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return SocketAddressNotAvailableError, "The address is not available"
	case errors.Is(err, syscall.EADDRINUSE):
		return AddressInUseError, "The bound address is already in use"
	case errors.Is(err, syscall.EACCES):
		return SocketAccessError, "The address is protected"
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, foyer.ErrWriteBufferFull):
		return SocketResourceError, err.Error()
	case errors.Is(err, foyer.ErrHandshakeTimeout), errors.Is(err, foyer.ErrPingTimeout), errors.As(err, &timeout) && timeout.Timeout():
		return SocketTimeoutError, "Connection timed out"
	case errors.Is(err, context.Canceled):
		return OperationError, "Operation canceled"
	case errors.Is(err, errors.ErrUnsupported):
		return UnsupportedSocketOperationError, err.Error()
	}
	return NetworkError, err.Error()
}

// addressOf returns the address and port of a network address; null and 0 if it has none.
func addressOf(addr net.Addr) (HostAddress, uint16) {
	if tcp, ok := addr.(*net.TCPAddr); ok {
		ap := tcp.AddrPort()
		return ap.Addr().Unmap(), ap.Port()
	}
	return HostAddress{}, 0
}

// An Authenticator is QAuthenticator: a question for a user name and password.
type Authenticator struct{ user, password, realm string }

// SetUser sets the user name to answer with.
func (a *Authenticator) SetUser(user string) { a.user = user }

// User returns the user name.
func (a *Authenticator) User() string { return a.user }

// SetPassword sets the password to answer with.
func (a *Authenticator) SetPassword(password string) { a.password = password }

// Password returns the password.
func (a *Authenticator) Password() string { return a.password }

// Realm returns what the server says the password is for.
func (a *Authenticator) Realm() string { return a.realm }

// A ProxyType is QNetworkProxy::ProxyType.
type ProxyType int

// The types of proxies.
const (
	DefaultProxy     ProxyType = iota // as the environment says: HTTP_PROXY, HTTPS_PROXY, NO_PROXY
	Socks5Proxy                       // SOCKS version 5
	NoProxy                           // none, whatever the environment says
	HttpProxy                         // the CONNECT method of HTTP
	HttpCachingProxy                  // not for WebSockets
	FtpCachingProxy                   // not for WebSockets
)

// A NetworkProxy is QNetworkProxy. Values can be compared with ==.
type NetworkProxy struct {
	proxyType      ProxyType
	hostName       string
	port           uint16
	user, password string
}

// NewNetworkProxy returns a proxy of a type.
func NewNetworkProxy(t ProxyType, hostName string, port uint16, user, password string) NetworkProxy {
	return NetworkProxy{t, hostName, port, user, password}
}

// SetType sets the type of the proxy.
func (p *NetworkProxy) SetType(t ProxyType) { p.proxyType = t }

// Type returns the type of the proxy.
func (p NetworkProxy) Type() ProxyType { return p.proxyType }

// SetHostName sets the host of the proxy.
func (p *NetworkProxy) SetHostName(hostName string) { p.hostName = hostName }

// HostName returns the host of the proxy.
func (p NetworkProxy) HostName() string { return p.hostName }

// SetPort sets the port of the proxy.
func (p *NetworkProxy) SetPort(port uint16) { p.port = port }

// Port returns the port of the proxy.
func (p NetworkProxy) Port() uint16 { return p.port }

// SetUser sets the user name for the proxy.
func (p *NetworkProxy) SetUser(user string) { p.user = user }

// User returns the user name for the proxy.
func (p NetworkProxy) User() string { return p.user }

// SetPassword sets the password for the proxy.
func (p *NetworkProxy) SetPassword(password string) { p.password = password }

// Password returns the password for the proxy.
func (p NetworkProxy) Password() string { return p.password }

// find is the function that foyer asks for the proxy.
func (p NetworkProxy) find(r *http.Request) (*url.URL, error) {
	through := &url.URL{Host: net.JoinHostPort(p.hostName, strconv.Itoa(int(p.port)))}
	switch p.proxyType {
	case DefaultProxy:
		found, err := http.ProxyFromEnvironment(r)
		if found == nil || p.user == "" {
			return found, err
		}
		through = new(url.URL)
		*through = *found
	case NoProxy:
		return nil, nil
	case Socks5Proxy:
		through.Scheme = "socks5"
	case HttpProxy:
		through.Scheme = "http"
	default:
		return nil, fmt.Errorf("a proxy of this type carries no WebSockets: %w", errors.ErrUnsupported)
	}
	if p.user != "" {
		through.User = url.UserPassword(p.user, p.password)
	}
	return through, nil
}

// realmOf returns the realm of a challenge, RFC 9110 section 11.5.
func realmOf(challenge string) string {
	_, rest, ok := strings.Cut(challenge, `realm="`)
	if !ok {
		return ""
	}
	realm, _, _ := strings.Cut(rest, `"`)
	return realm
}
