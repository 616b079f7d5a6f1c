package middleware

import (
	"net/http"

	"github.com/rs/cors"

	"github.com/foyerws/foyer"
)

// CORS is github.com/rs/cors with the origins that a foyer.Handler has, so that a page may fetch from a server exactly if
// it may open a WebSocket there. Nil is foyer.SameOrigin. The origins of opts are ignored; all else in it counts.
//
// Browsers do not ask for permission before a WebSocket handshake: CORS does not protect one, Handler.Origins does. Every
// answer has Vary: Origin, so that no cache gives one origin's answer to another.
func CORS(origins foyer.OriginAuthenticator, opts cors.Options) func(http.Handler) http.Handler {
	if origins == nil {
		origins = foyer.SameOrigin()
	}
	// Where this function is set, rs/cors looks at none of the other options about origins.
	opts.AllowOriginVaryRequestFunc = func(r *http.Request, _ string) (bool, []string) {
		return origins.OriginAllowed(r), nil
	}
	return cors.New(opts).Handler
}
