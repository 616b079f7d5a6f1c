package foyer

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"runtime/debug"
)

// hijack takes the connection from w, however deep other ResponseWriters have wrapped it. Some have a Hijack method that
// works, or even returns, only if what they wrap has one, too.
func hijack(w http.ResponseWriter) (net.Conn, *bufio.ReadWriter, *HandshakeError) {
	err := error(http.ErrNotSupported)
	for {
		if h, ok := w.(http.Hijacker); ok {
			conn, rw, failed := hijackFrom(h)
			if failed == nil {
				return conn, rw, nil
			}
			err = failed
		}
		inner, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			break
		}
		w = inner.Unwrap()
	}
	if _, ok := w.(http.Hijacker); !ok {
		err = fmt.Errorf("foyer: %T hides http.Hijacker: give it a method Unwrap() http.ResponseWriter, or mount the Handler outside of it: %w", w, err)
	}
	return nil, nil, internal(err)
}

// innermost returns the http.ResponseWriter that all others wrap, as far as they say so.
func innermost(w http.ResponseWriter) http.ResponseWriter {
	for {
		outer, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return w
		}
		w = outer.Unwrap()
	}
}

func hijackFrom(h http.Hijacker) (conn net.Conn, rw *bufio.ReadWriter, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{Value: v, Stack: debug.Stack()}
		}
	}()
	return h.Hijack()
}

// buffered returns the bytes that were read from a connection and not taken.
func buffered(rw *bufio.ReadWriter) []byte {
	if rw == nil || rw.Reader == nil {
		return nil
	}
	early, _ := rw.Reader.Peek(rw.Reader.Buffered())
	return early
}
