package foyer_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/foyerws/foyer/qt"
)

// TestQtDocument compiles the lines of code in the tables of docs/qt.md, and looks for all that the classes have in them.
func TestQtDocument(t *testing.T) {
	text, err := os.ReadFile("docs/qt.md")
	if err != nil {
		t.Fatal(err)
	}
	var program strings.Builder
	program.WriteString(qtPrelude)
	rows := 0
	row := regexp.MustCompile("(?m)^\\| [^|]* \\| `([^`]*)` \\|[^|]*\\|$")
	for _, table := range strings.Split(string(text), "| Qt | in Go | what differs |\n")[1:] {
		table, _, _ = strings.Cut(table, "\n\n")
		for _, m := range row.FindAllStringSubmatch(table, -1) {
			rows++
			program.WriteString("func _() { " + m[1] + " }\n")
		}
		if lines := strings.Count(table, "\n"); lines != len(row.FindAllString(table, -1)) {
			t.Errorf("%d lines, and not all are rows:\n%s", lines, table)
		}
	}
	if rows < 120 {
		t.Errorf("found %d rows", rows)
	}
	file := filepath.Join(t.TempDir(), "main.go")
	if err := os.WriteFile(file, []byte(program.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "build", "-o", os.DevNull, file).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	for _, class := range []any{new(qt.WebSocketServer), new(qt.WebSocket), new(qt.WebSocketCorsAuthenticator)} {
		for _, name := range members(reflect.TypeOf(class)) {
			if !regexp.MustCompile(`\b` + name + `\b`).Match(text) {
				t.Errorf("%T.%s is not in docs/qt.md", class, name)
			}
		}
	}
}

// members returns the names of the exported methods and fields of a pointer to a struct.
func members(t reflect.Type) (names []string) {
	for m := range t.Methods() {
		names = append(names, m.Name)
	}
	for _, f := range reflect.VisibleFields(t.Elem()) {
		if f.IsExported() {
			names = append(names, f.Name)
		}
	}
	return names
}

// qtPrelude declares what the lines of code make use of.
const qtPrelude = `package main

import (
	"crypto/tls"
	"net"
	"net/http"
	"time"

	"github.com/foyerws/foyer/qt"
)

var (
	_       = tls.VersionTLS13
	_       = time.Second
	server  *qt.WebSocketServer
	socket  *qt.WebSocket
	options qt.WebSocketHandshakeOptions
	cors    *qt.WebSocketCorsAuthenticator
	masks   qt.MaskGenerator
	proxy   qt.NetworkProxy
	request *http.Request
	conn    net.Conn
	key     []byte
	ok      bool
)

func main() {}

`
