package foyer

import (
	"bytes"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/foyerws/foyer/internal/wire"
)

// The bounds of a request that HandleConnection reads.
const (
	maxLine        = 8 << 10  // bytes of the request line or of a header line, its end not counted
	maxHeaderLines = 100      // header lines
	maxHead        = 64 << 10 // bytes in all, so that a slow handshake has a small share of the memory
)

// A requestParser parses the head of an HTTP request line by line, as the lines come in. It is stricter than net/http
// where leniency helps nobody but those who smuggle: lines end in CRLF, names have no space behind them, and lines
// are not folded (RFC 9112 sections 2.2, 5.1 and 5.2).
type requestParser struct {
	emptyPath bool // the target may lack its path
	req       *http.Request
	size      int // bytes of complete lines so far
	lines     int // header lines so far
	done      bool
	wrong     *HandshakeError
}

// readFrom reads a request from c, or goes on where an earlier call had to wait that must not: then the refusal is errMustWait.
func (p *requestParser) readFrom(c *wire.Conn) (*http.Request, *HandshakeError) {
	for !p.done && p.wrong == nil {
		var n int
		n, p.done, p.wrong = p.parse(c.Peek())
		c.Discard(n)
		if p.done || p.wrong != nil {
			break
		}
		switch err := c.Fill(); {
		case err == wire.ErrNothing:
			return nil, errMustWait
		case err != nil:
			p.wrong = unfinished(err, c.BytesIn() > 0)
		}
	}
	if p.wrong != nil {
		p.wrong.Request = p.req
		return nil, p.wrong
	}
	return p.req, nil
}

// parse takes the complete lines at the start of b and returns how many bytes these are. done says that the empty line
// behind the header was among them; what follows it is not looked at.
func (p *requestParser) parse(b []byte) (n int, done bool, refusal *HandshakeError) {
	for {
		end := bytes.IndexByte(b[n:], '\n')
		if line := b[n:]; end < 0 {
			if len(line) > maxLine+1 {
				return n, false, p.tooLong()
			}
			return n, false, nil
		}
		raw, ok := bytes.CutSuffix(b[n:n+end], []byte("\r"))
		n += end + 1
		p.size += end + 1
		if !ok {
			return n, false, badRequest("line that does not end in CRLF")
		}
		if len(raw) > maxLine || p.size > maxHead {
			return n, false, p.tooLong()
		}
		switch line := string(raw); {
		case p.req == nil:
			refusal = p.requestLine(line)
		case line == "":
			return n, true, p.finish()
		default:
			refusal = p.headerLine(line)
		}
		if refusal != nil {
			return n, false, refusal
		}
	}
}

func (p *requestParser) tooLong() *HandshakeError {
	status := http.StatusRequestHeaderFieldsTooLarge
	if p.req == nil {
		status = http.StatusRequestURITooLong
	}
	return &HandshakeError{Status: status, Code: CloseMessageTooBig, Reason: "Request too large."}
}

func badRequest(reason string) *HandshakeError {
	return &HandshakeError{Status: http.StatusBadRequest, Code: CloseProtocolError, Reason: "Bad request: " + reason + "."}
}

func (p *requestParser) requestLine(line string) *HandshakeError {
	method, rest, _ := strings.Cut(line, " ")
	target, proto, ok := strings.Cut(rest, " ")
	major, minor, validProto := http.ParseHTTPVersion(proto)
	if !ok || !validProto || major != 1 || !httpguts.ValidHeaderFieldName(method) {
		return badRequest("malformed request line")
	}
	if p.emptyPath && strings.HasPrefix(target, "?") {
		target = "/" + target
	}
	u, err := url.ParseRequestURI(target)
	if err != nil || !printable(target) {
		return badRequest("malformed request target")
	}
	p.req = &http.Request{
		Method: method, URL: u, RequestURI: target,
		Proto: proto, ProtoMajor: major, ProtoMinor: minor,
		Header: make(http.Header), Body: http.NoBody,
	}
	return nil
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] == 0x7f {
			return false
		}
	}
	return true
}

func (p *requestParser) headerLine(line string) *HandshakeError {
	if p.lines++; p.lines > maxHeaderLines {
		return p.tooLong()
	}
	name, value, ok := strings.Cut(line, ":")
	if !ok || !httpguts.ValidHeaderFieldName(name) {
		return badRequest("malformed header line")
	}
	v := strings.Trim(value, " \t")
	if !httpguts.ValidHeaderFieldValue(v) {
		return badRequest("malformed header value")
	}
	key := textproto.CanonicalMIMEHeaderKey(name)
	p.req.Header[key] = append(p.req.Header[key], v)
	return nil
}

// finish turns what the header says about the request itself into the fields where net/http has it.
func (p *requestParser) finish() *HandshakeError {
	r := p.req
	hosts := r.Header["Host"]
	if len(hosts) > 1 {
		return badRequest("several Host headers")
	}
	if len(hosts) == 1 {
		if !httpguts.ValidHostHeader(hosts[0]) {
			return badRequest("malformed Host header")
		}
		r.Host = hosts[0]
		if r.URL.Host != "" {
			r.Host = r.URL.Host // RFC 9112 section 3.2.2
		}
		delete(r.Header, "Host")
	}
	if expect := r.Header["Expect"]; len(expect) > 0 && !(len(expect) == 1 && strings.EqualFold(expect[0], "100-continue")) {
		return refuse(http.StatusExpectationFailed, "This server has no such expectation.")
	}
	if length := r.Header["Content-Length"]; len(length) > 0 && (len(length) > 1 || length[0] != "0") {
		r.ContentLength = -1
	}
	if encoding := r.Header["Transfer-Encoding"]; len(encoding) > 0 {
		r.TransferEncoding, r.ContentLength = encoding, -1
		delete(r.Header, "Transfer-Encoding")
	}
	return nil
}
