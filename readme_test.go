package foyer

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
)

// A program is a Go program that a document shows.
type program struct {
	document string
	number   int // in the document, from 1
	source   string
}

func (p program) String() string { return fmt.Sprintf("%s, program %d", p.document, p.number) }

// programsInTheDocuments returns every Go program that a document shows.
func programsInTheDocuments(t *testing.T) (all []program) {
	documents, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	documents = append(documents, "README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md")
	for _, document := range documents {
		text, err := os.ReadFile(document)
		if err != nil {
			t.Fatal(err)
		}
		for i, block := range strings.Split(string(text), "```go\n")[1:] {
			source, _, _ := strings.Cut(block, "```")
			all = append(all, program{document, i + 1, source})
		}
	}
	return all
}

// TestProgramsInTheDocuments compiles every Go program that a document shows. The shell commands of the README are run by
// .ci/run.
func TestProgramsInTheDocuments(t *testing.T) {
	if testing.Short() {
		t.Skip("builds programs")
	}
	programs := programsInTheDocuments(t)
	for i, p := range programs {
		dir := t.TempDir()
		name, command := "main.go", []string{"vet"}
		if strings.Contains(p.source, `"testing"`) {
			name = "main_test.go"
		}
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(p.source), 0o600); err != nil {
			t.Fatal(err)
		}
		files := []string{file}
		if name == "main_test.go" && strings.Contains(p.source, "package main") { // it tests the program before it
			main := filepath.Join(dir, "main.go")
			if err := os.WriteFile(main, []byte(programs[i-1].source), 0o600); err != nil {
				t.Fatal(err)
			}
			files, command = append(files, main), []string{"test"}
		}
		if out, err := exec.Command("go", append(command, files...)...).CombinedOutput(); err != nil {
			t.Errorf("%v: %v\n%s", p, err, out)
		}
		if out, err := exec.Command("gofmt", "-l", file).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%v is not formatted: %v %s", p, err, out)
		}
	}
	if len(programs) < 10 {
		t.Errorf("found %d programs", len(programs))
	}
}

// TestLinksInTheDocuments looks for the files and headings that the documents link to.
func TestLinksInTheDocuments(t *testing.T) {
	documents, _ := filepath.Glob("*.md")
	for _, dir := range []string{"docs", "examples", "examples/*"} {
		more, _ := filepath.Glob(filepath.Join(dir, "*.md"))
		documents = append(documents, more...)
	}
	for _, document := range documents {
		text, err := os.ReadFile(document)
		if err != nil {
			t.Fatal(err)
		}
		for _, link := range strings.Split(string(text), "](")[1:] {
			target, _, _ := strings.Cut(link, ")")
			if strings.HasPrefix(target, "https://") || strings.HasPrefix(target, "http://") {
				continue
			}
			file, anchor, _ := strings.Cut(target, "#")
			if file = filepath.Join(filepath.Dir(document), file); strings.HasPrefix(target, "#") {
				file = document
			}
			if _, err := os.Stat(file); err != nil {
				t.Errorf("%s links to %s: %v", document, target, err)
			}
			if linked, _ := os.ReadFile(file); anchor != "" && !hasHeading(string(linked), anchor) {
				t.Errorf("%s links to %s, and there is no such heading", document, target)
			}
		}
	}
}

// hasHeading reports whether a document has a heading with this anchor.
func hasHeading(document, anchor string) bool {
	for line := range strings.Lines(document) {
		title := strings.ToLower(strings.TrimSpace(strings.TrimLeft(line, "#")))
		if strings.HasPrefix(line, "#") && anchorOf(title) == anchor {
			return true
		}
	}
	return false
}

// anchorOf returns the anchor that GitHub gives a heading.
func anchorOf(title string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
			return unicode.ToLower(r)
		}
		return -1
	}, title)
}

// TestExportedNamesAreDocumented looks at every exported name of the packages that programs import.
func TestExportedNamesAreDocumented(t *testing.T) {
	for _, dir := range []string{".", "middleware", "foyertest", "extendedconnect", "qt", "gorillaconn", "rooms", "rooms/roomstest", "rooms/natsrooms"} {
		files, _ := filepath.Glob(filepath.Join(dir, "*.go"))
		for _, name := range files {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			fset := token.NewFileSet()
			file, err := parser.ParseFile(fset, name, nil, parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			for _, decl := range file.Decls {
				checkDocumented(t, fset, decl)
			}
		}
	}
}

func checkDocumented(t *testing.T, fset *token.FileSet, decl ast.Decl) {
	missing := func(id *ast.Ident) { t.Errorf("%s: %s has no comment", fset.Position(id.Pos()), id.Name) }
	switch d := decl.(type) {
	case *ast.FuncDecl:
		exported := d.Name.IsExported()
		if d.Recv != nil {
			receiver := d.Recv.List[0].Type
			if star, ok := receiver.(*ast.StarExpr); ok {
				receiver = star.X
			}
			if generic, ok := receiver.(*ast.IndexExpr); ok {
				receiver = generic.X
			}
			exported = exported && receiver.(*ast.Ident).IsExported() && d.Name.Name != "Error" // which is error's
		}
		if exported && d.Doc == nil {
			missing(d.Name)
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch s := spec.(type) {
			case *ast.TypeSpec:
				if s.Name.IsExported() && s.Doc == nil && d.Doc == nil {
					missing(s.Name)
				}
			case *ast.ValueSpec:
				if s.Names[0].IsExported() && s.Doc == nil && s.Comment == nil && d.Doc == nil {
					missing(s.Names[0])
				}
			}
		}
	}
}
