package middleware

import (
	"encoding/base64"
	"net/http"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/foyerws/foyer"
)

// BearerToken lets browsers send a bearer token with a WebSocket handshake. A page cannot set the Authorization header
// of a handshake, but it can offer subprotocols:
//
//	new WebSocket(url, ["bearer." + base64url(token), "chat.v1"])
//
// BearerToken removes a subprotocol that begins with prefix from the request. It decodes the rest as base64url without
// padding and sets the header "Authorization: Bearer token". Handler.Authorize and later middleware can read it.
// Kubernetes does the same with the prefix "base64url.bearer.authorization.k8s.io.". The other subprotocols are
// unchanged. Offer at least one that the server supports, or the browser will fail the connection.
//
// The response is 400 if the token is malformed, if there are several, or if the request already has an Authorization
// header. Requests that are not WebSocket handshakes are passed on unchanged. The token is removed from the request,
// but the client sent it in a header that proxies may log.
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
