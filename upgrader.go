package foyer

import (
	"bufio"
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/net/http/httpguts"

	"github.com/foyerws/foyer/internal/wire"
)

// IsHandshake reports whether r asks for a WebSocket: by an upgrade (RFC 6455 section 4.1), or by an extended CONNECT over
// HTTP/2 or HTTP/3 (RFC 8441 section 5). Whether it asks in the right way is for a [Handler] to say.
func IsHandshake(r *http.Request) bool {
	if isConnect(r) {
		return strings.EqualFold(connectProtocol(r), "websocket")
	}
	return httpguts.HeaderValuesContainsToken(r.Header["Connection"], "upgrade") &&
		httpguts.HeaderValuesContainsToken(r.Header["Upgrade"], "websocket")
}

// checkRequest judges the request itself, RFC 6455 section 4.2.1.
func checkRequest(r *http.Request) *HandshakeError {
	if refusal := checkSize(r); refusal != nil {
		return refusal
	}
	switch {
	case isConnect(r):
		return checkConnect(r)
	case r.Method != http.MethodGet:
		return refuse(http.StatusMethodNotAllowed, "The method of a WebSocket handshake is GET.")
	case !r.ProtoAtLeast(1, 1):
		return refuse(http.StatusBadRequest, "A WebSocket handshake needs HTTP/1.1.")
	case r.Host == "" || len(r.Header["Host"]) > 0 && !isOnly(r.Header["Host"], r.Host): // fasthttp leaves it there
		return refuse(http.StatusBadRequest, "A WebSocket handshake needs one Host header.")
	case !validHost(r.Host):
		return refuse(http.StatusBadRequest, "The Host header is malformed.")
	case r.ContentLength != 0 || len(r.TransferEncoding) > 0:
		return refuse(http.StatusBadRequest, "A WebSocket handshake has no body.")
	case !IsHandshake(r):
		return refuse(http.StatusUpgradeRequired, "This is a WebSocket endpoint.")
	case !isOnly(r.Header["Sec-Websocket-Version"], "13"):
		return refuse(http.StatusUpgradeRequired, "The WebSocket version is 13.")
	case !validKey(r.Header["Sec-Websocket-Key"]):
		return refuse(http.StatusBadRequest, "Sec-WebSocket-Key must be 16 bytes in base64.")
	}
	return nil
}

// validHost reports whether s is a host with or without a port (RFC 9110 section 7.2). net/http looks at its characters
// only.
func validHost(s string) bool {
	host, port := s, ""
	if i := strings.LastIndexByte(s, ':'); i >= 0 && strings.IndexByte(s[i:], ']') < 0 {
		host, port = s[:i], s[i+1:]
	}
	for i := range len(port) {
		if port[i] < '0' || '9' < port[i] {
			return false
		}
	}
	if inner, ok := strings.CutPrefix(host, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		addr, err := netip.ParseAddr(inner)
		return ok && err == nil && addr.Is6()
	}
	return host != "" && len(host) <= maxName && !strings.ContainsAny(host, ":[]")
}

// checkSize holds a request that net/http has parsed to the bounds of those that are parsed here: what is kept of it lives
// as long as the socket.
func checkSize(r *http.Request) *HandshakeError {
	if len(r.RequestURI) > maxLine {
		return &HandshakeError{Status: http.StatusRequestURITooLong, Code: CloseMessageTooBig, Reason: "Request too large."}
	}
	size, lines := len(r.RequestURI), 0
	for name, values := range r.Header {
		for _, v := range values {
			lines++
			size += len(name) + len(v)
			if len(name)+len(v) > maxLine || size > maxHead || lines > maxHeaderLines {
				return &HandshakeError{Status: http.StatusRequestHeaderFieldsTooLarge, Code: CloseMessageTooBig, Reason: "Request too large."}
			}
		}
	}
	return nil
}

func isOnly(values []string, want string) bool { return len(values) == 1 && values[0] == want }

func validKey(values []string) bool {
	if len(values) != 1 || len(values[0]) != 24 {
		return false
	}
	var key [18]byte
	n, err := base64.StdEncoding.Decode(key[:], []byte(values[0]))
	return err == nil && n == 16
}

// selectSubprotocol returns the first of the client's subprotocols, in its order, that the server speaks too.
func selectSubprotocol(r *http.Request, ours []string) string {
	for _, list := range r.Header["Sec-Websocket-Protocol"] {
		for theirs := range strings.SplitSeq(list, ",") {
			theirs = strings.Trim(theirs, " \t")
			for _, name := range ours {
				if theirs == name && name != "" {
					return name
				}
			}
		}
	}
	return ""
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

// answerHeader returns the headers for a 101: those that middleware has set, but for what would describe a body, and
// those of Authorize.
func answerHeader(outer, authorized http.Header) http.Header {
	header := make(http.Header, len(outer)+len(authorized)+2)
	for name, values := range outer {
		name = http.CanonicalHeaderKey(name)
		if httpguts.ValidHeaderFieldName(name) && !handshakeHeaders[name] && !strings.HasPrefix(name, "Content-") {
			header[name] = values // gorilla puts a space for what a value may not have
		}
	}
	for name, values := range authorized {
		name = http.CanonicalHeaderKey(name)
		header[name] = append(header[name][:len(header[name]):len(header[name])], values...)
	}
	return header
}

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

// upgrade answers r, with the 101 that gorilla's Upgrader writes or in the way that a has, and returns the socket.
func (h *Handler) upgrade(a arrival, r *http.Request) (*Socket, error) {
	header := a.header
	if name := h.serverName(); name != "" {
		header["Server"] = []string{name}
	}
	subprotocol := selectSubprotocol(r, h.Subprotocols)
	if subprotocol != "" {
		header["Sec-Websocket-Protocol"] = []string{subprotocol}
	}
	deflate := h.config.compression && offersDeflate(r.Header["Sec-Websocket-Extensions"])
	key := r.Header["Sec-Websocket-Key"]
	if a.begin != nil {
		if deflate {
			header["Sec-Websocket-Extensions"] = []string{acceptedDeflate}
		}
		a.begin(header)
		key, header = anyKey, nil
	}
	engine := &engineConn{Conn: a.wire, begun: a.begin == nil}
	g, err := gorillaOn(engine, h.config.upgrader, key, deflate, header)
	if err != nil {
		return nil, err
	}
	engine.begun = true
	s := newSocket(a.wire, h.config, a.kept, subprotocol, true, deflate)
	if deflate {
		g.SetCompressionLevel(h.config.level)
		s.gorilla.Store(g)
	}
	return s, nil
}

// acceptedDeflate is the form in which gorilla accepts permessage-deflate.
const acceptedDeflate = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"

// offersDeflate reports whether the client offers permessage-deflate in a form that we can accept: with any of the
// parameters of RFC 7692 section 7.1, once each and well-formed, but for server_max_window_bits, since compress/flate
// always uses the largest window.
func offersDeflate(values []string) bool {
	for _, list := range values {
		for offer := range strings.SplitSeq(list, ",") {
			if acceptable(offer) {
				return true
			}
		}
	}
	return false
}

func acceptable(offer string) bool {
	params, ok := deflateParams(offer)
	_, window := params["server_max_window_bits"]
	return ok && !window
}

// deflateParams parses the offer or the acceptance of permessage-deflate, and reports false where it is of something
// else, or malformed.
func deflateParams(s string) (params map[string]string, ok bool) {
	name, rest, more := strings.Cut(s, ";")
	if strings.Trim(name, " \t") != "permessage-deflate" {
		return nil, false
	}
	params, ok = make(map[string]string), true
	for more {
		var param string
		param, rest, more = strings.Cut(rest, ";")
		key, value, hasValue := strings.Cut(param, "=")
		key, value = strings.Trim(key, " \t"), strings.Trim(value, " \t")
		if _, twice := params[key]; twice {
			return nil, false
		}
		params[key] = value
		switch key {
		case "server_no_context_takeover", "client_no_context_takeover":
			ok = !hasValue
		case "server_max_window_bits":
			ok = validWindow(value)
		case "client_max_window_bits":
			ok = !hasValue || validWindow(value)
		default:
			ok = false
		}
		if !ok {
			return nil, false
		}
	}
	return params, true
}

// validWindow reports whether s is a window size, which may be quoted: 8 to 15.
func validWindow(s string) bool {
	if len(s) > 2 && s[0] == '"' && s[len(s)-1] == '"' {
		s = s[1 : len(s)-1]
	}
	switch s {
	case "8", "9", "10", "11", "12", "13", "14", "15":
		return true
	}
	return false
}

// readBufferSize is that of the one buffer a quiet socket keeps: gorilla looks at a frame header through it. Longer
// reads pass it by.
const readBufferSize = 128

// gorillaOn has gorilla's Upgrader write the 101 to conn and returns its Conn on it.
func gorillaOn(conn net.Conn, u *websocket.Upgrader, key []string, deflate bool, header http.Header) (*websocket.Conn, error) {
	w := handovers.Get().(*handover)
	defer handovers.Put(w)
	w.conn = conn
	w.request.Header["Sec-Websocket-Key"] = key
	if deflate {
		w.request.Header["Sec-Websocket-Extensions"] = []string{"permessage-deflate"}
	}
	g, err := u.Upgrade(w, w.request, header)
	w.conn = nil
	w.rw.Reader.Reset(nil)
	w.rw.Writer.Reset(nil)
	delete(w.request.Header, "Sec-Websocket-Extensions")
	return g, err
}

// A handover is the http.ResponseWriter that gorilla's Upgrader takes the connection from. With it comes a request that
// gorilla understands as we have understood the client's: its own reading of lists and offers differs.
type handover struct {
	conn    net.Conn
	rw      *bufio.ReadWriter
	request *http.Request
}

var handovers = sync.Pool{New: func() any {
	return &handover{
		rw: bufio.NewReadWriter(bufio.NewReaderSize(nil, 16), bufio.NewWriterSize(nil, 1<<10)),
		request: &http.Request{Method: http.MethodGet, Header: http.Header{
			"Connection":            {"Upgrade"},
			"Upgrade":               {"websocket"},
			"Sec-Websocket-Version": {"13"},
		}},
	}
}}

func (hw *handover) Header() http.Header         { return http.Header{} }
func (hw *handover) Write(p []byte) (int, error) { return len(p), nil }
func (hw *handover) WriteHeader(int)             {}

func (hw *handover) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	hw.rw.Reader.Reset(hw.conn)
	return hw.conn, hw.rw, nil
}

// newUpgrader returns a gorilla Upgrader. All that it would check was checked before.
func newUpgrader(cfg *config) *websocket.Upgrader {
	return &websocket.Upgrader{
		ReadBufferSize:    readBufferSize,
		WriteBufferSize:   cfg.writeBufferSize(),
		WriteBufferPool:   &cfg.writeBuffers,
		CheckOrigin:       func(*http.Request) bool { return true },
		EnableCompression: true, // where gorillaOn offers it
	}
}

// readRequest reads the head of a request from c. What follows it stays in c.
func readRequest(c *wire.Conn) (*http.Request, *HandshakeError) {
	var p requestParser
	for {
		n, done, refusal := p.parse(c.Peek())
		c.Discard(n)
		if refusal != nil {
			refusal.Request = p.req
			return nil, refusal
		}
		if done {
			return p.req, nil
		}
		if err := c.Fill(); err != nil {
			return nil, unfinished(err, c.BytesIn() > 0)
		}
	}
}

// within gives the hooks of r a context that ends at deadline.
func (h *Handler) within(r *http.Request, deadline time.Time) (*http.Request, context.CancelFunc) {
	if deadline.IsZero() || h.Authorize == nil && h.Origins == nil {
		return r, func() {}
	}
	ctx, cancel := context.WithDeadline(r.Context(), deadline)
	return r.WithContext(ctx), cancel
}
