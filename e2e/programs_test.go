package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/foyerws/foyer"
	"github.com/foyerws/foyer/foyertest"
)

// missing skips a test that needs something, or fails it where all is there.
func missing(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("FOYER_E2E") == "all" {
		t.Fatalf("%s is not installed", what)
	}
	t.Skipf("%s is not installed", what)
}

// peers are programs that are a client or a server, and the commands that run them.
var peers = map[string]func(t *testing.T) []string{
	"Python's websockets": func(t *testing.T) []string {
		const python = "/usr/bin/python3" // the one that Debian's packages are for
		if exec.Command(python, "-c", "import websockets").Run() != nil {
			missing(t, "python3-websockets")
		}
		return []string{python, "python/peer.py"}
	},
	"Node's ws": func(t *testing.T) []string {
		node := program(t, "node")
		if _, err := os.Stat("node/node_modules/ws"); err != nil {
			missing(t, "ws, by npm ci --prefix e2e/node,")
		}
		return []string{node, "node/peer.js"}
	},
}

func TestOtherClients(t *testing.T) {
	for name, command := range peers {
		for server, url := range servers(t, foyer.CompressionContextTakeover) {
			t.Run(name+", "+server, func(t *testing.T) {
				args := append(command(t), "client", url+"/")
				out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
				if err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				for _, want := range []string{"extensions permessage-deflate", "closed 4001"} {
					if !strings.Contains(string(out), want) {
						t.Errorf("no %q in\n%s", want, out)
					}
				}
			})
		}
	}
}

func TestOtherServers(t *testing.T) {
	for name, command := range peers {
		for _, compression := range compressionModes {
			t.Run(name, func(t *testing.T) {
				args := append(command(t), "server")
				peer := talk(t, args[0], args[1:]...)
				port := strings.TrimPrefix(peer.expect(`port \d+`), "port ")
				s := foyertest.Dial(t, "ws://127.0.0.1:"+port, &foyer.DialOptions{Subprotocols: []string{"chat.v1"}, Compression: compression, MaxMessageSize: 4 << 20, OutgoingFrameSize: 1 << 19})
				if deflate := s.Request().Header.Get("Sec-Websocket-Extensions") != ""; deflate != (compression != foyer.CompressionDisabled) || s.Subprotocol() != "chat.v1" {
					t.Error(deflate, s.Subprotocol())
				}
				for _, n := range []int{0, 1, 125, 126, 65535, 65536, 1 << 20} {
					for typ, m := range map[foyer.MessageType][]byte{foyer.Text: bytes.Repeat([]byte("x"), n), foyer.Binary: pattern(n)} {
						if err := s.Write(t.Context(), typ, m); err != nil {
							t.Fatal(err)
						}
						if got, p, err := s.Read(shortly(t)); err != nil || got != typ || !bytes.Equal(p, m) {
							t.Fatalf("%v message of %d bytes instead of %d: %v", got, len(p), n, err)
						}
					}
				}
				go s.Read(t.Context())
				if _, err := s.Ping(shortly(t), []byte("are you there")); err != nil {
					t.Error(err)
				}
				if err := s.Close(4001, "that was all"); err != nil {
					t.Error(err)
				}
				peer.expect("closed 4001 that was all")
			})
		}
	}
}
