package foyer

import (
	"crypto/sha1"
	"encoding/base64"
	"net/http"
	"net/netip"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// IsHandshake reports whether r asks for a WebSocket, by an upgrade (RFC 6455) or an extended CONNECT (RFC 8441). r may
// still be invalid.
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

// answerHeader returns the headers for a 101: those that middleware has set, but for what would describe a body, and
// those of Authorize.
func answerHeader(outer, authorized http.Header) http.Header {
	header := make(http.Header, len(outer)+len(authorized)+2)
	for name, values := range outer {
		name = http.CanonicalHeaderKey(name)
		if httpguts.ValidHeaderFieldName(name) && !handshakeHeaders[name] && !strings.HasPrefix(name, "Content-") {
			header[name] = values
		}
	}
	for name, values := range authorized {
		name = http.CanonicalHeaderKey(name)
		header[name] = append(header[name][:len(header[name]):len(header[name])], values...)
	}
	return header
}

// upgrade answers r, with a 101 or in the way that a has, and returns the socket.
func (h *Handler) upgrade(a arrival, r *http.Request) (*Socket, error) {
	header := a.header
	if name := h.serverName(); name != "" {
		header["Server"] = []string{name}
	}
	subprotocol := selectSubprotocol(r, h.Subprotocols)
	if subprotocol != "" {
		header["Sec-Websocket-Protocol"] = []string{subprotocol}
	}
	deflate, extension := h.config.negotiate(r.Header["Sec-Websocket-Extensions"])
	if deflate != nil {
		header["Sec-Websocket-Extensions"] = []string{extension}
	}
	if a.begin != nil {
		a.begin(header)
	} else if err := a.wire.Write(switching(r.Header["Sec-Websocket-Key"][0], header)); err != nil {
		h.config.release(deflate)
		return nil, err
	}
	return newSocket(a.wire, h.config, a.kept, subprotocol, deflate), nil
}

// switching returns the answer that turns a connection into a WebSocket, RFC 6455 section 4.2.2.
func switching(key string, header http.Header) []byte {
	b := make([]byte, 0, 512)
	b = append(b, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "...)
	b = appendAccept(b, key)
	b = append(b, "\r\n"...)
	for name, values := range header {
		for _, value := range values {
			b = append(append(b, spelled(name)...), ": "...)
			for i := range len(value) {
				c := value[i]
				if c < ' ' && c != '\t' || c == 0x7f {
					c = ' ' // middleware may have set it
				}
				b = append(b, c)
			}
			b = append(b, "\r\n"...)
		}
	}
	return append(b, "\r\n"...)
}

// spelled returns the name of a header as RFC 6455 spells it, which net/http does not.
func spelled(name string) string {
	if rest, ok := strings.CutPrefix(name, "Sec-Websocket-"); ok {
		return "Sec-WebSocket-" + rest
	}
	return name
}

// appendAccept appends the value of Sec-WebSocket-Accept, RFC 6455 section 4.2.2 item 5.
func appendAccept(b []byte, key string) []byte {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.AppendEncode(b, sum[:])
}
