//go:build linux

package main

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// A program reads the time with a system call that nobody but the kernel can change, for all programs at once. So for a clock that
// jumps the program is compiled with another package time, whose Now adds what a file says.

// clockFile is the variable with the name of that file.
const clockFile = "FOYER_CLOCK"

const jumpSource = `package time

import (
	"syscall"
	"unsafe"
)

// jump is how many seconds the clock is ahead. Others change it.
var jump = func() *int64 {
	name, _ := syscall.Getenv("` + clockFile + `")
	fd, err := syscall.Open(name, syscall.O_RDONLY, 0)
	if err != nil {
		return new(int64)
	}
	page, err := syscall.Mmap(fd, 0, 8, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		panic(err)
	}
	return (*int64)(unsafe.Pointer(&page[0]))
}()
`

// compile makes tools that have clocks that can jump.
func (t *tools) compile() error {
	if t.jumping {
		return nil
	}
	t.jumping = true
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return err
	}
	library := filepath.Join(strings.TrimSpace(string(root)), "src", "time")
	source, err := os.ReadFile(filepath.Join(library, "time.go"))
	if err != nil {
		return err
	}
	const read = "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n"
	before, after, found := strings.Cut(string(source), read)
	if !found {
		return errors.New("time.Now is not what it is in Go 1.26")
	}
	file := func(name string) string { return filepath.Join(t.folder, name) }
	replace, err := json.Marshal(map[string]any{"Replace": map[string]string{
		filepath.Join(library, "time.go"): file("time.go"),
		filepath.Join(library, "jump.go"): file("jump.go"),
	}})
	if err != nil {
		return err
	}
	for name, text := range map[string]string{"time.go": before + read + "\tsec += *jump\n" + after, "jump.go": jumpSource, "overlay": string(replace)} {
		if err := os.WriteFile(file(name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	t.node, t.nats = file("node"), file("nats-server")
	for program, source := range map[string]string{t.node: "github.com/foyerws/foyer/e2e/cluster", t.nats: "github.com/nats-io/nats-server/v2"} {
		out, err := exec.Command("go", "build", "-overlay", file("overlay"), "-o", program, source).CombinedOutput()
		if err != nil {
			return fmt.Errorf("compiling with another clock: %w\n%s", err, out)
		}
	}
	return nil
}

// A clock is that of one process. It is a file with the seconds that it is ahead of the true time.
type clock string

func (c clock) jump(by time.Duration) error {
	f, err := os.OpenFile(string(c), os.O_WRONLY|os.O_CREATE, 0o600) // not cut: the process reads it all the time
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteAt(binary.NativeEndian.AppendUint64(nil, uint64(by/time.Second)), 0)
	return err
}
