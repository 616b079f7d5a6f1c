package foyer

import (
	"bytes"
	"context"
	"encoding/binary"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
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
	req   *http.Request
	size  int // bytes of complete lines so far
	lines int // header lines so far
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
	if length := r.Header["Content-Length"]; len(length) > 0 && (len(length) > 1 || length[0] != "0") {
		r.ContentLength = -1
	}
	if encoding := r.Header["Transfer-Encoding"]; len(encoding) > 0 {
		r.TransferEncoding, r.ContentLength = encoding, -1
		delete(r.Header, "Transfer-Encoding")
	}
	return nil
}

// A record is what is kept of a request: little, since every open socket has one.
type record struct {
	packed string        // the header and, where base is nil, what stands before it
	url    *url.URL      // if it is not what the request said
	base   *http.Request // all the rest, of a request that net/http has parsed
}

// keep returns the record of a request that was parsed here.
func keep(r *http.Request) record {
	var k record
	if asked, err := url.ParseRequestURI(r.RequestURI); err != nil || *asked != *r.URL {
		k.url = r.URL
	}
	k.packed = pack(r.Header, r.Method, r.RequestURI, r.Proto, r.Host)
	return k
}

// keepBase returns the record of a request that net/http has parsed, or somebody else, which outlives the handler that
// got it.
func keepBase(r *http.Request) record {
	base := new(http.Request)
	*base = *r
	base.Header, base.Trailer = nil, nil
	base.Body, base.GetBody, base.Response, base.MultipartForm = http.NoBody, nil, nil, nil
	return record{packed: pack(r.Header), base: base.Clone(detached{r.Context()})}
}

// unpack returns the request.
func (k record) unpack() *http.Request {
	if k.base != nil {
		r := k.base.Clone(k.base.Context())
		_, r.Header = unpack(k.packed, 0)
		return r
	}
	first, header := unpack(k.packed, 4)
	r := &http.Request{Method: first[0], RequestURI: first[1], Proto: first[2], Host: first[3], Header: header, Body: http.NoBody}
	r.ProtoMajor, r.ProtoMinor, _ = http.ParseHTTPVersion(r.Proto)
	if k.url == nil {
		r.URL, _ = url.ParseRequestURI(r.RequestURI)
		return r
	}
	u := *k.url
	r.URL = &u
	return r
}

// pack puts strings and a header into one string, each behind its length.
func pack(header http.Header, first ...string) string {
	size := 0
	for _, s := range first {
		size += len(s) + 2
	}
	for name, values := range header {
		for _, v := range values {
			size += len(name) + len(v) + 3
		}
	}
	b := make([]byte, 0, size)
	add := func(s string) { b = append(binary.AppendUvarint(b, uint64(len(s))), s...) }
	for _, s := range first {
		add(s)
	}
	for name, values := range header {
		for _, v := range values {
			add(name)
			add(v)
		}
	}
	return string(b)
}

// unpack returns the n strings that were packed before the header, and the header.
func unpack(packed string, n int) ([]string, http.Header) {
	b := []byte(packed)
	next := func() string {
		size, m := binary.Uvarint(b)
		s := packed[len(packed)-len(b)+m:][:size]
		b = b[m+int(size):]
		return s
	}
	first := make([]string, n)
	for i := range first {
		first[i] = next()
	}
	header := make(http.Header)
	for len(b) > 0 {
		name := next()
		header[name] = append(header[name], next())
	}
	return first, header
}

// detached is a request's context without its end: net/http cancels it as soon as the handler returns, while the
// socket lives on.
type detached struct{ context.Context }

func (detached) Deadline() (time.Time, bool) { return time.Time{}, false }
func (detached) Done() <-chan struct{}       { return nil }
func (detached) Err() error                  { return nil }

// Value returns the request's value for key, unless its owner recycles it. Some routers, chi among them, keep their
// parameters in an object that serves the next request once this one's handler has returned; such objects have a Reset
// method. Nothing is better than somebody else's parameters. http.Request.PathValue has the parameters all the same.
func (d detached) Value(key any) any {
	v := d.Context.Value(key)
	if _, recycled := v.(interface{ Reset() }); recycled {
		return nil
	}
	return v
}
