// Package middleware has net/http middleware for programs that use foyer. Each is a func(http.Handler) http.Handler, as
// chi, alice and http.ServeMux programs have them, and knows nothing of foyer but its public names.
package middleware

import (
	"net/http"

	"github.com/foyerws/foyer"
)

// Upgrade hands every WebSocket handshake, on whatever route, to h, which is mostly a *foyer.Handler, and all other
// requests to the next handler, so that a page and its WebSocket can have the same URL.
//
// What a handshake is, foyer.IsHandshake says; whether it is a good one is for h to say.
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
