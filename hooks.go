package foyer

import (
	"context"
	"fmt"
	"net/http"
	"runtime/debug"
	"time"

	"golang.org/x/net/http/httpguts"
)

// ask asks Origins and Authorize. A panic in them is a refusal.
func (h *Handler) ask(r *http.Request) (header http.Header, refusal *HandshakeError) {
	defer h.asking.Add(-1)
	if h.asking.Add(1) > maxWaiting {
		return nil, unavailable(errAsking)
	}
	returned := false
	defer func() {
		v := recover()
		if v == nil && !returned { // runtime.Goexit: nobody else will say so
			h.refused(internal(errHookGoexit), r, nil)
		}
		if v != nil {
			refusal = internal(&PanicError{Value: v, Stack: debug.Stack()})
		}
	}()
	header, refusal = h.askHooks(r)
	returned = true
	return header, refusal
}

func (h *Handler) askHooks(r *http.Request) (http.Header, *HandshakeError) {
	origins := h.Origins
	if origins == nil {
		origins = SameOrigin()
	}
	if !origins.OriginAllowed(r) {
		return nil, &HandshakeError{Status: http.StatusForbidden, Code: ClosePolicyViolation,
			Reason: "Access forbidden.", Err: ErrOriginNotAllowed}
	}
	if h.Authorize == nil {
		return nil, nil
	}
	header, err := h.Authorize(r)
	if err != nil {
		return nil, notAuthorized(header, err)
	}
	if err := checkHeader(header); err != nil {
		return nil, internal(err)
	}
	return header, nil
}

// asksNobody reports whether no function of the program takes part in the handshake.
func (h *Handler) asksNobody() bool {
	switch h.Origins.(type) {
	case nil, sameOrigin, originList, anyOrigin:
		return h.Authorize == nil
	}
	return false
}

// within gives the hooks of r a context that ends with the handshake, or at deadline if that is earlier.
func (h *Handler) within(r *http.Request, deadline time.Time) (*http.Request, context.CancelFunc) {
	if h.asksNobody() {
		return r, func() {}
	}
	if deadline.IsZero() {
		ctx, cancel := context.WithCancel(r.Context())
		return r.WithContext(ctx), cancel
	}
	ctx, cancel := context.WithDeadline(r.Context(), deadline)
	return r.WithContext(ctx), cancel
}

// handshakeHeaders are those that belong to the handshake or to the connection: a hook may not set them.
var handshakeHeaders = map[string]bool{
	"Connection": true, "Upgrade": true, "Content-Length": true, "Transfer-Encoding": true, "Trailer": true,
	"Sec-Websocket-Accept": true, "Sec-Websocket-Extensions": true, "Sec-Websocket-Protocol": true,
	"Sec-Websocket-Key": true, "Sec-Websocket-Version": true,
}

// checkHeader refuses response headers that could change the meaning of the answer.
func checkHeader(header http.Header) error {
	for name, values := range header {
		if !httpguts.ValidHeaderFieldName(name) {
			return fmt.Errorf("foyer: Authorize returned a header with the malformed name %q", name)
		}
		if handshakeHeaders[http.CanonicalHeaderKey(name)] {
			return fmt.Errorf("foyer: Authorize returned the header %s, which belongs to the handshake", name)
		}
		for _, v := range values {
			if !httpguts.ValidHeaderFieldValue(v) {
				return fmt.Errorf("foyer: Authorize returned the header %s with a malformed value", name)
			}
		}
	}
	return nil
}
