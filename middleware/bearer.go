package middleware

import (
	"encoding/base64"
	"net/http"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/foyerws/foyer"
)

// BearerToken lets browsers send a bearer token with a WebSocket handshake. A page cannot set the Authorization header
// there, but it can offer subprotocols:
//
//	new WebSocket(url, ["bearer." + base64url(token), "chat.v1"])
//
// A subprotocol that begins with prefix is taken out of the offer, and what follows, base64url without padding, becomes
// the header "Authorization: Bearer token", for Handler.Authorize or any other middleware to look at. Kubernetes does the
// same with the prefix "base64url.bearer.authorization.k8s.io.". The other subprotocols stay as they were; there should
// be one that the server speaks, or the browser will fail the connection.
//
// A token that is malformed, or several, or one beside an Authorization header, are answered with 400. Requests that are
// no WebSocket handshake are not touched. The token does not stay in the request's subprotocols, but it was sent in a
// header that proxies may log.
//
// BearerToken panics when prefix is empty or no valid subprotocol could begin with it.
func BearerToken(prefix string) func(http.Handler) http.Handler {
	if !httpguts.ValidHeaderFieldName(prefix) {
		panic("foyer/middleware: BearerToken: the prefix must be a token in the sense of HTTP")
	}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if foyer.IsHandshake(r) {
				var ok bool
				if r, ok = withBearer(r, prefix); !ok {
					http.Error(w, "Bad bearer token.", http.StatusBadRequest)
					return
				}
			}
			next.ServeHTTP(w, r)
		})
	}
}

// withBearer returns r with the token where it belongs. It reports false when that cannot be done.
func withBearer(r *http.Request, prefix string) (_ *http.Request, ok bool) {
	var tokens, others []string
	for _, list := range r.Header["Sec-Websocket-Protocol"] {
		for name := range strings.SplitSeq(list, ",") {
			name = strings.Trim(name, " \t")
			if token, ok := strings.CutPrefix(name, prefix); ok {
				tokens = append(tokens, token)
			} else if name != "" {
				others = append(others, name)
			}
		}
	}
	if len(tokens) == 0 {
		return r, true
	}
	token, err := base64.RawURLEncoding.DecodeString(tokens[0])
	if err != nil || len(tokens) > 1 || len(token) == 0 || !httpguts.ValidHeaderFieldValue(string(token)) || len(r.Header["Authorization"]) > 0 {
		return nil, false
	}
	r2 := *r
	r2.Header = r.Header.Clone()
	r2.Header.Set("Authorization", "Bearer "+string(token))
	if len(others) > 0 {
		r2.Header["Sec-Websocket-Protocol"] = []string{strings.Join(others, ", ")}
	} else {
		delete(r2.Header, "Sec-Websocket-Protocol")
	}
	return &r2, true
}
