package foyer

import (
	"io"
	"syscall"
	"testing"

	"github.com/foyerws/foyer/internal/wstest"
)

// Urgent data makes a read stop short of what has come. Nothing may be forgotten behind it.
func TestUrgentDataLosesNothing(t *testing.T) {
	for range 20 {
		h := closeHandler(t, &Handler{})
		go h.ForEach(t.Context(), echo)
		conn := dialTCP(t, serveRaw(t, h))
		_, br := ask(t, conn, handshakeRequest())
		raw, err := conn.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		first := wstest.Masked(0x81, "hello")
		raw.Control(func(fd uintptr) {
			// The last byte is urgent, and taken out of the stream: it stands for none of ours.
			if err = syscall.Sendto(int(fd), append(first, '!'), syscall.MSG_OOB, nil); err == nil {
				_, err = syscall.Write(int(fd), wstest.Masked(0x81, "world"))
			}
		})
		if err != nil {
			t.Skip(err)
		}
		var b [14]byte
		if _, err := io.ReadFull(br, b[:]); err != nil || string(b[:]) != "\x81\x05hello\x81\x05world" {
			t.Fatalf("%q, %v", b, err)
		}
		conn.Close()
	}
}
