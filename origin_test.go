package foyer

import (
	"crypto/tls"
	"net/http"
	"strings"
	"testing"

	"github.com/rs/cors"
)

func originRequest(host string, secure bool, origins ...string) *http.Request {
	r := &http.Request{Method: "GET", Host: host, Header: http.Header{}}
	if len(origins) > 0 {
		r.Header["Origin"] = origins
	}
	if secure {
		r.TLS = &tls.ConnectionState{}
	}
	return r
}

func TestAllowOrigins(t *testing.T) {
	tests := []struct {
		pattern, origin string
		want            bool
	}{
		{"https://app.example.com", "https://app.example.com", true},
		{"https://app.example.com", "HTTPS://APP.Example.COM", true},
		{"https://app.example.com", "https://app.example.com:443", true},
		{"https://app.example.com:443", "https://app.example.com", true},
		{"https://app.example.com", "https://app.example.com:444", false},
		{"https://app.example.com", "http://app.example.com", false},
		{"https://app.example.com", "http://app.example.com:443", false},
		{"http://app.example.com:0080", "http://app.example.com", true},
		{"https://*.example.com", "https://a.example.com", true},
		{"https://*.example.com", "https://a.b.example.com", true},
		{"https://*.example.com", "https://example.com.evil.org", false},
		{"https://*.example.com", "https://evilexample.com", false},
		{"https://*.example.com", "http://a.example.com", false},
		{"https://*.example.com", "https://example.com", false},
		{"https://*.example.com", "https://.example.com", false},
		{"https://*.example.com", "https://a..example.com", false},
		{"https://*.example.com", "https://a.example.com:8443", false},
		{"https://*.example.com:8443", "https://a.example.com:8443", true},
		{"https://*.example.com:*", "https://a.example.com:1", true},
		{"http://localhost:*", "http://localhost", true},
		{"http://localhost:*", "http://localhost:5173", true},
		{"http://localhost:*", "https://localhost:5173", false},
		{"http://localhost:*", "http://localhost.evil.org:5173", false},
		{"http://localhost:*", "http://localhost:", false},
		{"https://bücher.example", "https://xn--bcher-kva.example", true},
		{"https://xn--bcher-kva.example", "https://BÜCHER.example", true},
		{"https://İstanbul.example", "https://istanbul.example", false}, // not its lower case in Unicode
		{"https://ISTANBUL.example", "https://istanbul.example", true},
		{"https://*.bücher.example", "https://a.xn--bcher-kva.example", true},
		{"http://[::1]:8080", "http://[::1]:8080", true},
		{"http://[0:0:0:0:0:0:0:1]:8080", "http://[::1]:8080", true},
		{"http://[::1]:*", "http://[::1]:9", true},
		{"http://[::1]", "http://::1", false},
		{"http://127.0.0.1", "http://127.0.0.1", true},
		{"http://127.0.0.1", "http://[127.0.0.1]", false},
		{"http://127.0.0.1", "http://[::ffff:127.0.0.1]", false},
		{"chrome-extension://abcdef", "chrome-extension://abcdef", true},
		{"chrome-extension://abcdef", "https://abcdef", false},
		{"https://under_score.example", "https://under_score.example", true},
		{"https://a.example", "null", false},
		{"https://a.example", "", false},
		{"https://a.example", "https://a.example/", false},
		{"https://a.example", "https://a.example/path", false},
		{"https://a.example", "https://a.example?q", false},
		{"https://a.example", "https://a.example#f", false},
		{"https://a.example", "https://user@a.example", false},
		{"https://a.example", "https://a.example\\@evil.org", false},
		{"https://a.example", "https://evil.org\\.a.example", false},
		{"https://a.example", "https://a.example https://evil.org", false},
		{"https://a.example", "https://a.example,https://evil.org", false},
		{"https://a.example", "https://a.example:99999", false},
		{"https://a.example", "https://a.example:44x", false},
		{"https://a.example", "https://a.example:-1", false},
		{"https://a.example", "https://a%2eexample", false},
		{"https://a.example", "https:a.example", false},
		{"https://a.example", "a.example", false},
		{"https://a.example", "://a.example", false},
		{"https://a.example", "https://", false},
		{"https://a.example", "https://[", false},
		{"https://a.example", "https://[::1", false},
		{"https://a.example", "https://[fe80::1%25eth0]", false},
		{"https://a.example", "https://\u0000a.example", false},
	}
	for _, tt := range tests {
		a := AllowOrigins("https://other.example", tt.pattern)
		if got := a.OriginAllowed(originRequest("server.example", false, tt.origin)); got != tt.want {
			t.Errorf("pattern %q, origin %q: %v, want %v", tt.pattern, tt.origin, got, tt.want)
		}
	}
}

func TestBuiltInPoliciesLetRequestsWithoutOriginPass(t *testing.T) {
	r := originRequest("server.example", false)
	for name, a := range map[string]OriginAuthenticator{
		"SameOrigin": SameOrigin(), "AllowOrigins": AllowOrigins("https://a.example"), "AnyOrigin": AnyOrigin(),
	} {
		if !a.OriginAllowed(r) {
			t.Errorf("%s refuses", name)
		}
		if RequireOrigin(a).OriginAllowed(r) {
			t.Errorf("RequireOrigin(%s) allows", name)
		}
	}
	if !RequireOrigin(AllowOrigins("https://a.example")).OriginAllowed(originRequest("", false, "https://a.example")) {
		t.Error("RequireOrigin refuses what is allowed")
	}
}

func TestSeveralOriginHeadersAreRefused(t *testing.T) {
	r := originRequest("a.example", true, "https://a.example", "https://a.example")
	if SameOrigin().OriginAllowed(r) || AllowOrigins("https://a.example").OriginAllowed(r) {
		t.Error("allowed")
	}
}

func TestSameOrigin(t *testing.T) {
	tests := []struct {
		host   string
		secure bool
		origin string
		want   bool
	}{
		{"example.com", false, "http://example.com", true},
		{"example.com", false, "https://example.com", true}, // a proxy has taken the TLS off
		{"example.com", true, "https://example.com", true},
		{"example.com", true, "http://example.com", false},
		{"example.com:8080", false, "http://example.com:8080", true},
		{"example.com:8080", false, "http://example.com", false},
		{"example.com:80", false, "http://example.com", true},
		{"example.com:443", true, "https://example.com", true},
		{"EXAMPLE.com", false, "http://example.COM", true},
		{"[::1]:8080", false, "http://[0::1]:8080", true},
		{"example.com", false, "http://example.com.evil.org", false},
		{"example.com", false, "ftp://example.com", false},
		{"example.com", false, "null", false},
		{"", false, "http://example.com", false},
		{"a b", false, "http://example.com", false},
	}
	for _, tt := range tests {
		if got := SameOrigin().OriginAllowed(originRequest(tt.host, tt.secure, tt.origin)); got != tt.want {
			t.Errorf("host %q, TLS %v, origin %q: %v, want %v", tt.host, tt.secure, tt.origin, got, tt.want)
		}
	}
}

func TestMeaninglessPatternsPanic(t *testing.T) {
	for _, p := range []string{"", "*", "example.com", "https://", "https://*", "https://a.*.example", "https://a*.example", "*://a.example",
		"https://a.example/", "https://a.example:x", "https://a.example:80:*", "https://*.*.example", "https://*.127.0.0.1", "null", "https://a b"} {
		func() {
			defer func() {
				v, _ := recover().(string)
				if !strings.HasPrefix(v, "foyer: AllowOrigins: ") {
					t.Errorf("pattern %q: panic %q", p, v)
				}
			}()
			AllowOrigins(p)
		}()
	}
	defer func() {
		if recover() == nil {
			t.Error("RequireOrigin(nil) did not panic")
		}
	}()
	RequireOrigin(nil)
}

func TestCorsIsAnOriginAuthenticator(t *testing.T) {
	var a OriginAuthenticator = cors.New(cors.Options{AllowedOrigins: []string{"https://a.example"}})
	if !a.OriginAllowed(originRequest("b.example", false, "https://a.example")) || a.OriginAllowed(originRequest("b.example", false, "https://c.example")) {
		t.Error("rs/cors decides otherwise")
	}
}

// FuzzParseOrigin checks that what is taken for an origin is one in its normal form already when taken apart again.
func FuzzParseOrigin(f *testing.F) {
	for _, s := range []string{"https://a.example:8443", "http://[::1]", "https://xn--bcher-kva.example", "https://BÜCHER.example", "null", "https://a\\b", "A://0ķ" + strings.Repeat("s", 2000) + "0̷00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		o, ok := parseOrigin(s)
		if !ok {
			return
		}
		if o.host == "" || strings.ContainsAny(o.host, "/?#@\\*% \t\r\n") || strings.ToLower(o.host) != o.host {
			t.Fatalf("%q has host %q", s, o.host)
		}
		host := o.host
		if strings.Contains(host, ":") {
			host = "[" + host + "]"
		}
		again := o.scheme + "://" + host
		if o.port != "" {
			again += ":" + o.port
		}
		if p, ok := parseOrigin(again); !ok || p != o {
			t.Fatalf("%q is %+v, but %q is %+v, %v", s, o, again, p, ok)
		}
	})
}

// A name is as long as a name may be, whatever it is written in: what is longer is not even looked at.
func TestLongNamesAreNoOrigins(t *testing.T) {
	for name, want := range map[string]bool{
		strings.Repeat("abcdefg.", 31) + "com":  true,
		strings.Repeat("abcdefg.", 32) + "com":  false,
		strings.Repeat("bücher.", 15) + "com":   true,
		strings.Repeat("bücher.", 30) + "com":   false,
		strings.Repeat("ü", 1<<20) + ".example": false,
	} {
		if _, ok := parseOrigin("https://" + name); ok != want {
			t.Errorf("a name of %d bytes: %v", len(name), ok)
		}
	}
}
