package middleware

import (
	"net/http"

	"github.com/rs/cors"

	"github.com/foyerws/foyer"
)

// CORS wraps github.com/rs/cors. It uses the origins of a foyer.Handler, so a page may fetch if and only if it may open
// a WebSocket. A nil origins means foyer.SameOrigin. The origin fields of opts are ignored; its other fields apply.
//
// Browsers do not ask for permission before a WebSocket handshake: CORS does not protect WebSockets; Handler.Origins
// does. Every answer has Vary: Origin, so that no cache gives one origin's answer to another.
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
