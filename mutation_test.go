package foyer

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestMutations breaks the code that checks what peers send, in one place after the other, and sees to it that its own tests or
// the conformance suite notice. Every condition is negated, every bound is moved by one, and every statement that can be is left
// out. It takes minutes and runs where FOYER_MUTATE is set.
//
// Some of the changes change nothing that a peer could see, such as those of pools and fast paths, or something that is tested
// elsewhere. The number of those that went unnoticed when this was written may not grow.
func TestMutations(t *testing.T) {
	if os.Getenv("FOYER_MUTATE") == "" {
		t.Skip("FOYER_MUTATE is not set")
	}
	const allowed = 55 // of 313
	copied := t.TempDir()
	if err := os.CopyFS(copied, os.DirFS(".")); err != nil {
		t.Fatal(err)
	}
	var m mutator
	for _, file := range []string{"internal/frame/header.go", "internal/frame/sequence.go", "internal/frame/mask.go", "internal/frame/inflate.go",
		"message.go"} {
		if err := m.file(filepath.Join(copied, file)); err != nil {
			t.Fatal(err)
		}
	}
	suites := []suite{{filepath.Join(copied, "internal/frame"), "."}, {copied, "^TestConformance$"}}
	for _, s := range suites {
		if err := s.build(); err != nil {
			t.Fatal(err)
		}
		if s.notices(0) {
			t.Fatalf("%s fails without any change", s.dir)
		}
	}
	unnoticed := 0
	for i, change := range m.changes {
		if !slices.ContainsFunc(suites, func(s suite) bool { return s.notices(i + 1) }) {
			unnoticed++
			t.Log("unnoticed: ", change)
		}
	}
	t.Logf("%d of %d noticed", len(m.changes)-unnoticed, len(m.changes))
	if unnoticed > allowed {
		t.Errorf("more than %d unnoticed", allowed)
	}
}

// A suite is tests of a package of the copy.
type suite struct{ dir, run string }

func (s suite) build() error {
	cmd := exec.Command("go", "test", "-c", "-vet=off", "-o", "mutants.test", ".")
	cmd.Dir, cmd.Env = s.dir, append(os.Environ(), "GOWORK=off")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

// notices reports whether a test fails with a change.
func (s suite) notices(change int) bool {
	cmd := exec.Command("./mutants.test", "-test.short", "-test.timeout", "30s", "-test.failfast", "-test.run", s.run)
	cmd.Dir, cmd.Env = s.dir, append(os.Environ(), "FOYER_CONFORMANCE_PATIENCE=200ms", fmt.Sprint("FOYER_MUTANT=", change))
	return cmd.Run() != nil
}

// A mutator puts changes into source files. Each is made where FOYER_MUTANT is its number, counted from 1.
type mutator struct {
	changes []string // what is changed, and where

	files  *token.FileSet
	source []byte
	insert map[int]string // by offset in source
}

// file puts changes into a file.
func (m *mutator) file(name string) (err error) {
	if m.source, err = os.ReadFile(name); err != nil {
		return err
	}
	m.files, m.insert = token.NewFileSet(), make(map[int]string)
	f, err := parser.ParseFile(m.files, name, m.source, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	for _, d := range f.Decls {
		if d, ok := d.(*ast.FuncDecl); ok && d.Body != nil {
			ast.Inspect(d.Body, m.node)
		}
	}
	var changed []byte
	for i, b := range m.source {
		changed = append(append(changed, m.insert[i]...), b)
	}
	if err := os.WriteFile(name, changed, 0o600); err != nil {
		return err
	}
	const chosen = "package %s\n\nimport (\n\"os\"\n\"strconv\"\n)\n\nvar mutated, _ = strconv.Atoi(os.Getenv(\"FOYER_MUTANT\"))\n\n" +
		"func mutant(n int) bool { return n == mutated }\n"
	return os.WriteFile(filepath.Join(filepath.Dir(name), "mutant.go"), fmt.Appendf(nil, chosen, f.Name.Name), 0o600)
}

func (m *mutator) node(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.GenDecl:
		return n.Tok == token.VAR
	case *ast.BlockStmt:
		m.statements(n.List)
	case *ast.CaseClause:
		m.statements(n.Body)
	case *ast.SwitchStmt:
		if n.Tag == nil {
			for _, c := range n.Body.List {
				for _, e := range c.(*ast.CaseClause).List {
					m.operand(e)
				}
			}
		}
	case *ast.IfStmt:
		m.operand(n.Cond)
	case *ast.UnaryExpr:
		if n.Op == token.NOT {
			m.operand(n.X)
		}
	case *ast.BinaryExpr:
		switch n.Op {
		case token.LAND, token.LOR:
			m.operand(n.X)
			m.operand(n.Y)
		case token.EQL, token.NEQ:
			m.negate(n)
		case token.LSS:
			m.move(n, token.LEQ)
		case token.LEQ:
			m.move(n, token.LSS)
		case token.GTR:
			m.move(n, token.GEQ)
		case token.GEQ:
			m.move(n, token.GTR)
		}
	}
	return true
}

// operand negates a condition that is not made of others.
func (m *mutator) operand(e ast.Expr) {
	switch e.(type) {
	case *ast.BinaryExpr, *ast.UnaryExpr, *ast.ParenExpr:
	default:
		m.negate(e)
	}
}

func (m *mutator) negate(e ast.Expr) {
	m.wrap(e, fmt.Sprintf("(mutant(%d) != (", m.change("not ", e)), "))")
}

// move moves the bound of a comparison by one.
func (m *mutator) move(e *ast.BinaryExpr, to token.Token) {
	m.negate(e)
	n := m.change(to.String()+" in ", e)
	m.wrap(e, fmt.Sprintf("(mutant(%d) && (%s %s %s) || !mutant(%[1]d) && (", n, m.text(e.X), to, m.text(e.Y)), "))")
}

// statements leaves statements out.
func (m *mutator) statements(list []ast.Stmt) {
	for _, s := range list {
		switch s := s.(type) {
		case *ast.ExprStmt, *ast.IncDecStmt:
			if strings.HasPrefix(m.text(s), "panic(") {
				continue // which may have to end a function
			}
		case *ast.AssignStmt:
			if s.Tok == token.DEFINE {
				continue
			}
		default:
			continue
		}
		m.wrap(s, fmt.Sprintf("if !mutant(%d) { ", m.change("without ", s)), " }")
	}
}

// change returns the number of a new change.
func (m *mutator) change(how string, n ast.Node) int {
	p := m.files.Position(n.Pos())
	m.changes = append(m.changes, fmt.Sprintf("%s:%d: %s%s", filepath.Base(p.Filename), p.Line, how, m.text(n)))
	return len(m.changes)
}

// wrap puts text around a node, outside of which there may be more.
func (m *mutator) wrap(n ast.Node, before, after string) {
	begin, end := m.files.Position(n.Pos()).Offset, m.files.Position(n.End()).Offset
	m.insert[begin] += before
	m.insert[end] = after + m.insert[end]
}

func (m *mutator) text(n ast.Node) string {
	return string(m.source[m.files.Position(n.Pos()).Offset:m.files.Position(n.End()).Offset])
}
