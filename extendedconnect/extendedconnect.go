// Package extendedconnect, when imported, makes net/http servers tell HTTP/2 clients that they support WebSockets (RFC 8441).
// Browsers then use HTTP/2 for the WebSockets of pages that they loaded over HTTP/2, on every server in the program.
//
//	import _ "github.com/foyerws/foyer/extendedconnect"
//
// It has the effect of starting the process with GODEBUG=http2xconnect=1. If the process was started with
// http2xconnect=0, that setting wins. As of Go 1.26 a program cannot enable this in any other way from its own code:
// net/http reads the setting from the environment when net/http is initialized, and //go:debug lines do not change the
// environment. This package sets the variable before net/http is initialized. It relies on a rule of the Go
// specification ("Program initialization"): packages that are ready to be initialized are initialized in the order of
// their import paths. Child processes inherit the variable.
package extendedconnect

import (
	"os"
	"strings"
)

func init() {
	others := os.Getenv("GODEBUG")
	switch {
	case strings.Contains(others, "http2xconnect="):
	case others == "":
		os.Setenv("GODEBUG", "http2xconnect=1")
	default:
		os.Setenv("GODEBUG", others+",http2xconnect=1")
	}
}
