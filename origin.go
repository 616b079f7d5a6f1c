package foyer

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// An OriginAuthenticator decides which requests may become sockets. Browsers let any page open a WebSocket to any host,
// with the user's cookies; only the Origin header tells (RFC 6455 section 10.2). *cors.Cors of github.com/rs/cors is
// one. OriginAllowed is called concurrently.
type OriginAuthenticator interface {
	OriginAllowed(r *http.Request) bool
}

// An OriginFunc is an OriginAuthenticator.
type OriginFunc func(r *http.Request) bool

// OriginAllowed calls f.
func (f OriginFunc) OriginAllowed(r *http.Request) bool { return f(r) }

// SameOrigin admits pages of the Host header's host and port, over https if the request is, and requests without
// Origin, which no browser sends. Behind a proxy that changes Host, use [AllowOrigins].
func SameOrigin() OriginAuthenticator { return sameOrigin{} }

type sameOrigin struct{}

func (sameOrigin) OriginAllowed(r *http.Request) bool {
	o, present, ok := requestOrigin(r)
	if !present || !ok {
		return !present
	}
	if r.TLS != nil && o.scheme != "https" || r.TLS == nil && o.scheme != "http" && o.scheme != "https" {
		return false
	}
	host, port, ok := splitHost(r.Host)
	if !ok {
		return false
	}
	if port == "" {
		port = defaultPort(o.scheme)
	}
	return o.host == host && o.port == port
}

// AnyOrigin admits every request: users known by cookies are open to cross-site WebSocket hijacking.
func AnyOrigin() OriginAuthenticator { return anyOrigin{} }

type anyOrigin struct{}

func (anyOrigin) OriginAllowed(*http.Request) bool { return true }

// RequireOrigin is like a, but refuses requests without Origin.
func RequireOrigin(a OriginAuthenticator) OriginAuthenticator {
	if a == nil {
		panic("foyer: RequireOrigin of nil")
	}
	return OriginFunc(func(r *http.Request) bool {
		return len(r.Header["Origin"]) > 0 && a.OriginAllowed(r)
	})
}

// AllowOrigins admits matching origins, and requests without Origin. It panics on a malformed pattern.
//
//	https://app.example.com     exactly this origin
//	https://*.example.com       any host below example.com
//	http://localhost:*          any port
//
// Case, default ports and Punycode make no difference. Origin lists and "null" are refused.
func AllowOrigins(patterns ...string) OriginAuthenticator {
	list := make(originList, len(patterns))
	for i, p := range patterns {
		list[i] = parsePattern(p)
	}
	return list
}

type originList []pattern

func (list originList) OriginAllowed(r *http.Request) bool {
	o, present, ok := requestOrigin(r)
	if !present || !ok {
		return !present
	}
	for i := range list {
		if list[i].matches(o) {
			return true
		}
	}
	return false
}

// An origin is a parsed and normalised origin, RFC 6454.
type origin struct{ scheme, host, port string }

// A pattern is what AllowOrigins compares with. A host that begins with a dot stands for all names that end in it; an
// anyPort for all ports.
type pattern struct {
	origin
	anyPort bool
}

func (p *pattern) matches(o origin) bool {
	if p.scheme != o.scheme || !p.anyPort && p.port != o.port {
		return false
	}
	if p.host[0] == '.' {
		return len(o.host) > len(p.host) && strings.HasSuffix(o.host, p.host)
	}
	return p.host == o.host
}

// requestOrigin parses the Origin header. present is false when there is none, ok when there is exactly one and it is
// an origin.
func requestOrigin(r *http.Request) (o origin, present, ok bool) {
	values := r.Header["Origin"]
	if len(values) != 1 {
		return o, len(values) > 0, false
	}
	o, ok = parseOrigin(values[0])
	return o, true, ok
}

// parseOrigin parses scheme "://" host [ ":" port ] and normalises it.
func parseOrigin(s string) (o origin, ok bool) {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok || !validScheme(scheme) {
		return o, false
	}
	o.scheme = strings.ToLower(scheme)
	o.host, o.port, ok = splitHost(rest)
	if o.port == "" {
		o.port = defaultPort(o.scheme)
	}
	return o, ok
}

// parsePattern parses a pattern of AllowOrigins and panics with what is wrong with it.
func parsePattern(s string) pattern {
	var p pattern
	rest, anyPort := strings.CutSuffix(s, ":*")
	p.anyPort = anyPort
	scheme, host, _ := strings.Cut(rest, "://")
	host, wild := strings.CutPrefix(host, "*.")
	o, ok := parseOrigin(scheme + "://" + host)
	switch {
	case s == "*":
		panic(`foyer: AllowOrigins: "*" is no origin; use AnyOrigin to allow all`)
	case !ok:
		panic("foyer: AllowOrigins: " + strconv.Quote(s) + ` is no pattern of the form "https://host" or "https://*.host:port"`)
	case anyPort && strings.HasSuffix(rest, ":"+o.port):
		panic("foyer: AllowOrigins: " + strconv.Quote(s) + " names two ports")
	case wild && net.ParseIP(o.host) != nil:
		panic("foyer: AllowOrigins: " + strconv.Quote(s) + " asks for names below an address")
	}
	p.origin = o
	if wild {
		p.host = "." + o.host
	}
	return p
}

// validScheme reports whether s is a scheme, RFC 3986 section 3.1.
func validScheme(s string) bool {
	for i := range len(s) {
		c := s[i] | 0x20
		switch {
		case 'a' <= c && c <= 'z':
		case i > 0 && ('0' <= s[i] && s[i] <= '9' || s[i] == '+' || s[i] == '-' || s[i] == '.'):
		default:
			return false
		}
	}
	return s != ""
}

// splitHost parses host [ ":" port ] and normalises the host: lower case, Punycode, addresses in their usual form.
func splitHost(s string) (host, port string, ok bool) {
	if strings.ContainsAny(s, "/?#@\\*%") {
		return "", "", false
	}
	u := url.URL{Host: s}
	host, port = u.Hostname(), u.Port()
	rest, bracketed := strings.CutPrefix(s, "["+host+"]")
	if !bracketed {
		rest = strings.TrimPrefix(s, host)
	}
	if rest != "" && rest != ":"+port || strings.HasSuffix(rest, ":") {
		return "", "", false
	}
	if port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return "", "", false
		}
		port = strconv.FormatUint(n, 10)
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.String(), port, addr.Is6() == bracketed
	}
	if bracketed || host == "" || len(host) > utf8.UTFMax*maxName {
		return "", "", false
	}
	host, ok = normalHost(host)
	return host, port, ok && len(host) <= maxName
}

// maxName is how many bytes a name may have, RFC 1035 section 2.3.4, with a dot at its end. What is longer would also take
// idna long.
const maxName = 254

// normalHost brings a name into the form in which names are compared.
func normalHost(host string) (string, bool) {
	plain := true
	for i := range len(host) {
		switch c := host[i]; {
		case 'A' <= c && c <= 'Z', 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '.', c == '_':
		default:
			plain = false
		}
	}
	if plain {
		host = strings.ToLower(host)
	} // or else IDNA does that, by its own rules for case
	if plain && !strings.Contains(host, "xn--") {
		return host, !strings.HasPrefix(host, ".") && !strings.Contains(host, "..")
	}
	if !utf8.ValidString(host) {
		return "", false
	}
	name, err := idna.Lookup.ToASCII(host)
	return name, err == nil && name != "" && !strings.HasPrefix(name, ".") && !strings.Contains(name, "..")
}

func defaultPort(scheme string) string {
	switch scheme {
	case "http", "ws":
		return "80"
	case "https", "wss":
		return "443"
	}
	return ""
}
