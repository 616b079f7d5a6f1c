// Qtpeer is peer.cpp with package qt: it takes the same commands, and what it says must be the same.
package main

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"log"
	"os"
	"strconv"
	"strings"
	"unicode/utf16"

	"github.com/foyerws/foyer/qt"
)

func say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

// sum is what a binary message is told by, with its size.
func sum(p []byte) (s uint32) {
	for _, b := range p {
		s = s*31 + uint32(b)
	}
	return s
}

func pattern(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i * 7)
	}
	return p
}

// units is the length of a QString.
func units(s string) int { return len(utf16.Encode([]rune(s))) }

func digit(b bool) int {
	if b {
		return 1
	}
	return 0
}

// watch says what happens to a socket.
func watch(s *qt.WebSocket) {
	s.TextFrameReceived.Connect(func(m string, last bool) { say("frame %d %d", units(m), digit(last)) })
	s.TextMessageReceived.Connect(func(m string) {
		if units(m) > 100 {
			m = strconv.Itoa(units(m))
		}
		say("text %s", m)
	})
	s.BinaryMessageReceived.Connect(func(m []byte) { say("binary %d %d", len(m), sum(m)) })
	s.Pong.Connect(func(_ uint64, p []byte) { say("pong %s", p) })
	s.Disconnected.Connect(func() { say("closed %d %s", int(s.CloseCode()), s.CloseReason()) })
	s.ErrorOccurred.Connect(func(qt.SocketError) { say("error %s", s.ErrorString()) })
}

// getters are the values of a socket that do not differ from run to run.
func getters(s *qt.WebSocket) string {
	o := s.HandshakeOptions()
	return fmt.Sprintf("get %d %d %s %d %s %d %s %s %s %d %d %d %d %d %d %d", s.State(), digit(s.IsValid()), s.Origin(), s.Version(), s.Subprotocol(),
		int(s.CloseCode()), s.CloseReason(), s.RequestUrl().Path, strings.Join(o.Subprotocols(), ","), s.Error(), s.PauseMode(), s.ReadBufferSize(),
		s.MaxAllowedIncomingFrameSize(), s.MaxAllowedIncomingMessageSize(), s.OutgoingFrameSize(), s.BytesToWrite())
}

// command does to a socket what a line says.
func command(s *qt.WebSocket, line string) {
	verb, rest, _ := strings.Cut(line, " ")
	n, _ := strconv.Atoi(rest)
	switch verb {
	case "text":
		s.SendTextMessage(rest)
	case "binary":
		s.SendBinaryMessage(pattern(n))
	case "ping":
		s.Ping([]byte(rest))
	case "close":
		code, reason, _ := strings.Cut(rest, " ")
		n, _ := strconv.Atoi(code)
		s.Close(qt.CloseCode(n), reason)
	case "abort":
		s.Abort()
	case "split":
		s.SetOutgoingFrameSize(uint64(n))
	case "frames":
		s.SetMaxAllowedIncomingFrameSize(uint64(n))
	case "messages":
		s.SetMaxAllowedIncomingMessageSize(uint64(n))
	case "get":
		say("%s", getters(s))
	case "states":
		s.StateChanged.Connect(func(state qt.SocketState) { say("state %d", state) })
	}
}

// commands calls f for each line of the standard input, and ends with it.
func commands(f func(line string)) {
	go func() {
		for scanner := bufio.NewScanner(os.Stdin); scanner.Scan(); {
			line := scanner.Text()
			qt.InvokeMethod(func() { f(line) })
		}
		qt.Quit(0)
	}()
}

// preSharedKey is that of both sides, nil where the environment has none.
func preSharedKey() []byte {
	if key := os.Getenv("PSK"); key != "" {
		return []byte(key)
	}
	return nil
}

func client(args []string) {
	s := qt.NewWebSocket(args[3], qt.VersionLatest)
	watch(s)
	s.Connected.Connect(func() { say("connected %s", s.Subprotocol()) })
	s.SslErrors.Connect(func(errors []qt.SslError) {
		say("ssl %s", errors[0].ErrorString())
		s.IgnoreSslErrors()
	})
	if preSharedKey() != nil {
		setBackend()
		s.PreSharedKeyAuthenticationRequired.Connect(func(a *qt.SslPreSharedKeyAuthenticator) {
			say("hint %s", a.IdentityHint())
			a.SetIdentity([]byte("alice"))
			a.SetPreSharedKey(preSharedKey())
		})
	}
	var options qt.WebSocketHandshakeOptions
	if len(args) > 4 && args[4] != "" {
		options.SetSubprotocols(strings.Split(args[4], ","))
	}
	commands(func(line string) { command(s, line) })
	s.Open(args[2], options)
}

func server(args []string) {
	mode := qt.NonSecureMode
	psk := len(args) == 3
	if len(args) > 2 {
		mode = qt.SecureMode
	}
	server := qt.NewWebSocketServer("peer", mode)
	if psk {
		setBackend()
		server.PreSharedKeyAuthenticationRequired.Connect(func(a *qt.SslPreSharedKeyAuthenticator) {
			say("identity %s", a.Identity())
			a.SetPreSharedKey(preSharedKey())
		})
	} else if mode == qt.SecureMode {
		certificate, err := tls.LoadX509KeyPair(args[2], args[3])
		if err != nil {
			log.Fatal(err)
		}
		server.SetSslConfiguration(&tls.Config{Certificates: []tls.Certificate{certificate}})
	}
	server.SetSupportedSubprotocols([]string{"chat.v2", "chat.v1"})
	server.OriginAuthenticationRequired.Connect(func(a *qt.WebSocketCorsAuthenticator) {
		a.SetAllowed(a.Origin() != "https://refused.example.com")
	})
	var last *qt.WebSocket
	server.NewConnection.Connect(func() {
		s := server.NextPendingConnection()
		last = s
		say("connected %s %s %s", s.Subprotocol(), s.RequestUrl().Path, s.Origin())
		watch(s)
		s.TextMessageReceived.Connect(func(m string) { s.SendTextMessage(m) })
		s.BinaryMessageReceived.Connect(func(m []byte) { s.SendBinaryMessage(m) })
	})
	server.ServerError.Connect(func(code qt.CloseCode) { say("refused %d %s", int(code), server.ErrorString()) })
	server.Closed.Connect(func() { say("stopped") })
	if !server.Listen(qt.LocalHost, 0) {
		log.Fatal(server.ErrorString())
	}
	commands(func(line string) {
		switch verb, rest, _ := strings.Cut(line, " "); verb {
		case "stop":
			server.Close()
		case "pending":
			n, _ := strconv.Atoi(rest)
			server.SetMaxPendingConnections(n)
		default:
			command(last, line)
		}
	})
	say("port %d", server.ServerPort())
}

func main() {
	switch args := os.Args; {
	case len(args) > 3 && args[1] == "client":
		client(args)
	case len(args) > 1 && args[1] == "server":
		server(args)
	default:
		os.Exit(2)
	}
	os.Exit(qt.Exec())
}
