// Package middleware has net/http middleware for programs that use foyer. Each function returns a func(http.Handler)
// http.Handler, the usual form of middleware. They use only foyer's public API.
package middleware

import (
	"net/http"

	"github.com/foyerws/foyer"
)

// Upgrade passes WebSocket handshakes, for any path, to h, usually a *foyer.Handler. It passes all other requests to
// the next handler. A page and its WebSocket can then share a URL.
//
// foyer.IsHandshake decides what a handshake is; h checks that it is valid.
func Upgrade(h http.Handler) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if foyer.IsHandshake(r) {
				h.ServeHTTP(w, r)
			} else {
				next.ServeHTTP(w, r)
			}
		})
	}
}
