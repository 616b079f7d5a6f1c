package qt

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestServerInitialisation(t *testing.T) {
	server := NewWebSocketServer("", NonSecureMode)
	for range 2 { // closing changes nothing
		if server.ServerName() != "" || server.SecureMode() != NonSecureMode || server.IsListening() || server.MaxPendingConnections() != 30 ||
			server.HandshakeTimeout() != 10*time.Second || server.ServerPort() != 0 || server.ServerAddress().IsValid() ||
			server.SocketDescriptor() != -1 || server.NativeDescriptor() != -1 || server.HasPendingConnections() || server.NextPendingConnection() != nil ||
			server.Error() != CloseCodeNormal || server.ErrorString() != "" || server.Proxy().Type() != DefaultProxy ||
			!slices.Equal(server.SupportedVersions(), []Version{Version13}) || server.ServerUrl().String() != "" ||
			len(server.SupportedSubprotocols()) != 0 {
			t.Error("unexpected values")
		}
		server.Close()
	}
	if NewWebSocketServer("", SecureMode).SecureMode() != SecureMode {
		t.Error("not secure")
	}
}

func TestServerSettersAndGetters(t *testing.T) {
	server := NewWebSocketServer("", NonSecureMode)
	for _, n := range []int{23, math.MinInt, math.MaxInt} {
		if server.SetMaxPendingConnections(n); server.MaxPendingConnections() != n {
			t.Error(n)
		}
	}
	if server.SetSocketDescriptor(-2) || server.SocketDescriptor() != -1 {
		t.Error("a descriptor that is none")
	}
	server.SetServerName("Qt WebSocketServer")
	if server.ServerName() != "Qt WebSocketServer" {
		t.Error(server.ServerName())
	}
	proxy := NewNetworkProxy(Socks5Proxy, "", 0, "", "")
	if server.SetProxy(proxy); server.Proxy() != proxy {
		t.Error(server.Proxy())
	}
	config := server.SslConfiguration().Clone()
	if server.SetSslConfiguration(config); server.SslConfiguration() == config {
		t.Error("a configuration of TLS on a server without it")
	}
	secure := NewWebSocketServer("", SecureMode)
	if secure.SetSslConfiguration(config); secure.SslConfiguration() != config {
		t.Error("the configuration of TLS was not set")
	}
	for _, d := range []time.Duration{64 * time.Millisecond, 242 * time.Millisecond, -time.Millisecond} {
		if server.SetHandshakeTimeout(d); server.HandshakeTimeout() != d || server.HandshakeTimeoutMS() != int(d.Milliseconds()) {
			t.Error(server.HandshakeTimeout())
		}
	}
	if server.SetSupportedSubprotocols([]string{"a", "b"}); !slices.Equal(server.SupportedSubprotocols(), []string{"a", "b"}) {
		t.Error(server.SupportedSubprotocols())
	}
}

func TestListening(t *testing.T) {
	server := NewWebSocketServer("", NonSecureMode)
	accept, connection := spy1(&server.AcceptError), spy0(&server.NewConnection)
	failed, closed := spy1(&server.ServerError), spy0(&server.Closed)
	if !server.Listen(Any, 0) || !server.IsListening() {
		t.Fatal(server.ErrorString())
	}
	if server.Listen(Any, 0) {
		t.Error("listened twice")
	}
	tryCount(t, "serverError", failed, 1)
	server.Close()
	tryCount(t, "closed", closed, 1)
	if server.IsListening() || server.SocketDescriptor() != -1 {
		t.Error("listens after close")
	}
	if server.Listen(mustAddr("1.2.3.4"), 0) || server.Error() != CloseCodeAbnormalDisconnection ||
		server.ErrorString() != "The address is not available" || server.IsListening() {
		t.Error(server.Error(), server.ErrorString())
	}
	tryCount(t, "serverError", failed, 2)
	if !server.Listen(LocalHost, 0) {
		t.Error("cannot listen again")
	}
	server.Close()
	if accept.count() != 0 || connection.count() != 0 {
		t.Error("unexpected signals")
	}
}

func TestServerUrl(t *testing.T) {
	for _, test := range []struct {
		address HostAddress
		mode    SslMode
		url     string
	}{
		{Any, NonSecureMode, "ws://127.0.0.1:%d"},
		{AnyIPv4, SecureMode, "wss://127.0.0.1:%d"},
		{LocalHost, NonSecureMode, "ws://127.0.0.1:%d"},
		{mustAddr("127.0.0.2"), NonSecureMode, "ws://127.0.0.2:%d"},
	} {
		server := NewWebSocketServer("", test.mode)
		if !server.Listen(test.address, 0) {
			t.Fatal(server.ErrorString())
		}
		if want := fmt.Sprintf(test.url, server.ServerPort()); server.ServerUrl().String() != want || server.ServerAddress() != test.address {
			t.Error(server.ServerUrl(), server.ServerAddress(), want)
		}
		server.Close()
	}
}

func TestConnectivity(t *testing.T) {
	server := listening(t, NonSecureMode)
	connection, cors := spy0(&server.NewConnection), spy1(&server.OriginAuthenticationRequired)
	failed, closed := spy1(&server.ServerError), spy0(&server.Closed)
	w := newClient(t, "https://example.com")
	connected, states := spy0(&w.Connected), spy1(&w.StateChanged)
	connect(t, w, server)
	tryCount(t, "connected", connected, 1)
	tryCount(t, "newConnection", connection, 1)
	tryCount(t, "originAuthenticationRequired", cors, 1)
	if cors.all()[0].Origin() != "https://example.com" || !slices.Equal(states.all(), []SocketState{ConnectingState, ConnectedState}) {
		t.Error(cors.all()[0].Origin(), states.all())
	}
	server.Close()
	tryCount(t, "closed", closed, 1)
	if failed.count() != 0 {
		t.Error(server.ErrorString())
	}
}

func TestOriginIsRefused(t *testing.T) {
	server := listening(t, NonSecureMode)
	failed, connection := spy1(&server.ServerError), spy0(&server.NewConnection)
	server.OriginAuthenticationRequired.Connect(func(a *WebSocketCorsAuthenticator) { a.SetAllowed(a.Origin() == "https://good.example") })
	w := newClient(t, "https://bad.example")
	occurred := spy1(&w.ErrorOccurred)
	w.Open(server.ServerUrl().String())
	tryCount(t, "errorOccurred", occurred, 1)
	tryCount(t, "serverError", failed, 1)
	if failed.all()[0] != CloseCodePolicyViolated || server.ErrorString() != "Access forbidden." || !strings.Contains(w.ErrorString(), "403") {
		t.Error(failed.all(), server.ErrorString(), w.ErrorString())
	}
	connect(t, newClient(t, "https://good.example"), server)
	tryCount(t, "newConnection", connection, 1)
}

func TestPanicInAnOriginSlotRefuses(t *testing.T) {
	server := listening(t, NonSecureMode)
	panics := server.OriginAuthenticationRequired.Connect(func(*WebSocketCorsAuthenticator) { panic(expectedPanic) })
	w := newClient(t, "")
	occurred := spy1(&w.ErrorOccurred)
	w.Open(server.ServerUrl().String())
	tryCount(t, "errorOccurred", occurred, 1)
	if !strings.Contains(w.ErrorString(), "500") || server.HasPendingConnections() {
		t.Error(w.ErrorString())
	}
	panics.Disconnect()
	connect(t, w, server) // the loop goes on
}

func TestProtocols(t *testing.T) {
	for name, test := range map[string]struct {
		options, header []string
		chosen          string
	}{
		"none":                         {nil, nil, ""},
		"in the order of the server":   {[]string{"chat", "superchat"}, nil, "chat"},
		"in another order":             {[]string{"superchat", "chat"}, nil, "superchat"},
		"not supported":                {[]string{"foo"}, nil, ""},
		"partly supported":             {[]string{"foo", "chat"}, nil, "chat"},
		"in the header":                {nil, []string{"chat", "superchat"}, "chat"},
		"in options and in the header": {[]string{"superchat"}, []string{"chat"}, "superchat"},
	} {
		server := listening(t, NonSecureMode)
		server.SetSupportedSubprotocols([]string{"chat", "superchat"})
		var o WebSocketHandshakeOptions
		o.SetSubprotocols(test.options)
		w := newClient(t, "")
		r := &http.Request{URL: server.ServerUrl(), Header: http.Header{}}
		if len(test.header) > 0 {
			r.Header.Set("Sec-WebSocket-Protocol", strings.Join(test.header, ","))
		}
		w.OpenRequest(r, o)
		try(t, name, func() bool { return w.State() == ConnectedState })
		socket := take(t, server, nil)
		offered := socket.HandshakeOptions()
		if w.Subprotocol() != test.chosen || socket.Subprotocol() != test.chosen || !slices.Equal(offered.Subprotocols(), append(test.options, test.header...)) {
			t.Errorf("%s: %q, %q, offered %q", name, w.Subprotocol(), socket.Subprotocol(), offered.Subprotocols())
		}
	}
}

func TestMaxPendingConnections(t *testing.T) {
	server := listening(t, NonSecureMode)
	server.SetMaxPendingConnections(2)
	connection, cors := spy0(&server.NewConnection), spy1(&server.OriginAuthenticationRequired)
	failed := spy1(&server.ServerError)
	for n := 1; n <= 2; n++ {
		connect(t, newClient(t, ""), server)
		tryCount(t, "newConnection", connection, n)
		tryCount(t, "originAuthenticationRequired", cors, n)
	}
	w := newClient(t, "")
	occurred := spy1(&w.ErrorOccurred)
	w.Open(server.ServerUrl().String())
	tryCount(t, "errorOccurred", occurred, 1)
	tryCount(t, "serverError", failed, 1)
	if w.State() != UnconnectedState || connection.count() != 2 || cors.count() != 2 || failed.all()[0] != CloseCodeAbnormalDisconnection ||
		server.ErrorString() != "Too many pending connections." {
		t.Error(w.State(), connection.count(), cors.count(), failed.all(), server.ErrorString())
	}
	for range 2 {
		if !server.HasPendingConnections() {
			t.Error("nothing is pending")
		}
		take(t, server, nil)
	}
	if server.HasPendingConnections() || server.NextPendingConnection() != nil {
		t.Error("more is pending than may")
	}
	connect(t, w, server)
}

// TestPendingClientsThatLeave make room for others.
func TestPendingClientsThatLeave(t *testing.T) {
	server := listening(t, NonSecureMode)
	server.SetMaxPendingConnections(1)
	for range 3 {
		w := newClient(t, "")
		connect(t, w, server)
		try(t, "pending", server.HasPendingConnections)
		w.Abort()
		try(t, "gone", func() bool { return server.pending[0].hasEnded() })
	}
}

// TestCrowd is 500 clients at once, on a server whose limit is 30.
func TestCrowd(t *testing.T) {
	server := echoing(t, NonSecureMode)
	failed := spy1(&server.ServerError)
	var got spy[string]
	for i := range 500 {
		w := newClient(t, "")
		w.Connected.Connect(func() { w.SendTextMessage(fmt.Sprint(i)) })
		w.TextMessageReceived.Connect(got.add)
		w.Open(server.ServerUrl().String())
	}
	try(t, "all have their echo", func() bool { return got.count() == 500 })
	if failed.count() != 0 {
		t.Error(server.ErrorString())
	}
}

func TestServerDestroyedWhileSocketConnected(t *testing.T) {
	server := NewWebSocketServer("", NonSecureMode)
	server.Listen(LocalHost, 0)
	w := newClient(t, "")
	disconnected := spy0(&w.Disconnected)
	connect(t, w, server)
	try(t, "pending", server.HasPendingConnections)
	server.DeleteLater()
	tryCount(t, "disconnected", disconnected, 1)
	if w.CloseCode() != CloseCodeGoingAway || w.CloseReason() != "Server closed." {
		t.Error(w.CloseCode(), w.CloseReason())
	}
}

func TestCloseLeavesOpenSocketsAlone(t *testing.T) {
	server := echoing(t, NonSecureMode)
	w := newClient(t, "")
	message := spy1(&w.TextMessageReceived)
	connect(t, w, server)
	server.Close()
	w.SendTextMessage("still there")
	tryCount(t, "textMessageReceived", message, 1)
}

func TestScheme(t *testing.T) {
	for mode, scheme := range map[SslMode]string{NonSecureMode: "ws", SecureMode: "wss"} {
		server := listening(t, mode)
		w := newClient(t, "")
		w.SslErrors.Connect(func([]SslError) { w.IgnoreSslErrors() })
		connect(t, w, server)
		socket := take(t, server, nil)
		if socket.RequestUrl().Scheme != scheme || (socket.Request().TLS != nil) != (mode == SecureMode) {
			t.Error(socket.RequestUrl())
		}
	}
}

func TestHandleConnection(t *testing.T) {
	server := NewWebSocketServer("", NonSecureMode)
	defer server.DeleteLater()
	l, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if conn, err := l.Accept(); err == nil {
			server.HandleConnection(conn)
		}
	}()
	w := newClient(t, "")
	w.Open("ws://" + l.Addr().String())
	message := spy1(&w.TextMessageReceived)
	var received *spy[string]
	socket := take(t, server, func(socket *WebSocket) { received = spy1(&socket.TextMessageReceived) })
	try(t, "connected", w.IsValid)
	w.SendTextMessage("dummy")
	tryCount(t, "textMessageReceived", received, 1)
	socket.SendTextMessage("hello")
	tryCount(t, "textMessageReceived", message, 1)
	if received.all()[0] != "dummy" || message.all()[0] != "hello" || socket.BytesToWrite() != 0 {
		t.Error(received.all(), message.all())
	}
}

func TestHandshakeTimeout(t *testing.T) {
	for _, mode := range []SslMode{NonSecureMode, SecureMode} {
		server := listening(t, mode)
		server.SetHandshakeTimeout(500 * time.Millisecond)
		var silent []net.Conn
		for range 50 {
			conn, err := net.Dial("tcp", server.ServerUrl().Host)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			silent = append(silent, conn)
		}
		w := newClient(t, "")
		w.IgnoreSslErrors()
		connect(t, w, server)
		take(t, server, nil)
		for _, conn := range silent {
			conn.SetReadDeadline(time.Now().Add(5 * time.Second))
			if _, err := conn.Read(make([]byte, 100)); err == nil || os.IsTimeout(err) {
				t.Fatal("a silent connection stays open")
			}
		}
		time.Sleep(200 * time.Millisecond)
		if !w.IsValid() {
			t.Error("a connection whose handshake is over was closed")
		}
	}
	server := listening(t, NonSecureMode)
	server.SetHandshakeTimeout(-1)
	connect(t, newClient(t, ""), server)
}

func TestPauseAccepting(t *testing.T) {
	server := echoing(t, NonSecureMode)
	connection := spy0(&server.NewConnection)
	connect(t, newClient(t, ""), server)
	server.PauseAccepting()
	w := newClient(t, "")
	w.Open(server.ServerUrl().String())
	time.Sleep(100 * time.Millisecond)
	if w.State() != ConnectingState || connection.count() != 1 {
		t.Error(w.State(), connection.count())
	}
	server.ResumeAccepting()
	tryCount(t, "newConnection", connection, 2)
	server.PauseAccepting()
	server.Close()
	if !server.Listen(LocalHost, 0) {
		t.Fatal(server.ErrorString())
	}
	connect(t, newClient(t, ""), server)
}

func TestSocketDescriptor(t *testing.T) {
	first := echoing(t, NonSecureMode)
	fd := first.SocketDescriptor()
	if fd < 0 {
		t.Skip("no descriptors here")
	}
	port := first.ServerPort()
	server := NewWebSocketServer("", NonSecureMode)
	defer server.DeleteLater()
	if !server.SetSocketDescriptor(duplicate(t, fd)) || server.ServerPort() != port || server.SetNativeDescriptor(duplicate(t, fd)) {
		t.Error(server.ServerPort(), server.ErrorString())
	}
	first.Close()
	connect(t, newClient(t, ""), server)

	conn, err := net.Dial("tcp", server.ServerUrl().Host)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	f, _ := conn.(*net.TCPConn).File()
	defer f.Close()
	if NewWebSocketServer("", NonSecureMode).SetSocketDescriptor(int(f.Fd())) {
		t.Error("a connection is no listening socket")
	}
}

func TestSetListener(t *testing.T) {
	server := NewWebSocketServer("", NonSecureMode)
	defer server.DeleteLater()
	l, err := net.Listen("unix", t.TempDir()+"/socket")
	if err != nil {
		t.Skip(err)
	}
	if !server.SetListener(l) || server.ServerPort() != 0 || server.ServerUrl().String() != "" {
		t.Error(server.ServerUrl())
	}
	conn, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET ?room=1 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(resp, err)
	}
	if socket := take(t, server, nil); socket.ResourceName() != "/?room=1" || socket.PeerAddress().IsValid() {
		t.Error(socket.ResourceName())
	}
	proxied := NewWebSocketServer("", NonSecureMode)
	proxied.SetProxy(NewNetworkProxy(Socks5Proxy, "localhost", 1080, "", ""))
	if proxied.Listen(LocalHost, 0) {
		t.Error("listens through a proxy")
	}
}

func TestMultipleFrames(t *testing.T) {
	server := listening(t, NonSecureMode)
	w := newClient(t, "")
	message := spy1(&w.BinaryMessageReceived)
	connect(t, w, server)
	socket := take(t, server, nil)
	for range 10 {
		if socket.SendBinaryMessage([]byte("abc")) != 3 {
			t.Error("not sent")
		}
	}
	if !socket.Flush() {
		t.Error("not flushed")
	}
	tryCount(t, "binaryMessageReceived", message, 10)
}

// TestBadRequests has the errors of the handshake reported.
func TestBadRequests(t *testing.T) {
	for request, code := range map[string]CloseCode{
		"POST / HTTP/1.1\r\nHost: a\r\n\r\n":          CloseCodeProtocolError,
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n":           CloseCodeProtocolError,
		"GET /" + strings.Repeat("x", 10000) + "\r\n": CloseCodeTooMuchData,
	} {
		server := listening(t, NonSecureMode)
		failed := spy1(&server.ServerError)
		conn, err := net.Dial("tcp", server.ServerUrl().Host)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprint(conn, request)
		tryCount(t, "serverError", failed, 1)
		if failed.all()[0] != code || server.ErrorString() == "" {
			t.Errorf("%.20q: %v", request, failed.all())
		}
	}
}

// TestCloseEndsHandshakesThatHaveBegun lets nobody in after Closed.
func TestCloseEndsHandshakesThatHaveBegun(t *testing.T) {
	for _, end := range []func(*WebSocketServer){(*WebSocketServer).Close, (*WebSocketServer).DeleteLater} {
		server := listening(t, NonSecureMode)
		server.OriginAuthenticationRequired.Connect(func(a *WebSocketCorsAuthenticator) { a.SetAllowed(false) })
		connection := spy0(&server.NewConnection)
		conn, err := net.Dial("tcp", server.ServerUrl().Host)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		r := request("", "")
		io.WriteString(conn, r[:20])
		time.Sleep(50 * time.Millisecond)
		end(server)
		settle()
		settle()
		io.WriteString(conn, r[20:])
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || resp.StatusCode != http.StatusServiceUnavailable || connection.count() != 0 || server.HasPendingConnections() {
			t.Error(resp, err, connection.count(), server.HasPendingConnections())
		}
	}
}

// TestRefusedClientsTakeNoMemory while a slot does not return.
func TestRefusedClientsTakeNoMemory(t *testing.T) {
	server := listening(t, NonSecureMode)
	held := make(chan struct{})
	InvokeMethod(func() { <-held })
	defer close(held)
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	long := "GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X-Long: "+strings.Repeat("x", 8000)+"\r\n", 7) + "\r\n"
	for range 500 {
		conn, err := net.Dial("tcp", server.ServerUrl().Host)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(conn, long)
		io.Copy(io.Discard, conn)
		conn.Close()
	}
	if grown := int64(heap()) - int64(before); grown > 8<<20 {
		t.Errorf("%d bytes for 500 clients that have left", grown)
	}
}

func TestNothingToServe(t *testing.T) {
	server := NewWebSocketServer("", NonSecureMode)
	server.HandleConnection(nil)
	if server.SetListener(nil) || server.IsListening() {
		t.Error("it listens")
	}
}
