// Package guest joins package foyer to packages that own a connection which has come through foyer's door, without a
// public name for it.
package guest

import (
	"net"
	"net/http"
	"time"
)

// An Arrival is a connection whose handshake foyer has judged, and which somebody else is to answer and to own.
type Arrival struct {
	Conn       net.Conn    // its Close must be called
	Key        string      // Sec-WebSocket-Key of the request
	Header     http.Header // for the answer, the subprotocol included
	MaxMessage int64       // 0: no limit
	Deadline   time.Time   // for the answer; zero: none
}

// A Host answers an arrival. It returns how to ask its owner to close it, which must not wait. SetCode, if it is called, tells
// how the connection ended.
type Host func(a *Arrival, setCode func(code int)) (goAway func(code int), err error)

// Upgrade and HandleConnection are set by package foyer. They are what its Handler's methods of these names do, but that the
// connection becomes the host's. h is a *foyer.Handler.
var (
	Upgrade          func(h any, w http.ResponseWriter, r *http.Request, host Host) error
	HandleConnection func(h any, conn net.Conn, host Host) error
)
