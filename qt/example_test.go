package qt_test

import (
	"fmt"
	"strings"

	"github.com/foyerws/foyer/qt"
)

func ExampleWebSocketServer() {
	server := qt.NewWebSocketServer("Echo Server", qt.NonSecureMode)
	server.OriginAuthenticationRequired.Connect(func(a *qt.WebSocketCorsAuthenticator) {
		a.SetAllowed(a.Origin() == "https://example.com")
	})
	server.NewConnection.Connect(func() {
		socket := server.NextPendingConnection()
		socket.TextMessageReceived.Connect(func(message string) { socket.SendTextMessage(message) })
		socket.Disconnected.Connect(func() { socket.DeleteLater() })
	})
	if !server.Listen(qt.LocalHost, 0) {
		fmt.Println(server.ErrorString())
		return
	}

	client := qt.NewWebSocket("https://example.com", qt.VersionLatest)
	client.Connected.Connect(func() { client.SendTextMessage("hello") })
	client.TextMessageReceived.Connect(func(message string) {
		fmt.Println(message)
		client.Close(qt.CloseCodeNormal, "")
	})
	client.Disconnected.Connect(func() {
		server.Close()
		qt.Quit(0)
	})
	client.Open(server.ServerUrl().String())
	qt.Exec()
	// Output: hello
}

// A file has a signal of its own.
func ExampleSignal() {
	type file struct {
		Renamed qt.Signal[func(from, to string)]
	}
	var f file
	f.Renamed.Connect(func(from, to string) { fmt.Println(from, "is now", to) })
	shout := f.Renamed.Connect(func(_, to string) { fmt.Println(strings.ToUpper(to)) })
	f.Renamed.Emit(func(slot func(from, to string)) { slot("a", "b") })
	qt.InvokeMethod(func() { shout.Disconnect() })
	f.Renamed.Emit(func(slot func(from, to string)) { slot("b", "c") })
	qt.InvokeMethod(func() { qt.Quit(0) })
	qt.Exec()
	// Output:
	// a is now b
	// B
	// b is now c
}
