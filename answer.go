package foyer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/foyerws/foyer/internal/frame"
	"github.com/foyerws/foyer/internal/wire"
)

// refusedBy is the error for an answer that is a refusal. The server's own words are in it where they are text.
func refusedBy(who string, resp *http.Response) *HandshakeError {
	refusal := &HandshakeError{Status: resp.StatusCode, Code: CloseAbnormalClosure, Reason: "Refused by the " + who + ".", Request: resp.Request}
	if said := firstLine(resp); said != "" {
		refusal.Reason = said
	}
	if location := resp.Header.Get("Location"); location != "" && resp.StatusCode/100 == 3 {
		where, _, _ := strings.Cut(location, "?") // what follows may hold a secret
		refusal.Err = fmt.Errorf("redirects are not followed, and this one leads to %q", clip(where))
	}
	return refusal
}

// checkAnswer sees to it that the answer is that of a WebSocket server which has agreed only to what was offered (RFC 6455
// section 4.1, RFC 7692 section 7.1), and returns how the socket compresses.
func (o *DialOptions) checkAnswer(cfg *config, resp *http.Response, head []byte, key string) (*compression, error) {
	if err := checkHead(head); err != nil {
		return nil, err
	}
	accept := string(appendAccept(nil, key))
	switch {
	case !resp.ProtoAtLeast(1, 1) || resp.ProtoMajor != 1:
		return nil, fmt.Errorf("version %q is not HTTP/1.1", clip(resp.Proto))
	case len(resp.Header["Upgrade"]) != 1 || !strings.EqualFold(resp.Header.Get("Upgrade"), "websocket"):
		return nil, fmt.Errorf("Upgrade is %q and not websocket (RFC 6455 section 4.1)", resp.Header["Upgrade"])
	case !httpguts.HeaderValuesContainsToken(resp.Header["Connection"], "upgrade"):
		return nil, fmt.Errorf("the Connection header is %q and not Upgrade (RFC 6455 section 4.1)", resp.Header["Connection"])
	case len(resp.Header["Sec-Websocket-Accept"]) > 1:
		return nil, errors.New("several Sec-WebSocket-Accept headers (RFC 6455 section 4.1)")
	case !isOnly(resp.Header["Sec-Websocket-Accept"], accept):
		return nil, errors.New("Sec-WebSocket-Accept does not answer our key (RFC 6455 section 4.1)")
	}
	if chosen := resp.Header["Sec-Websocket-Protocol"]; len(chosen) > 1 || len(chosen) == 1 && !slices.Contains(o.Subprotocols, chosen[0]) {
		return nil, fmt.Errorf("subprotocol %q was not offered", chosen)
	}
	extensions := resp.Header["Sec-Websocket-Extensions"]
	if len(extensions) == 0 {
		return nil, nil
	}
	if len(extensions) > 1 || o.Compression == CompressionDisabled {
		return nil, fmt.Errorf("extension %q was not offered", extensions)
	}
	agreed, err := frame.Agree(extensions[0], o.Compression == CompressionContextTakeover)
	if err != nil {
		return nil, fmt.Errorf("extension %q was not offered: %w", extensions, err)
	}
	return cfg.compressionFor(agreed.Client, agreed.Server, 0), nil
}

// checkHead refuses the head of an answer that servers and proxies could understand differently: lines must end in CRLF,
// and a 101 has no body (RFC 9110 section 8.6, RFC 9112 section 6.1).
func checkHead(head []byte) error {
	for line := range bytes.Lines(head) {
		if !bytes.HasSuffix(line, []byte("\r\n")) {
			return errors.New("line that does not end in CRLF")
		}
		switch name, _, _ := bytes.Cut(line, []byte(":")); textproto.CanonicalMIMEHeaderKey(string(name)) {
		case "Content-Length", "Transfer-Encoding":
			return fmt.Errorf("%s on an answer that has no body", name)
		}
	}
	return nil
}

// firstLine returns the first line of a refusal's body if it is text. The body can still be read.
func firstLine(resp *http.Response) string {
	kind, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	if resp.Body == nil || strings.TrimSpace(kind) != "text/plain" {
		return ""
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body = io.NopCloser(bytes.NewReader(body))
	line, _, _ := bytes.Cut(body, []byte("\n"))
	return clip(strings.TrimSpace(string(line)))
}

// A bodyReader reads the body of a refusal, which need not end, behind its head. It does not wait for it for long.
type bodyReader struct {
	conn *wire.Conn
	slow bool // it was waited for
}

func (r *bodyReader) Read(p []byte) (int, error) {
	if !r.slow {
		r.slow = true
		r.conn.SetDeadline(time.Now().Add(bodyTime))
	}
	if !r.conn.Unread() {
		if err := r.conn.Fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.conn.Peek())
	r.conn.Discard(n)
	return n, nil
}

var errHeadTooLong = fmt.Errorf("the head of the answer is longer than %d bytes", maxHead)

// bodyTime is how long the first KiB of a refusal's body is waited for.
const bodyTime = time.Second

// readHead reads the head of the first answer that is not an interim one.
func readHead(c *wire.Conn) ([]byte, error) {
	var head []byte
	begin, line := 0, 0 // of the answer, and of the last line
	for {
		if !c.Unread() {
			if err := c.Fill(); err != nil {
				return nil, err
			}
		}
		n := bytes.IndexByte(c.Peek(), '\n') + 1
		if n == 0 {
			n = len(c.Peek())
		}
		head = append(head, c.Peek()[:n]...)
		c.Discard(n)
		switch {
		case len(head) > maxHead:
			return nil, errHeadTooLong
		case head[len(head)-1] != '\n':
			continue
		case len(bytes.TrimRight(head[line:], "\r\n")) > 0: // not the end yet
		case interim(head[begin:]):
			begin = len(head)
		default:
			return head[begin:], nil
		}
		line = len(head)
	}
}

// interim reports whether an answer is one that another follows.
func interim(answer []byte) bool {
	_, status, _ := bytes.Cut(answer, []byte(" "))
	return len(status) > 3 && status[0] == '1' && !bytes.HasPrefix(status, []byte("101"))
}
