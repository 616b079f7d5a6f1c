//go:build linux

package main

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/foyerws/foyer/internal/wstest"
)

func TestPushesAreCountedAndCompared(t *testing.T) {
	_, want := centrifugeFrames("hello")
	push := string(want)
	for _, c := range []struct {
		name     string
		payloads []string
		pushes   int
		err      error
	}{
		{"one in a frame", []string{push, push}, 2, nil},
		{"several in a frame", []string{strings.Repeat(push+"\n", 2000) + push}, 2001, nil},
		{"among replies and pings", []string{`{"id":1,"connect":{"client":"x"}}`, push + "\n{}", `{"id":2,"publish":{}}` + "\n" + push}, 2, nil},
		{"another text", []string{push, strings.Replace(push, "hello", "hallo", 1)}, 1, errEcho},
		{"an error", []string{`{"id":2,"error":{"code":103}}`}, 0, errEcho},
	} {
		t.Run(c.name, func(t *testing.T) {
			ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0) // pongs go there
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(ends[0])
			defer unix.Close(ends[1])
			p, client := &peers{want: want}, &peer{fd: ends[0]}
			var in []byte
			for _, payload := range c.payloads {
				in = append(in, wstest.Plain(0x81, payload)...)
			}
			count := 0
			for len(in) > 0 && err == nil {
				n := min(7, len(in)) // a read ends anywhere
				var more int
				more, err = p.pushes(client, in[:n])
				count, in = count+more, in[n:]
			}
			if count != c.pushes || !errors.Is(err, c.err) {
				t.Errorf("%d pushes, %v; want %d, %v", count, err, c.pushes, c.err)
			}
		})
	}
}
