// Package middleware has net/http middleware for programs that use foyer. Each is a func(http.Handler) http.Handler, as
// chi, alice and http.ServeMux programs have them, and knows nothing of foyer but its public names.
package middleware

import (
	"net/http"

	"golang.org/x/net/http/httpguts"
)

// Upgrade hands every WebSocket handshake, on whatever route, to h, which is mostly a *foyer.Handler, and all other
// requests to the next handler, so that a page and its WebSocket can have the same URL.
//
// Only the headers Connection and Upgrade are looked at; whether the handshake is a good one is for h to say.
func Upgrade(h http.Handler) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if isHandshake(r) {
				h.ServeHTTP(w, r)
			} else {
				next.ServeHTTP(w, r)
			}
		})
	}
}

// isHandshake reports whether r asks for an upgrade to WebSocket.
func isHandshake(r *http.Request) bool {
	return httpguts.HeaderValuesContainsToken(r.Header["Connection"], "upgrade") &&
		httpguts.HeaderValuesContainsToken(r.Header["Upgrade"], "websocket")
}
