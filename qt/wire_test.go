package qt

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/foyerws/foyer/internal/wstest"
)

const validKey = "Sec-WebSocket-Key: 2Wg20829/4ziWlmsUAD8Dg==\r\n"

// request returns a handshake in which one line is replaced.
func request(line, by string) string {
	r := "GET /ABC/DEF/ HTTP/1.1\r\nHost: localhost:1234\r\nSec-WebSocket-Version: 13\r\n" + validKey + "Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
	if line == "" {
		return r
	}
	i := strings.Index(r, line)
	end := i + strings.Index(r[i:], "\r\n") + 2
	return r[:i] + by + r[end:]
}

// TestRequestsOfQtsTests has the requests of Qt's tests for handshakes, and how they are answered here.
func TestRequestsOfQtsTests(t *testing.T) {
	more := func(lines string) string { return request("Connection", "Connection: Upgrade\r\n"+lines) }
	for name, test := range map[string]struct {
		request string
		status  int
	}{
		"garbage on 2 lines":               {"foofoofoo\r\nfoofoo\r\n\r\n", 400},
		"correct form, wrong fields":       {"VERB RESOURCE PROTOCOL\r\n", 400},
		"short fields":                     {"V R P\r\n", 400},
		"NUL":                              {"V R\x00 P\r\n", 400},
		"version of HTTP":                  {"V R HTTP/invalid\r\n", 400},
		"zeros":                            {strings.Repeat("\x00", 10) + "\r\n", 400},
		"host":                             {request("Host", "Host: \xff\xff\r\n"), 400},
		"version of the protocol":          {request("Sec-WebSocket-Version", "Sec-WebSocket-Version: \xff\xff\r\n"), 426},
		"method":                           {request("GET", "BREW /x HTTP/1.1\r\n"), 405},
		"connection":                       {request("Connection", "Connection: xxxxxxx\r\n"), 426},
		"upgrade":                          {request("Upgrade", "Upgrade: wabsocket\r\n"), 426},
		"upgrade to one of two":            {request("Upgrade", "Upgrade: websocket,ftp\r\n"), 101}, // Qt refuses
		"begins with a continuation":       {request("Host", " Host: foo\r\n"), 400},
		"no colon":                         {more("X-Custom foo\r\n"), 400},
		"several values in Connection":     {request("Connection", "Connection: Upgrade,keepalive\r\n"), 101},
		"white space":                      {request("Upgrade", "Upgrade:websocket \r\n"), 101},
		"a folded line":                    {request("Sec-WebSocket-Key", "Sec-WebSocket-Key:   AVD  \r\n\tFBDDFF \r\n"), 400},      // Qt lets it in
		"several versions":                 {request("Sec-WebSocket-Version", "Sec-WebSocket-Version: 4, 5, 6, 7, 8, 13\r\n"), 426}, // Qt lets it in
		"a short key":                      {request("Sec-WebSocket-Key", "Sec-WebSocket-Key: AVDFBDDFF\r\n"), 400},                 // Qt lets it in
		"no colon in a long line":          {more(strings.Repeat("c", 8<<10) + "\r\n"), 400},
		"a line that is too long":          {more("Too-long: " + strings.Repeat("c", 8<<10) + "\r\n"), 431},
		"a line that is just not too long": {more("X-CUSTOM-KEY: " + strings.Repeat("c", 8<<10-14) + "\r\n"), 101},
		"too many lines":                   {more(strings.Repeat("X: y\r\n", 96)), 431},
		"just not too many lines":          {more(strings.Repeat("X: y\r\n", 95)), 101},
		"IPv4":                             {request("Host", "Host: 10.0.0.1:1234\r\n"), 101},
		"IPv4 without port":                {request("Host", "Host: 10.0.0.1\r\n"), 101},
		"IPv6":                             {request("Host", "Host: [56:56:56:56:56:56:56:56]:1234\r\n"), 101},
		"IPv6 with IPv4 in it":             {request("Host", "Host: [::ffff:129.144.52.38]:1111\r\n"), 101},
		"IPv6 without a bracket":           {request("Host", "Host: 56:56:56:56:56:56:56:56]:1234\r\n"), 400},
		"an address of the future":         {request("Host", "Host: [v7.1234]:1234\r\n"), 400}, // Qt lets it in
		"a name":                           {request("Host", "Host: foo.com:1234\r\n"), 101},
		"a name without port":              {request("Host", "Host: foo.com\r\n"), 101},
		"a host with a user":               {request("Host", "Host: abc:def@foo.com\r\n"), 400},
		"a host with a path":               {request("Host", "Host: foo.com/\r\n"), 400},
		"a query without a path":           {request("GET", "GET ?a=b HTTP/1.1\r\n"), 101},
		"the request of the first test that works": {request("", ""), 101},
	} {
		server := listening(t, NonSecureMode)
		conn, err := net.Dial("tcp", server.ServerUrl().Host)
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		io.WriteString(conn, test.request)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || resp.StatusCode != test.status {
			t.Errorf("%s: %v, %v", name, resp, err)
		}
		conn.Close()
	}
}

// TestFramesOfQtsTests has the frames of Qt's tests for its parser, and the code that the socket is closed with.
func TestFramesOfQtsTests(t *testing.T) {
	frame := func(f wstest.Frame) string {
		f.Mask = wstest.Key
		return string(f.Bytes())
	}
	code := func(n int) string { return string([]byte{byte(n >> 8), byte(n)}) }
	type row struct {
		sent string
		code CloseCode
	}
	rows := map[string]row{
		"an empty close frame":           {frame(wstest.Frame{First: 0x88}), CloseCodeNormal},
		"more than an int can hold":      {frame(wstest.Frame{First: 0x82, Length: 64, Claims: 1 << 40})[:14], CloseCodeTooMuchData},
		"a close frame of one byte":      {frame(wstest.Frame{First: 0x88, Payload: "x"}), CloseCodeProtocolError},
		"a close frame of 126 bytes":     {frame(wstest.Frame{First: 0x88, Payload: strings.Repeat("x", 126)}), CloseCodeProtocolError},
		"a ping of 126 bytes":            {frame(wstest.Frame{First: 0x89, Payload: strings.Repeat("x", 126)}), CloseCodeProtocolError},
		"a close frame that goes on":     {frame(wstest.Frame{First: 0x08}), CloseCodeProtocolError},
		"a ping that goes on":            {frame(wstest.Frame{First: 0x09}), CloseCodeProtocolError},
		"a pong that goes on":            {frame(wstest.Frame{First: 0x0a}), CloseCodeProtocolError},
		"RSV1":                           {frame(wstest.Frame{First: 0xc1}), CloseCodeProtocolError},
		"RSV2":                           {frame(wstest.Frame{First: 0xa1}), CloseCodeProtocolError},
		"RSV3":                           {frame(wstest.Frame{First: 0x91}), CloseCodeProtocolError},
		"a continuation of nothing":      {frame(wstest.Frame{First: 0x80, Payload: "x"}), CloseCodeProtocolError},
		"text instead of a continuation": {frame(wstest.Frame{First: 0x01}) + frame(wstest.Frame{First: 0x81}), CloseCodeProtocolError},
		"a short length in 2 bytes":      {frame(wstest.Frame{First: 0x81, Length: 16, Payload: "x"}), CloseCodeProtocolError},
		"a short length in 8 bytes":      {frame(wstest.Frame{First: 0x81, Length: 64, Payload: "x"}), CloseCodeProtocolError},
		"not masked":                     {string(wstest.Plain(0x81, "x")), CloseCodeProtocolError},
	}
	for _, opcode := range []byte{3, 4, 5, 6, 7, 11, 12, 13, 14, 15} {
		rows[fmt.Sprint("opcode ", opcode)] = row{frame(wstest.Frame{First: 0x80 | opcode}), CloseCodeProtocolError}
	}
	for _, n := range []int{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999} {
		rows[fmt.Sprint("code ", n)] = row{frame(wstest.Frame{First: 0x88, Payload: code(n) + "reason"}), CloseCode(n)}
	}
	for _, n := range []int{1012, 1013, 1014} { // Qt takes these for wrong; IANA has registered them
		rows[fmt.Sprint("code ", n)] = row{frame(wstest.Frame{First: 0x88, Payload: code(n)}), CloseCode(n)}
	}
	for _, n := range []int{0, 999, 1004, 1005, 1006, 1015, 1100, 2000, 2999, 5000, 65535} {
		rows[fmt.Sprint("code ", n)] = row{frame(wstest.Frame{First: 0x88, Payload: code(n)}), CloseCodeProtocolError}
	}
	for _, text := range []string{"cebae1bdb9cf83cebcceb5eda080656469746564", "cebae1bdb9cf83cebcceb5f4908080656469746564", "ce", "cebae1bd", "f888808080", "fc8480808080",
		"f7bfbfbf", "f4908080", "80", "80bf80bf80bf", "c020c120", "e020e120", "f020f120", "f820", "fc20", "c0", "e080", "efbf", "fe", "ff", "fefeffff", "c0af", "e080af",
		"f08080af", "c1bf", "e09fbf", "f08fbfbf", "c080", "e08080", "eda080", "edbfbf", "eda080edb080"} {
		b, _ := hex.DecodeString(text)
		rows["text "+text] = row{frame(wstest.Frame{First: 0x81, Payload: string(b)}), CloseCodeWrongDatatype}
		rows["continued "+text] = row{frame(wstest.Frame{First: 0x01}) + frame(wstest.Frame{First: 0x80, Payload: string(b)}), CloseCodeWrongDatatype}
		rows["reason "+text] = row{frame(wstest.Frame{First: 0x88, Payload: code(1000) + string(b)}), CloseCodeWrongDatatype}
	}
	for name, test := range rows {
		socket := sendRaw(t, test.sent, nil)
		try(t, name, func() bool { return socket.State() == UnconnectedState })
		if socket.CloseCode() != test.code {
			t.Errorf("%s: %v", name, socket.CloseCode())
		}
	}
}

// sendRaw sends bytes behind a handshake, and returns the server's socket, whose slots connect has connected.
func sendRaw(t *testing.T, sent string, connect func(*WebSocket)) *WebSocket {
	t.Helper()
	server := listening(t, NonSecureMode)
	conn, err := net.Dial("tcp", server.ServerUrl().Host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	io.WriteString(conn, request("", "")+sent)
	return take(t, server, connect)
}

// TestGoodFramesOfQtsTests arrive as they are.
func TestGoodFramesOfQtsTests(t *testing.T) {
	texts := []string{"", strings.Repeat("a", 125), strings.Repeat("a", 126), strings.Repeat("a", 65536), "Hello-µ@ßöäüàá-UTF-8!!", "\x00\x01\x7f",
		"\ufffe", "\uffff", "\ufdd0", "\U0001fffe", "\U0010ffff"}
	var sent string
	for _, text := range texts {
		sent += string(wstest.Masked(0x81, text)) + string(wstest.Masked(0x02, text[:len(text)/2])) + string(wstest.Masked(0x80, text[len(text)/2:]))
	}
	var got *spy[string]
	var binaries *spy[[]byte]
	sendRaw(t, sent, func(socket *WebSocket) {
		got, binaries = spy1(&socket.TextMessageReceived), spy1(&socket.BinaryMessageReceived)
	})
	tryCount(t, "textMessageReceived", got, len(texts))
	tryCount(t, "binaryMessageReceived", binaries, len(texts))
	for i, text := range texts {
		if got.all()[i] != text || string(binaries.all()[i]) != text {
			t.Errorf("%.20q, %.20q instead of %.20q", got.all()[i], binaries.all()[i], text)
		}
	}
}
