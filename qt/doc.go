// Package qt has QWebSocketServer and QWebSocket for Go: every function, slot and signal of these classes by its name,
// with its meaning and its defaults. It is for people who port a program from Qt, in C++ or Python.
//
//	server := qt.NewWebSocketServer("Echo Server", qt.NonSecureMode)
//	server.NewConnection.Connect(func() {
//		socket := server.NextPendingConnection()
//		socket.TextMessageReceived.Connect(func(message string) { socket.SendTextMessage(message) })
//	})
//	if server.Listen(qt.Any, 1234) {
//		qt.Exec()
//	}
//
// # The event loop
//
// All slots of all servers and sockets are called one after the other on one goroutine, the event loop. They need no
// locks. A slot that blocks delays all others, as in Qt. The loop starts on its own; it is a goroutine only while there
// is something to do. [InvokeMethod] calls a function on it.
//
// All signals are emitted through the loop, as Qt does for queued connections: a function such as Open or Close returns
// before the slots for what it caused are called. Slots that must answer, as those of OriginAuthenticationRequired, are
// waited for by the handshake.
//
// All functions may be called from any goroutine, in slots and outside. Outside of slots, connect the slots of a socket
// in one InvokeMethod together with NextPendingConnection or Open; otherwise its first signals can be missed.
//
// If a slot panics, the panic is logged with its stack, and the socket whose signal it was is closed with
// CloseCodeBadOperation. If a handshake waits for the slot, the handshake fails.
//
// # Limits
//
// The getters return Qt's defaults. Where Qt has no limit, foyer has one, so that a client cannot fill the memory. An
// incoming message is limited to 1 MiB until SetMaxAllowedIncomingMessageSize is called. At most 1 MiB of messages, or
// one message, waits for the slots of a socket; then the socket is not read from. Up to 16 MiB wait for a peer that
// reads slowly; see [WebSocket.SendTextMessage].
//
// The page docs/qt.md lists all members, and what differs.
package qt
