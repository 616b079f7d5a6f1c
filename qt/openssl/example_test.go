//go:build cgo && openssl

package openssl_test

import (
	"fmt"

	"github.com/foyerws/foyer/qt"
	"github.com/foyerws/foyer/qt/openssl"
)

func Example() {
	keys := map[string]string{"alice": "at least 16 random bytes"}

	qt.SetActiveBackend(openssl.Backend{IdentityHint: "chat"})
	server := qt.NewWebSocketServer("chat", qt.SecureMode)
	server.PreSharedKeyAuthenticationRequired.Connect(func(a *qt.SslPreSharedKeyAuthenticator) {
		a.SetPreSharedKey([]byte(keys[string(a.Identity())])) // an empty key refuses
	})
	server.NewConnection.Connect(func() {
		socket := server.NextPendingConnection()
		socket.SendTextMessage("hello, whoever knows the key")
	})
	if !server.Listen(qt.LocalHost, 0) {
		fmt.Println(server.ErrorString())
	}

	client := qt.NewWebSocket("", qt.VersionLatest)
	client.PreSharedKeyAuthenticationRequired.Connect(func(a *qt.SslPreSharedKeyAuthenticator) {
		a.SetIdentity([]byte("alice"))
		a.SetPreSharedKey([]byte(keys["alice"]))
	})
	client.TextMessageReceived.Connect(func(message string) {
		fmt.Println(message)
		qt.Quit(0)
	})
	client.Open(server.ServerUrl().String())
	qt.Exec()
	// Output: hello, whoever knows the key
}
