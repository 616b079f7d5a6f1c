// Package extendedconnect, when it is imported, has net/http tell HTTP/2 clients that they may open WebSockets there (RFC
// 8441). Browsers do so then on every server of the program, for each WebSocket of a page that came over HTTP/2.
//
//	import _ "github.com/foyerws/foyer/extendedconnect"
//
// It does what the environment variable GODEBUG=http2xconnect=1 does for a process that is started with it; one that is
// started with http2xconnect=0 keeps that. Up to Go 1.26 there is no other way: net/http looks for the setting in the
// environment when it is initialized, and a //go:debug line does not get there. This package puts it in before that,
// because packages whose imports are initialized are so in the order of their paths (Go specification, "Program
// initialization"). Processes that the program starts inherit it.
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
