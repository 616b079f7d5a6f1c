package foyer

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestQtDocument compiles the lines of code in docs/qt.md and looks for the names and the Examples that it mentions.
func TestQtDocument(t *testing.T) {
	text, err := os.ReadFile("docs/qt.md")
	if err != nil {
		t.Fatal(err)
	}
	names := exportedNames(t, ".")
	examples := exportedNames(t, "example_client_test.go")
	var program strings.Builder
	program.WriteString(qtPrelude)
	rows := 0
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.Trim(line, "|\n"), "|")
		if !strings.HasPrefix(line, "| ") || cells[0] == " Qt " || strings.HasPrefix(cells[0], " ---") {
			continue
		}
		rows++
		if len(cells) != 4 {
			t.Errorf("%d cells: %s", len(cells), line)
			continue
		}
		for _, quoted := range regexp.MustCompile("`[^`]+`").FindAllString(cells[1]+cells[3], -1) {
			if name := strings.Trim(quoted, "`"); !names[name] {
				t.Errorf("no %s in package foyer: %s", name, cells[0])
			}
		}
		code := strings.Trim(cells[2], " `")
		if code == "" {
			t.Errorf("no code: %s", line)
		}
		program.WriteString("func _() { " + code + " }\n")
		for _, example := range regexp.MustCompile(`Example\w+`).FindAllString(cells[3], -1) {
			if !examples[example] {
				t.Errorf("no %s", example)
			}
		}
		for _, dir := range regexp.MustCompile(`examples/\w+`).FindAllString(cells[3], -1) {
			if _, err := os.Stat(dir); err != nil {
				t.Error(err)
			}
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
}

// qtPrelude declares what the lines of code make use of.
const qtPrelude = `package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/foyerws/foyer"
)

var (
	ctx  = context.Background()
	h    = new(foyer.Handler)
	srv  = new(foyer.Server)
	s    = new(foyer.Socket)
	o    = new(foyer.DialOptions)
	e    = new(foyer.Events)
	r    = new(http.Request)
	f    *os.File
	l    net.Listener
	conn net.Conn
	err  error
)

func main() {}

`

// exportedNames returns the exported names in Go files: functions and types as they are, fields and methods behind the
// name of their type.
func exportedNames(t *testing.T, path string) map[string]bool {
	t.Helper()
	files := []string{path}
	if filepath.Ext(path) != ".go" {
		files, _ = filepath.Glob(filepath.Join(path, "*.go"))
	}
	names := make(map[string]bool)
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			maps.Copy(names, declared(decl))
		}
	}
	return names
}

func declared(decl ast.Decl) map[string]bool {
	names := make(map[string]bool)
	switch d := decl.(type) {
	case *ast.FuncDecl:
		name := d.Name.Name
		if d.Recv != nil {
			receiver := d.Recv.List[0].Type
			if star, ok := receiver.(*ast.StarExpr); ok {
				receiver = star.X
			}
			name = receiver.(*ast.Ident).Name + "." + name
		}
		names[name] = true
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch s := spec.(type) {
			case *ast.TypeSpec:
				names[s.Name.Name] = true
				for _, field := range members(s.Type) {
					names[s.Name.Name+"."+field] = true
				}
			case *ast.ValueSpec:
				for _, id := range s.Names {
					names[id.Name] = true
				}
			}
		}
	}
	return names
}

// members returns the names of a struct's fields or an interface's methods.
func members(t ast.Expr) (names []string) {
	var list *ast.FieldList
	switch t := t.(type) {
	case *ast.StructType:
		list = t.Fields
	case *ast.InterfaceType:
		list = t.Methods
	default:
		return nil
	}
	for _, field := range list.List {
		for _, id := range field.Names {
			names = append(names, id.Name)
		}
	}
	return names
}
