package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/foyerws/foyer"
	"github.com/foyerws/foyer/foyertest"
)

// deflaters are programs that offer permessage-deflate in every way that they can, and the commands that run them.
var deflaters = map[string]func(t *testing.T) (client, server []string){
	"Python's autobahn": func(t *testing.T) (client, server []string) {
		const python = "/usr/bin/python3" // the one that Debian's packages are for
		if exec.Command(python, "-c", "import autobahn").Run() != nil {
			missing(t, "python3-autobahn")
		}
		return []string{python, "python/deflate.py", "client"}, []string{python, "python/deflate.py", "server"}
	},
	"Node's ws": func(t *testing.T) (client, server []string) {
		return nodeDeflater(t, "client", "server")
	},
	"Node's websocket": func(t *testing.T) (client, server []string) { // without compression
		return nodeDeflater(t, "plain-client", "plain-server")
	},
}

func nodeDeflater(t *testing.T, client, server string) (clientCommand, serverCommand []string) {
	node := program(t, "node")
	if _, err := os.Stat("node/node_modules/websocket"); err != nil {
		missing(t, "ws and websocket, by npm ci --prefix e2e/node,")
	}
	return []string{node, "node/deflate.js", client}, []string{node, "node/deflate.js", server}
}

// deflateCount is how many messages each combination exchanges: FOYER_DEFLATE, or few.
func deflateCount() int {
	if n, err := strconv.Atoi(os.Getenv("FOYER_DEFLATE")); err == nil {
		return n
	}
	return 50
}

// TestDeflateOfClients has other programs' clients compress in every way, and checks what was agreed to.
func TestDeflateOfClients(t *testing.T) {
	for name, commands := range deflaters {
		for _, mode := range []foyer.CompressionMode{foyer.CompressionNoContextTakeover, foyer.CompressionContextTakeover} {
			t.Run(fmt.Sprint(name, ", mode ", mode), func(t *testing.T) {
				command, _ := commands(t)
				url := servers(t, mode)["Server"]
				out, err := exec.Command(command[0], append(command[1:], url+"/", strconv.Itoa(deflateCount()))...).Output()
				if err != nil {
					t.Fatal(err)
				}
				lines := 0
				for line := range bytes.Lines(out) {
					var said struct{ Offer, Answer, Failure string }
					if err := json.Unmarshal(line, &said); err != nil {
						t.Fatalf("%s: %v", line, err)
					}
					if want := expectedAnswer(said.Offer, mode == foyer.CompressionContextTakeover); said.Failure != "" || said.Answer != want {
						t.Errorf("%q: %q, want %q; %s", said.Offer, said.Answer, want, said.Failure)
					}
					lines++
				}
				t.Logf("%d offers, %d messages each", lines, deflateCount())
				if lines == 0 {
					t.Error("nothing was done")
				}
			})
		}
	}
}

// expectedAnswer is what RFC 7692 section 7.1 and foyer's documentation say of an offer.
func expectedAnswer(offer string, takeover bool) string {
	if offer == "" {
		return ""
	}
	answer := "permessage-deflate"
	has := func(param string) bool { return strings.Contains(offer+";", "; "+param+";") }
	value := func(param string) string {
		_, rest, _ := strings.Cut(offer+";", "; "+param+"=")
		v, _, _ := strings.Cut(rest, ";")
		return v
	}
	clientTakeover := takeover && !has("client_no_context_takeover")
	if !takeover || has("server_no_context_takeover") {
		answer += "; server_no_context_takeover"
	}
	if !clientTakeover {
		answer += "; client_no_context_takeover"
	}
	if bits := value("server_max_window_bits"); bits != "" {
		answer += "; server_max_window_bits=" + bits
	}
	switch bits := value("client_max_window_bits"); {
	case bits != "" && (!clientTakeover || bits < "12" || bits == "9"):
		answer += "; client_max_window_bits=" + bits
	case bits != "" || has("client_max_window_bits") && clientTakeover:
		answer += "; client_max_window_bits=12"
	}
	return answer
}

// TestDeflateOfServers dials other programs' servers, which answer our offer in every way.
func TestDeflateOfServers(t *testing.T) {
	words := strings.Fields("the quick brown fox jumps over a lazy dog while seven green lamps shine on every second street")
	for name, commands := range deflaters {
		t.Run(name, func(t *testing.T) {
			_, command := commands(t)
			peer := talk(t, command[0], command[1:]...)
			var ports []string
			for {
				line := peer.expect(`port \d+|end`)
				if line == "end" {
					break
				}
				ports = append(ports, strings.TrimPrefix(line, "port "))
			}
			for _, port := range ports {
				for _, mode := range []foyer.CompressionMode{foyer.CompressionNoContextTakeover, foyer.CompressionContextTakeover} {
					s := foyertest.Dial(t, "ws://127.0.0.1:"+port, &foyer.DialOptions{Compression: mode, CompressionThreshold: -1, MaxMessageSize: 4 << 20})
					random := rand.New(rand.NewPCG(1, 1))
					for range deflateCount() {
						kind, m := foyer.Text, []byte(nil)
						switch n := random.IntN(100); {
						case n == 0:
							kind, m = foyer.Binary, make([]byte, random.IntN(70000))
							for i := range m {
								m[i] = byte(random.IntN(256))
							}
						case n < 10:
							m = []byte(strings.Repeat(words[random.IntN(len(words))]+" ", random.IntN(1000)))
						default:
							for range random.IntN(40) {
								m = append(append(m, words[random.IntN(len(words))]...), ' ')
							}
						}
						if err := s.Write(t.Context(), kind, m); err != nil {
							t.Fatal(err)
						}
						if got, p, err := s.Read(shortly(t)); err != nil || got != kind || !bytes.Equal(p, m) {
							t.Fatalf("%v message of %d bytes instead of %d: %v", got, len(p), len(m), err)
						}
					}
					s.Close(foyer.CloseNormalClosure, "")
					<-s.Done()
				}
			}
			t.Logf("%d configurations, %d messages each", len(ports), deflateCount())
			if len(ports) == 0 {
				t.Error("nothing was done")
			}
		})
	}
}
