package qt

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestSocketInitialisation(t *testing.T) {
	for _, test := range []struct {
		origin        string
		version, want Version
	}{
		{"", VersionUnknown, VersionLatest},
		{"qt-project.org", VersionUnknown, VersionLatest},
		{"qt-project.org", Version7, Version7},
	} {
		w := NewWebSocket(test.origin, test.version)
		if w.Origin() != test.origin || w.Version() != test.want || w.Error() != UnknownSocketError || w.ErrorString() != "" || w.IsValid() ||
			w.LocalAddress().IsValid() || w.LocalPort() != 0 || w.PauseMode() != PauseNever || w.PeerAddress().IsValid() || w.PeerPort() != 0 ||
			w.PeerName() != "" || w.State() != UnconnectedState || w.ReadBufferSize() != 0 || w.ResourceName() != "" || w.RequestUrl().String() != "" ||
			w.Request() != nil || w.CloseCode() != CloseCodeNormal || w.CloseReason() != "" || !w.Flush() || w.BytesToWrite() != 0 ||
			w.SendTextMessage("text") != 0 || w.SendBinaryMessage([]byte("binary")) != 0 || w.Subprotocol() != "" {
			t.Errorf("unexpected values: %+v", test)
		}
		w.Close(CloseCodeNormal, "") // none of these does anything
		w.Abort()
		w.Ping(nil)
		w.Resume()
		w.ContinueInterruptedHandshake()
		if w.State() != UnconnectedState {
			t.Error(w.State())
		}
	}
}

func TestSocketSettersAndGetters(t *testing.T) {
	w := NewWebSocket("", VersionLatest)
	for _, mode := range []PauseModes{PauseOnSslErrors, PauseNever} {
		if w.SetPauseMode(mode); w.PauseMode() != mode {
			t.Error(w.PauseMode())
		}
	}
	for _, n := range []int64{128, 0, -1} {
		if w.SetReadBufferSize(n); w.ReadBufferSize() != n {
			t.Error(w.ReadBufferSize())
		}
	}
	proxy := NetworkProxy{}
	proxy.SetPort(123)
	if w.Proxy().Type() != DefaultProxy {
		t.Error(w.Proxy())
	}
	w.SetProxy(proxy)
	if w.Proxy() != proxy {
		t.Error(w.Proxy())
	}
	if proxy.SetPort(321); w.Proxy().Port() != 123 {
		t.Error("the proxy was not copied")
	}
	config := new(tls.Config)
	if w.SetSslConfiguration(config); w.SslConfiguration() != config {
		t.Error(w.SslConfiguration())
	}
	for _, limit := range []struct {
		name string
		most uint64
		set  func(uint64)
		get  func() uint64
		def  uint64
	}{
		{"incoming frame", MaxIncomingFrameSize(), w.SetMaxAllowedIncomingFrameSize, w.MaxAllowedIncomingFrameSize, MaxIncomingFrameSize()},
		{"incoming message", MaxIncomingMessageSize(), w.SetMaxAllowedIncomingMessageSize, w.MaxAllowedIncomingMessageSize, MaxIncomingMessageSize()},
		{"outgoing frame", MaxOutgoingFrameSize(), w.SetOutgoingFrameSize, w.OutgoingFrameSize, 512 << 10},
	} {
		if limit.most != 2147483646 || limit.get() != limit.def {
			t.Error(limit.name, limit.most, limit.get())
		}
		limit.set(1234)
		if limit.set(limit.most + 1); limit.get() != 1234 {
			t.Error(limit.name, limit.get())
		}
	}
}

// signals are the spies on all signals that must not be emitted by an Open that fails.
func signals(w *WebSocket) (unexpected func() int) {
	a, b, c := spy0(&w.AboutToClose), spy0(&w.Connected), spy0(&w.ReadChannelFinished)
	d, e := spy2(&w.TextFrameReceived), spy2(&w.BinaryFrameReceived)
	f, g, h, i := spy1(&w.TextMessageReceived), spy1(&w.BinaryMessageReceived), spy2(&w.Pong), spy1(&w.BytesWritten)
	return func() int {
		return a.count() + b.count() + c.count() + d.count() + e.count() + f.count() + g.count() + h.count() + i.count()
	}
}

func TestInvalidOpen(t *testing.T) {
	for _, test := range []struct {
		origin, target, url, peer, resource string
		state                               SocketState
		disconnected                        int
		states                              []SocketState
		kind                                SocketError
	}{
		{"", "ws://127.0.0.1:1/", "ws://127.0.0.1:1/", "127.0.0.1", "/", ConnectingState, 1, []SocketState{ConnectingState, UnconnectedState}, ConnectionRefusedError},
		{"", "ws://myhacky\r\nserver/", "", "", "", UnconnectedState, 0, nil, ConnectionRefusedError},
		{"", "ws://127.0.0.1:1/tricky\r\npath", "", "", "", UnconnectedState, 0, nil, ConnectionRefusedError},
		{"", "ws://127.0.0.1:1/tricky%0d%0apath", "", "", "", UnconnectedState, 0, nil, ConnectionRefusedError},
		{"", "ws:///path", "", "", "", UnconnectedState, 0, nil, ConnectionRefusedError},
		{"", "http://127.0.0.1:1/", "", "", "", UnconnectedState, 0, nil, UnsupportedSocketOperationError},
		{"My server\r\nin the wild.", "ws://127.0.0.1:1/", "ws://127.0.0.1:1/", "127.0.0.1", "/", ConnectingState, 1, []SocketState{ConnectingState, UnconnectedState}, NetworkError},
	} {
		w := newClient(t, test.origin)
		unexpected, failed, disconnected, states := signals(w), spy1(&w.ErrorOccurred), spy0(&w.Disconnected), spy1(&w.StateChanged)
		held := make(chan struct{})
		InvokeMethod(func() { <-held }) // the handshake cannot be seen to fail before it was looked at
		w.Open(test.target)
		if w.State() != test.state || w.RequestUrl().String() != test.url || w.PeerName() != test.peer || w.ResourceName() != test.resource ||
			w.IsValid() || w.LocalPort() != 0 || w.PeerPort() != 0 || w.CloseCode() != CloseCodeNormal || w.SendTextMessage("text") != 0 {
			t.Errorf("%q: %v, %v, %q, %q", test.target, w.State(), w.RequestUrl(), w.PeerName(), w.ResourceName())
		}
		close(held)
		tryCount(t, "errorOccurred", failed, 1)
		if failed.all()[0] != test.kind || w.Error() != test.kind || w.ErrorString() == "" || disconnected.count() != test.disconnected || !slices.Equal(states.all(), test.states) || unexpected() != 0 {
			t.Errorf("%q: %v, %q, %d, %v, %d", test.target, failed.all(), w.ErrorString(), disconnected.count(), states.all(), unexpected())
		}
	}
}

func TestSendMessages(t *testing.T) {
	server := listening(t, NonSecureMode)
	urls := make(chan string, 2)
	server.NewConnection.Connect(func() {
		socket := server.NextPendingConnection()
		urls <- socket.RequestUrl().String() + " " + socket.ResourceName()
		socket.TextMessageReceived.Connect(func(m string) { socket.SendTextMessage(m) })
		socket.BinaryMessageReceived.Connect(func(m []byte) { socket.SendBinaryMessage(m) })
	})
	w := newClient(t, "")
	texts, binaries := spy1(&w.TextMessageReceived), spy1(&w.BinaryMessageReceived)
	textFrames, binaryFrames := spy2(&w.TextFrameReceived), spy2(&w.BinaryFrameReceived)
	written, connected := spy1(&w.BytesWritten), spy0(&w.Connected)
	for n := 1; n <= 2; n++ { // the second time on a socket that is being closed
		target := server.ServerUrl().String() + "/segment/with spaces?queryitem=with encoded characters"
		w.Open(strings.ReplaceAll(target, " ", "%20"))
		tryCount(t, "connected", connected, n)
		resource := "/segment/with%20spaces?queryitem=with%20encoded%20characters"
		if got := <-urls; got != server.ServerUrl().String()+resource+" "+resource || w.ResourceName() != resource {
			t.Error(got)
		}
		long := strings.Repeat("ä", 40000)
		for _, m := range []string{"Hello world!", "", long} {
			if sent := w.SendTextMessage(m); sent != int64(len(m)) {
				t.Errorf("%d bytes sent", sent)
			}
			w.SendBinaryMessage([]byte(m))
		}
		tryCount(t, "textMessageReceived", texts, 3*n)
		tryCount(t, "binaryMessageReceived", binaries, 3*n)
		if !slices.Equal(texts.all()[3*n-3:], []string{"Hello world!", "", long}) || string(binaries.all()[3*n-1]) != long {
			t.Error("other messages")
		}
		if f := textFrames.all()[3*n-3]; f.a != "Hello world!" || !f.b || binaryFrames.count() != 3*n {
			t.Error(f)
		}
		if written.count() == 0 || w.BytesToWrite() != 0 {
			t.Error("bytesWritten", written.all())
		}
		w.Close(CloseCodeNormal, "")
	}
}

func TestFrames(t *testing.T) {
	server := listening(t, NonSecureMode)
	w := newClient(t, "")
	frames, messages := spy2(&w.TextFrameReceived), spy1(&w.TextMessageReceived)
	connect(t, w, server)
	socket := take(t, server, nil)
	socket.SetOutgoingFrameSize(3)
	socket.SendTextMessage("aä€𝄞b")
	tryCount(t, "textMessageReceived", messages, 1)
	var parts []string
	for i, f := range frames.all() {
		parts = append(parts, f.a)
		if f.b != (i == frames.count()-1) {
			t.Error("isLastFrame", i, f.b)
		}
	}
	if strings.Join(parts, "|") != "aä|€||𝄞b" || messages.all()[0] != "aä€𝄞b" {
		t.Errorf("%q, %q", parts, messages.all())
	}
	w.SetMaskGenerator(fixedMasks(7)) // at any time
	if w.MaskGenerator() != fixedMasks(7) {
		t.Error(w.MaskGenerator())
	}
	w.SetMaskGenerator(fixedMasks(0)) // whose seeding fails
	if w.MaskGenerator() != fixedMasks(7) {
		t.Error(w.MaskGenerator())
	}
	w.SetMaskGenerator(nil)
	if w.MaskGenerator() != nil {
		t.Error(w.MaskGenerator())
	}
}

// fixedMasks are always the same.
type fixedMasks uint32

func (m fixedMasks) NextMask() uint32 { return uint32(m) }
func (m fixedMasks) Seed() bool       { return m != 0 }

// rawServer accepts one handshake and hands out its connection.
func rawServer(t *testing.T) (target string, accepted chan *bufio.ReadWriter) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	accepted = make(chan *bufio.ReadWriter, 1)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		t.Cleanup(func() { conn.Close() })
		fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
			acceptKey(r.Header.Get("Sec-WebSocket-Key")))
		rw.Flush()
		accepted <- rw
	})}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	return "ws://" + l.Addr().String(), accepted
}

func TestMasksOfTheGenerator(t *testing.T) {
	target, accepted := rawServer(t)
	w := newClient(t, "")
	w.Open(target)
	rw := <-accepted
	try(t, "connected", w.IsValid)
	for _, mask := range []byte{0, 9} {
		w.SetMaskGenerator(fixedMasks(mask))
		w.SendTextMessage("x")
		frame := make([]byte, 7)
		if _, err := rw.Read(frame); err != nil || mask != 0 && frame[2] != mask && frame[5] != mask {
			t.Errorf("%x, %v", frame, err)
		}
	}
}

func TestErrorString(t *testing.T) {
	w := newClient(t, "")
	failed := spy1(&w.ErrorOccurred)
	w.Open("ws://someserver.invalid:9999")
	tryCount(t, "errorOccurred", failed, 1)
	if failed.all()[0] != HostNotFoundError || w.ErrorString() != "Host not found" {
		t.Error(failed.all(), w.ErrorString())
	}
	server := listening(t, NonSecureMode)
	server.OriginAuthenticationRequired.Connect(func(a *WebSocketCorsAuthenticator) { a.SetAllowed(false) })
	w.Open(server.ServerUrl().String())
	tryCount(t, "errorOccurred", failed, 2)
	if failed.all()[1] != ConnectionRefusedError || w.ErrorString() != "Unhandled http status code: 403 (Access forbidden.)." {
		t.Error(failed.all(), w.ErrorString())
	}
}

func TestOpenRequest(t *testing.T) {
	for _, test := range []struct {
		subprotocols []string
		header       []string
	}{
		{nil, nil},
		{[]string{"foobar"}, []string{"foobar"}},
		{[]string{"foo", "bar"}, []string{"foo, bar"}},
		{[]string{"chat", "foo\r\nbar with space"}, []string{"chat"}},
		{[]string{"hello?", "-,-"}, nil},
	} {
		server := listening(t, NonSecureMode)
		w := newClient(t, "")
		u := server.ServerUrl()
		u.RawQuery = "queryitem=with%20encoded%20characters"
		var o WebSocketHandshakeOptions
		o.SetSubprotocols(test.subprotocols)
		w.OpenRequest(&http.Request{URL: u, Header: http.Header{"X-Custom-Header": {"A custom header"}}}, o)
		socket := take(t, server, nil)
		r := socket.Request()
		if socket.RequestUrl().String() != strings.Replace(u.String(), "?", "/?", 1) || r.Header.Get("X-Custom-Header") != "A custom header" ||
			!slices.Equal(r.Header["Sec-Websocket-Protocol"], test.header) {
			t.Error(socket.RequestUrl(), r.Header)
		}
		got := w.HandshakeOptions()
		if !slices.Equal(got.Subprotocols(), test.subprotocols) {
			t.Error(got)
		}
	}
}

func TestOverlongCloseReason(t *testing.T) {
	server := listening(t, NonSecureMode)
	w := newClient(t, "")
	disconnected, about, finished, failed := spy0(&w.Disconnected), spy0(&w.AboutToClose), spy0(&w.ReadChannelFinished), spy1(&w.ErrorOccurred)
	states := spy1(&w.StateChanged)
	connect(t, w, server)
	var gone, ends *spy[struct{}]
	socket := take(t, server, func(socket *WebSocket) { gone, ends = spy0(&socket.Disconnected), spy0(&socket.AboutToClose) })
	reason := strings.Repeat("a", 200)
	invoke(func() { // where it cannot have ended before it is looked at
		w.Close(CloseCodeGoingAway, reason)
		if w.CloseCode() != CloseCodeGoingAway || w.CloseReason() != reason[:123] || w.State() != ClosingState {
			t.Error(w.CloseCode(), w.CloseReason(), w.State())
		}
	})
	tryCount(t, "disconnected", disconnected, 1)
	tryCount(t, "disconnected", gone, 1)
	if socket.CloseCode() != CloseCodeGoingAway || socket.CloseReason() != reason[:123] || w.CloseCode() != CloseCodeGoingAway {
		t.Error(socket.CloseCode(), socket.CloseReason(), w.CloseCode())
	}
	if about.count() != 1 || ends.count() != 1 || finished.count() != 1 || failed.count() != 0 ||
		!slices.Equal(states.all(), []SocketState{ConnectingState, ConnectedState, ClosingState, UnconnectedState}) {
		t.Error(about.count(), ends.count(), finished.count(), failed.all(), states.all())
	}
	if cut("ä"+strings.Repeat("ä", 61)+"ä") != strings.Repeat("ä", 61) {
		t.Error("a character was cut")
	}
}

func TestCloseCodes(t *testing.T) {
	for sent, want := range map[CloseCode]CloseCode{4001: 4001, CloseCodeMissingStatusCode: CloseCodeNormal, CloseCodeReserved1004: CloseCodeBadOperation} {
		server := listening(t, NonSecureMode)
		w := newClient(t, "")
		disconnected := spy0(&w.Disconnected)
		connect(t, w, server)
		socket := take(t, server, nil)
		socket.Close(sent, "")
		tryCount(t, "disconnected", disconnected, 1)
		if w.CloseCode() != want {
			t.Errorf("%v: %v", sent, w.CloseCode())
		}
		if sent == CloseCodeReserved1004 && socket.CloseCode() != CloseCodeBadOperation {
			t.Error(socket.CloseCode())
		}
	}
}

func TestPeerVanishes(t *testing.T) {
	server := listening(t, NonSecureMode)
	w := newClient(t, "")
	connect(t, w, server)
	var about, finished, disconnected *spy[struct{}]
	var failed *spy[SocketError]
	socket := take(t, server, func(socket *WebSocket) {
		about, finished, disconnected, failed = spy0(&socket.AboutToClose), spy0(&socket.ReadChannelFinished), spy0(&socket.Disconnected), spy1(&socket.ErrorOccurred)
	})
	own := spy1(&w.ErrorOccurred)
	w.Abort()
	tryCount(t, "disconnected", disconnected, 1)
	try(t, "unconnected", func() bool { return w.State() == UnconnectedState })
	settle()
	if about.count() != 1 || finished.count() != 1 || !slices.Equal(failed.all(), []SocketError{RemoteHostClosedError}) ||
		socket.CloseCode() != CloseCodeAbnormalDisconnection || socket.ErrorString() != "The remote host closed the connection" || own.count() != 0 {
		t.Error(about.count(), finished.count(), failed.all(), socket.CloseCode(), socket.ErrorString(), own.all())
	}
}

func TestIncomingTooLong(t *testing.T) {
	for what, set := range map[string]func(*WebSocket){
		"message": func(w *WebSocket) { w.SetMaxAllowedIncomingMessageSize(1024) },
		"frame":   func(w *WebSocket) { w.SetMaxAllowedIncomingFrameSize(1024) },
	} {
		server := listening(t, NonSecureMode)
		w := newClient(t, "")
		disconnected := spy0(&w.Disconnected)
		connect(t, w, server)
		var got *spy[string]
		take(t, server, func(socket *WebSocket) {
			set(socket)
			got = spy1(&socket.TextMessageReceived)
		})
		w.SendTextMessage(strings.Repeat("a", 1024))
		tryCount(t, "textMessageReceived", got, 1)
		w.SendTextMessage(strings.Repeat("a", 1025))
		tryCount(t, "disconnected", disconnected, 1)
		if got.count() != 1 || w.CloseCode() != CloseCodeTooMuchData {
			t.Error(what, got.count(), w.CloseCode())
		}
	}
}

func TestPing(t *testing.T) {
	server := echoing(t, NonSecureMode)
	w := newClient(t, "")
	pong := spy2(&w.Pong)
	connect(t, w, server)
	for i, payload := range []string{"", "hello", strings.Repeat("x", 130)} {
		w.Ping([]byte(payload))
		tryCount(t, "pong", pong, i+1)
		if got := pong.all()[i]; string(got.b) != payload[:min(len(payload), 125)] || got.a > 5000 {
			t.Errorf("%d ms, %q", got.a, got.b)
		}
	}
}

func TestCustomHeader(t *testing.T) {
	server := listening(t, NonSecureMode)
	w := newClient(t, "")
	r := &http.Request{URL: server.ServerUrl(), Header: http.Header{"Sec-Websocket-Extensions": {"permessage-deflate"}}}
	failed := spy1(&w.ErrorOccurred)
	w.OpenRequest(r) // a header of the handshake
	tryCount(t, "errorOccurred", failed, 1)
	r.Header = http.Header{"User-Agent": {"foyer"}}
	w.OpenRequest(r)
	if socket := take(t, server, nil); socket.Request().UserAgent() != "foyer" {
		t.Error(socket.Request().Header)
	}
}

func TestOpenIsCancelled(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // and nobody answers
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, cancel := range []func(*WebSocket){
		func(w *WebSocket) { w.Close(CloseCodeNormal, "") },
		(*WebSocket).Abort,
		func(w *WebSocket) { w.Open("ws://127.0.0.1:1/") },
	} {
		w := newClient(t, "")
		disconnected := spy0(&w.Disconnected)
		w.Open("ws://" + l.Addr().String())
		time.Sleep(10 * time.Millisecond)
		cancel(w)
		try(t, "unconnected", func() bool { return w.State() == UnconnectedState })
		try(t, "disconnected", func() bool { return disconnected.count() >= 1 })
	}
}

func TestPanicInASlotEndsItsSocket(t *testing.T) {
	server := listening(t, NonSecureMode)
	bad, good := newClient(t, ""), newClient(t, "")
	message := spy1(&good.TextMessageReceived)
	server.NewConnection.Connect(func() {
		socket := server.NextPendingConnection()
		socket.TextMessageReceived.Connect(func(m string) {
			if m == expectedPanic {
				panic(m)
			}
			socket.SendTextMessage(m)
		})
	})
	connect(t, bad, server)
	connect(t, good, server)
	bad.SendTextMessage(expectedPanic)
	try(t, "closed", func() bool { return bad.State() == UnconnectedState })
	good.SendTextMessage("hello")
	tryCount(t, "textMessageReceived", message, 1)
	if bad.CloseCode() != CloseCodeBadOperation {
		t.Error(bad.CloseCode())
	}
}

// TestSlowSlots has a client send more than may wait for slots, while one of them does not return.
func TestSlowSlots(t *testing.T) {
	server := listening(t, NonSecureMode)
	w := newClient(t, "")
	connect(t, w, server)
	var got *spy[[]byte]
	socket := take(t, server, func(socket *WebSocket) {
		socket.SetReadBufferSize(100 << 10)
		got = spy1(&socket.BinaryMessageReceived)
	})
	held := make(chan struct{})
	InvokeMethod(func() { <-held })
	for range 200 {
		w.SendBinaryMessage(make([]byte, 50<<10))
	}
	waiting := func() int {
		socket.connection.mu.Lock()
		defer socket.connection.mu.Unlock()
		return socket.connection.waiting
	}
	try(t, "the buffer is full", func() bool { return waiting() >= 50<<10 })
	time.Sleep(50 * time.Millisecond)
	if n := waiting(); n > 100<<10 {
		t.Errorf("%d bytes wait", n)
	}
	close(held)
	tryCount(t, "binaryMessageReceived", got, 200)
}

// TestPeerThatDoesNotRead is cut off when too much waits for it.
func TestPeerThatDoesNotRead(t *testing.T) {
	target, accepted := rawServer(t)
	w := newClient(t, "")
	failed := spy1(&w.ErrorOccurred)
	w.Open(target)
	<-accepted
	try(t, "connected", w.IsValid)
	m := make([]byte, 1<<20)
	sent := int64(0)
	for range 100 {
		n := w.SendBinaryMessage(m)
		if n == 0 {
			break
		}
		sent += n
	}
	tryCount(t, "errorOccurred", failed, 1)
	if sent < 16<<20 || sent > 64<<20 || failed.all()[0] != SocketResourceError || w.State() != UnconnectedState {
		t.Error(sent, failed.all(), w.ErrorString(), w.State())
	}
}

// TestOpenAgain emits no signal twice, and none of the connection before.
func TestOpenAgain(t *testing.T) {
	server := echoing(t, NonSecureMode)
	w := newClient(t, "")
	connected, disconnected, message := spy0(&w.Connected), spy0(&w.Disconnected), spy1(&w.TextMessageReceived)
	for n := 1; n <= 5; n++ {
		w.Open(server.ServerUrl().String())
		tryCount(t, "connected", connected, n)
		tryCount(t, "disconnected", disconnected, n-1)
		w.SendTextMessage("hello")
		tryCount(t, "textMessageReceived", message, n)
	}
}

// TestNothingComesAfterTheProgramHasClosed though it was received before.
func TestNothingComesAfterTheProgramHasClosed(t *testing.T) {
	for name, end := range map[string]func(*WebSocket){
		"Abort": (*WebSocket).Abort,
		"Close": func(w *WebSocket) { w.Close(4000, "") },
	} {
		server := listening(t, NonSecureMode)
		w := newClient(t, "")
		n := 0
		disconnected := spy0(&w.Disconnected)
		w.TextMessageReceived.Connect(func(string) {
			if n++; n == 1 {
				time.Sleep(100 * time.Millisecond)
				end(w)
				if w.IsValid() {
					t.Error(name, w.State())
				}
			}
		})
		connect(t, w, server)
		socket := take(t, server, nil)
		for range 1000 {
			socket.SendTextMessage("x")
		}
		tryCount(t, "disconnected", disconnected, 1)
		if n != 1 {
			t.Errorf("%s: %d messages", name, n)
		}
	}
}

// TestThePeerWasFirst to close.
func TestThePeerWasFirst(t *testing.T) {
	server := listening(t, NonSecureMode)
	w := newClient(t, "")
	disconnected := spy0(&w.Disconnected)
	w.TextMessageReceived.Connect(func(string) {
		time.Sleep(100 * time.Millisecond)
		w.Close(CloseCodeNormal, "mine")
	})
	connect(t, w, server)
	socket := take(t, server, nil)
	socket.SendTextMessage("x")
	socket.Close(4001, "yours")
	tryCount(t, "disconnected", disconnected, 1)
	if w.CloseCode() != 4001 || w.CloseReason() != "yours" {
		t.Error(w.CloseCode(), w.CloseReason())
	}
}

func TestTextThatIsNotUTF8(t *testing.T) {
	server := echoing(t, NonSecureMode)
	w := newClient(t, "")
	message := spy1(&w.TextMessageReceived)
	connect(t, w, server)
	if n := w.SendTextMessage("a\xff"); n != 4 {
		t.Error(n)
	}
	tryCount(t, "textMessageReceived", message, 1)
	if message.all()[0] != "a\uFFFD" {
		t.Errorf("%q", message.all())
	}
}

// TestPanicOfAnOldConnection does not end the new one.
func TestPanicOfAnOldConnection(t *testing.T) {
	server := echoing(t, NonSecureMode)
	w := newClient(t, "")
	connect(t, w, server)
	panics := w.Disconnected.Connect(func() { panic(expectedPanic) })
	w.Open(server.ServerUrl().String())
	try(t, "connected", w.IsValid)
	settle()
	settle()
	if !w.IsValid() {
		t.Error(w.State(), w.CloseCode())
	}
	panics.Disconnect()
}
