package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/foyerws/foyer/internal/wstest"
)

// buildGoPeer compiles the program that is peer.cpp with package qt.
var buildGoPeer = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "foyer-qtpeer")
	if err != nil {
		return "", err
	}
	peer := filepath.Join(dir, "peer")
	if out, err := exec.Command("go", "build", "-tags", "openssl", "-o", peer, "./qtpeer").CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return peer, nil
})

// goPeer starts that program.
func goPeer(t *testing.T, args ...string) *conversation {
	t.Helper()
	if testing.Short() {
		t.Skip("builds a program")
	}
	peer, err := buildGoPeer()
	if err != nil {
		t.Fatal(err)
	}
	return talk(t, peer, args...)
}

// A line of a scene is a command, or what one side says then. Those of a client begin with c, those of a server with s.
var scenes = map[string][]string{
	"messages": {"c> get", "c< get 3 1 https://example.com 13 chat.v1 1000  /chat chat.v1,chat.v3 -1 0 0 2147483646 2147483646 524288 0",
		"s> get", "s< get 3 1 https://example.com 13 chat.v1 1000  /chat chat.v1,chat.v3 -1 0 0 2147483646 2147483646 524288 0",
		"c> text hällo 𝄞", "s< frame 8 1", "s< text hällo 𝄞", "c< frame 8 1", "c< text hällo 𝄞",
		"c> binary 100000", "s< binary 100000 1105003312", "c< binary 100000 1105003312",
		"c> binary 0", "s< binary 0 0", "c< binary 0 0",
		"c> text ", "s< frame 0 1", "s< text ", "c< frame 0 1", "c< text "},
	"pings": {"c> ping are you there", "c< pong are you there", "s> ping and you", "s< pong and you", "c> ping ", "c< pong ",
		"s> ping " + strings.Repeat("x", 200), "s< pong " + strings.Repeat("x", 125)},
	"frames": {"c> split 3", "c> text abcdefgh", "s< frame 3 0", "s< frame 3 0", "s< frame 2 1", "s< text abcdefgh", "c< frame 8 1", "c< text abcdefgh",
		"s> split 5", "s> text abcdefg", "c< frame 5 0", "c< frame 2 1", "c< text abcdefg"}, // Qt 6.4 takes a character that is cut for wrong
	"closed by the client": {"c> states", "s> states", "s> ping done", "s< pong done", "c> close 4001 that was all", "c< state 6", "s< state 6", "s< state 0", "s< closed 4001 that was all",
		"c< state 0", "c< closed 4001 that was all", "c> get", "c< get 0 0 https://example.com 13 chat.v1 4001 that was all /chat chat.v1,chat.v3 -1 0 0 2147483646 2147483646 524288 0"},
	"closed by the server": {"s> close 1001 maintenance", "c< closed 1001 maintenance", "s< closed 1001 maintenance"},
	"a long reason":        {"c> close 1000 " + strings.Repeat("r", 200), "s< closed 1000 " + strings.Repeat("r", 123), "c< closed 1000 " + strings.Repeat("r", 123)},
	"aborted":              {"c> abort", "c< closed ", "s< error ", "s< closed "},
	"a long message":       {"s> messages 10", "s> ping done", "s< pong done", "c> text 0123456789x", "s< closed 1009 ", "c< closed 1009 "},
	"a long frame":         {"s> frames 10", "s> ping done", "s< pong done", "c> text 0123456789x", "s< closed 1009 ", "c< closed 1009 "},
	"stopped":              {"s> stop", "s< stopped", "c> text still there", "s< frame 11 1", "s< text still there", "c< frame 11 1", "c< text still there"},
}

// TestQtAndPackageQtSayTheSame plays the scenes with Qt on both sides, on one, and on none.
func TestQtAndPackageQtSayTheSame(t *testing.T) {
	peers := map[string]func(*testing.T, ...string) *conversation{"Qt": qtPeer, "package qt": goPeer}
	for name, scene := range scenes {
		for serverName, startServer := range peers {
			for clientName, startClient := range peers {
				t.Run(name+", client "+clientName+", server "+serverName, func(t *testing.T) {
					server := startServer(t, "server")
					port := strings.TrimPrefix(server.expect(`port \d+`), "port ")
					client := startClient(t, "client", "ws://127.0.0.1:"+port+"/chat", "https://example.com", "chat.v1,chat.v3")
					server.expect("connected chat.v1 /chat https://example.com")
					client.expect("connected chat.v1")
					play(scene, client, server)
				})
			}
		}
	}
}

// play plays a scene. What both sides say has an order for each side only.
func play(scene []string, client, server *conversation) {
	client.t.Helper()
	for _, line := range scene {
		side := client
		if line[0] == 's' {
			side = server
		}
		switch text := line[3:]; line[1] {
		case '>':
			side.say(text)
		default:
			side.expectPrefix(text, strings.HasPrefix(text, "error ") || strings.HasPrefix(text, "closed ") && strings.HasSuffix(text, " "))
		}
	}
}

// expectPrefix reads the next line, which must be text, or begin with it.
func (c *conversation) expectPrefix(text string, prefix bool) {
	c.t.Helper()
	line := c.expect(".*")
	if line != text && !(prefix && strings.HasPrefix(line, text)) {
		c.t.Fatalf("%q instead of %q", line, text)
	}
}

// TestQtRefusals compares what a client and a server say of a handshake that is refused.
func TestQtRefusals(t *testing.T) {
	peers := []func(*testing.T, ...string) *conversation{qtPeer, goPeer}
	for i, startServer := range peers {
		for j, startClient := range peers {
			t.Run(fmt.Sprint("origin ", i, j), func(t *testing.T) {
				server := startServer(t, "server")
				port := strings.TrimPrefix(server.expect(`port \d+`), "port ")
				client := startClient(t, "client", "ws://127.0.0.1:"+port+"/", "https://refused.example.com", "")
				server.expect("refused 1008 Access forbidden.")
				client.expect("error .*Unhandled http status code: 403.*")
			})
			t.Run(fmt.Sprint("full ", i, j), func(t *testing.T) {
				server := startServer(t, "server")
				port := strings.TrimPrefix(server.expect(`port \d+`), "port ")
				server.say("pending 0")
				server.say("nothing") // the commands are read in their order
				client := startClient(t, "client", "ws://127.0.0.1:"+port+"/", "", "")
				server.expect("refused 1006 Too many pending connections.")
				client.expect("error .*")
			})
			t.Run(fmt.Sprint("query ", i, j), func(t *testing.T) {
				server := startServer(t, "server")
				port := strings.TrimPrefix(server.expect(`port \d+`), "port ")
				client := startClient(t, "client", "ws://127.0.0.1:"+port+"?query=1", "", "")
				if got := server.expect("connected .*"); !slices.Contains([]string{"connected   ", "connected  / "}, got) {
					t.Errorf("%q", got)
				}
				client.expect("connected ")
			})
			t.Run(fmt.Sprint("wss ", i, j), func(t *testing.T) {
				certificate, key := selfSigned(t)
				server := startServer(t, "server", certificate, key)
				port := strings.TrimPrefix(server.expect(`port \d+`), "port ")
				client := startClient(t, "client", "wss://127.0.0.1:"+port+"/chat", "", "")
				client.expect("ssl .*")
				client.expect("connected ")
				server.expect("connected  /chat ")
				client.say("text hällo")
				client.expect("frame 5 1")
				client.expect("text hällo")
				client.say("close 4001 that was all")
				client.expect("closed 4001 that was all")
			})
		}
	}
}

// TestQtPreSharedKeys has clients and servers know each other by a key.
func TestQtPreSharedKeys(t *testing.T) {
	t.Setenv("PSK", "0123456789abcdef")
	peers := []func(*testing.T, ...string) *conversation{qtPeer, goPeer}
	for i, startServer := range peers {
		for j, startClient := range peers {
			t.Run(fmt.Sprint(i, j), func(t *testing.T) {
				server := startServer(t, "server", "psk")
				port := strings.TrimPrefix(server.expect(`port \d+`), "port ")
				client := startClient(t, "client", "wss://127.0.0.1:"+port+"/chat", "", "")
				server.expect("identity alice")
				for client.expect("hint (the hint)?|connected ") != "connected " { // TLS 1.3 has no hint; OpenSSL asks for both versions
				}
				client.say("text hällo")
				client.expect("frame 5 1")
				client.expect("text hällo")
				client.say("close 4001 that was all")
				client.expect("closed 4001 that was all")
			})
		}
	}
	t.Run("openssl s_client", func(t *testing.T) {
		server := goPeer(t, "server", "psk")
		port := strings.TrimPrefix(server.expect(`port \d+`), "port ")
		for _, version := range []string{"-tls1_2", "-tls1_3"} {
			client := exec.Command(program(t, "openssl"), "s_client", "-quiet", "-connect", "127.0.0.1:"+port,
				"-psk_identity", "alice", "-psk", fmt.Sprintf("%x", "0123456789abcdef"), version, "-cipher", "PSK")
			request := "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
			client.Stdin = strings.NewReader(request + string(wstest.Masked(0x81, "hello")) + string(wstest.Masked(0x88, "\x03\xe8")))
			out, _ := client.Output()
			server.expect("identity alice")
			if answer := string(out); !strings.HasPrefix(answer, "HTTP/1.1 101 ") {
				t.Errorf("%s: %q", version, answer)
			}
			server.expect("connected .*")
			server.expect("frame 5 1")
			server.expect("text hello")
			server.expect("closed 1000 ")
		}
	})
}
