package foyer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/foyerws/foyer/internal/wstest"

	"github.com/gorilla/websocket"
)

func TestPeerCloses(t *testing.T) {
	tests := []struct {
		payload string
		code    CloseCode
		reason  string
		answer  string
	}{
		{"", CloseNoStatusReceived, "", ""},
		{"\x03\xe8", 1000, "", "\x03\xe8"},
		{"\x03\xe8bye", 1000, "bye", "\x03\xe8"},
		{"\x03\xf6", CloseBadGateway, "", "\x03\xf6"},
		{"\x0b\xb8", 3000, "", "\x0b\xb8"},
		{"\x13\x87\xc3\xa9", 4999, "é", "\x13\x87"},
		{"\x03", CloseProtocolError, "", "\x03\xea"},
		{"\x03\xed", CloseProtocolError, "", "\x03\xea"}, // 1005 may not be sent
		{"\x03\xee", CloseProtocolError, "", "\x03\xea"}, // nor 1006
		{"\x03\xf7", CloseProtocolError, "", "\x03\xea"}, // nor 1015
		{"\x03\xe7", CloseProtocolError, "", "\x03\xea"}, // 999
		{"\x07\xd0", CloseProtocolError, "", "\x03\xea"}, // 2000
		{"\x13\x88", CloseProtocolError, "", "\x03\xea"}, // 5000
		{"\x03\xe8\xff", CloseInvalidFramePayloadData, "", "\x03\xef"},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%x", tt.payload), func(t *testing.T) {
			h := closeHandler(t, &Handler{})
			conn := dialTCP(t, serveRaw(t, h))
			_, br := ask(t, conn, handshakeRequest())
			conn.Write(wstest.Masked(0x88, tt.payload))
			conn.Write(wstest.Masked(0x81, "nobody reads this"))
			s := accept(t, h)
			_, _, err := s.Read(t.Context())
			var closed *CloseError
			if !errors.As(err, &closed) || !errors.Is(err, ErrClosed) || closed.Code != tt.code || closeCode(s) != tt.code || s.State() != StateClosed {
				t.Errorf("read: %v", err)
			}
			if tt.code != CloseProtocolError && tt.code != CloseInvalidFramePayloadData && closeReason(s) != tt.reason {
				t.Errorf("reason %q", closeReason(s))
			}
			var header [2]byte
			io.ReadFull(br, header[:])
			payload := make([]byte, header[1])
			io.ReadFull(br, payload)
			if header[0] != 0x88 || !strings.HasPrefix(string(payload), tt.answer) || tt.answer == "" && len(payload) > 0 {
				t.Errorf("answer %x %q", header, payload)
			}
			if _, err := br.ReadByte(); err == nil {
				t.Error("bytes behind the close frame")
			}
			<-s.Done()
			if h.Stats().Closed[tt.code] != 1 {
				t.Errorf("stats %+v", h.Stats())
			}
		})
	}
}

// TestCloseHandshake closes from our side, with and without somebody reading.
func TestCloseHandshake(t *testing.T) {
	for _, reading := range []bool{false, true} {
		t.Run(fmt.Sprintf("reading=%v", reading), func(t *testing.T) {
			h := closeHandler(t, &Handler{})
			c, s := connectTCP(t, h)
			c.WriteMessage(websocket.TextMessage, []byte("unread"))
			read := make(chan error, 1)
			if reading {
				go func() {
					for {
						if _, _, err := s.Read(context.Background()); err != nil {
							read <- err
							return
						}
					}
				}()
			} else {
				read <- ErrClosed
			}
			client := make(chan error, 1)
			go func() {
				_, _, err := c.ReadMessage()
				client <- err
			}()
			if err := closeAndWait(s, 4001, "enough"); err != nil {
				t.Error(err)
			}
			var got *websocket.CloseError
			if err := <-client; !errors.As(err, &got) || got.Code != 4001 || got.Text != "enough" {
				t.Error(err)
			}
			if err := <-read; !errors.Is(err, ErrClosed) {
				t.Error(err)
			}
			if s.State() != StateClosed || closeCode(s) != 4001 || s.Close(4002, "") != nil || closeCode(s) != 4001 {
				t.Error(s.State(), s.Err())
			}
			for name, err := range map[string]error{
				"Write": s.Write(t.Context(), Text, nil), "TryWrite": s.TryWrite(Text, nil), "Flush": s.Flush(t.Context()),
				"Read":   func() error { _, _, err := s.Read(t.Context()); return err }(),
				"Reader": func() error { _, _, err := s.Reader(t.Context()); return err }(),
				"Writer": func() error { _, err := s.Writer(t.Context(), Text); return err }(),
				"Ping":   func() error { _, err := s.Ping(t.Context(), nil); return err }(),
			} {
				if name != "Flush" && !errors.Is(err, ErrClosed) {
					t.Errorf("%s on a closed socket: %v", name, err)
				}
			}
		})
	}
}

func TestMessagesThatWereWrittenArriveBeforeTheCloseFrame(t *testing.T) {
	h := closeHandler(t, &Handler{})
	c, s := connectTCP(t, h)
	for range 1000 {
		s.SendText(t.Context(), "message")
	}
	go s.Close(CloseNormalClosure, "")
	for i := range 1000 {
		if _, p, err := c.ReadMessage(); err != nil || string(p) != "message" {
			t.Fatal(i, err)
		}
	}
	if _, _, err := c.ReadMessage(); !websocket.IsCloseError(err, 1000) {
		t.Error(err)
	}
}

func TestBothSidesCloseAtOnce(t *testing.T) {
	h := closeHandler(t, &Handler{})
	conn := dialTCP(t, serveRaw(t, h))
	_, br := ask(t, conn, handshakeRequest())
	s := accept(t, h)
	closed := make(chan error)
	go func() { closed <- closeAndWait(s, 4001, "") }()
	var b [4]byte
	io.ReadFull(br, b[:])
	conn.Write(wstest.Masked(0x88, "\x0f\xa2")) // 4002, as if it had crossed ours
	if err := <-closed; err != nil || closeCode(s) != 4002 {
		t.Error(err, closeCode(s))
	}
	if _, err := br.ReadByte(); err != io.EOF {
		t.Errorf("a second close frame: %v", err)
	}
}

func TestSilentPeerDoesNotHoldUpClose(t *testing.T) {
	for _, reading := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			h := &Handler{CloseTimeout: 3 * time.Second}
			_, s := connectPipe(t, h)
			if reading {
				go s.Read(context.Background())
			}
			begin := time.Now()
			err := closeAndWait(s, CloseNormalClosure, "")
			if !errors.Is(err, os.ErrDeadlineExceeded) || closeCode(s) != CloseAbnormalClosure || time.Since(begin) != 3*time.Second {
				t.Error(err, time.Since(begin))
			}
		})
	}
}

// TestReadHandsOverToClose has a message arrive for a reader while another goroutine closes, so that the close handshake
// has to take the reading side over.
func TestReadHandsOverToClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &Handler{}
		c, s := connectPipe(t, h)
		read := make(chan string)
		go func() {
			_, p, _ := s.Read(context.Background())
			read <- string(p)
		}()
		synctest.Wait()
		closed := make(chan error)
		go func() { closed <- closeAndWait(s, 4000, "") }()
		synctest.Wait()
		c.WriteMessage(websocket.TextMessage, []byte("last"))
		if got := <-read; got != "last" {
			t.Errorf("read %q", got)
		}
		go c.ReadMessage() // answers the close frame
		if err := <-closed; err != nil {
			t.Error(err)
		}
	})
}

func TestReadWhileClosing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &Handler{}
		c, s := connectPipe(t, h)
		go s.Close(4000, "")
		synctest.Wait()
		if s.State() != StateClosing || s.State().String() != "closing" {
			t.Error(s.State())
		}
		go c.ReadMessage()
		if _, _, err := s.Read(context.Background()); !errors.Is(err, ErrClosed) || closeCode(s) != 4000 {
			t.Error(err)
		}
	})
}

func TestAbort(t *testing.T) {
	h := closeHandler(t, &Handler{})
	c, s := connectTCP(t, h)
	read := make(chan error)
	go func() { _, _, err := s.Read(context.Background()); read <- err }()
	s.Abort()
	if err := <-read; !errors.Is(err, ErrClosed) || closeCode(s) != CloseAbnormalClosure || s.State() != StateClosed {
		t.Error(err)
	}
	if _, _, err := c.ReadMessage(); !websocket.IsCloseError(err, 1006) {
		t.Error(err)
	}
	s.Abort()
	if st := h.Stats(); st.Closed[CloseAbnormalClosure] != 1 {
		t.Errorf("stats %+v", st)
	}
}

// A code that may not be sent is an error, and ends the socket all the same: a program that passes codes on leaks nothing.
func TestCodesThatMayNotBeSent(t *testing.T) {
	for _, code := range []CloseCode{-1, 0, 999, 1004, 1006, 1015, 1016, 2999, 5000, 70000} {
		synctest.Test(t, func(t *testing.T) {
			h := &Handler{}
			c, s := connectPipe(t, h)
			answered := make(chan error)
			go func() {
				_, _, err := c.ReadMessage()
				answered <- err
			}()
			if err := s.Close(code, "reason"); err == nil || s.State() == StateOpen {
				t.Errorf("code %v: %v, %v", code, err, s.State())
			}
			if err := <-answered; !websocket.IsCloseError(err, 1011) {
				t.Errorf("code %v: the client got %v", code, err)
			}
			<-s.Done()
		})
	}
}

// What a browser's close() without arguments sends can be passed on.
func TestCloseWithoutACode(t *testing.T) {
	h := closeHandler(t, &Handler{})
	conn := dialTCP(t, serveRaw(t, h))
	_, br := ask(t, conn, handshakeRequest())
	s := accept(t, h)
	if err := s.Close(CloseNoStatusReceived, "not sent"); err != nil {
		t.Error(err)
	}
	var b [2]byte
	if _, err := io.ReadFull(br, b[:]); err != nil || string(b[:]) != "\x88\x00" {
		t.Errorf("%x %v", b, err)
	}
	conn.Write(wstest.Masked(0x88, ""))
	<-s.Done()
	if end := s.end(); end.Code != CloseNoStatusReceived || end.Err != nil {
		t.Error(end)
	}
}

func TestCloseNeverWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, s := connectPipe(t, &Handler{})
		begin := time.Now()
		s.Close(CloseNormalClosure, "")
		s.Close(CloseNormalClosure, "again")
		if time.Since(begin) != 0 || s.State() != StateClosing {
			t.Error(time.Since(begin), s.State())
		}
		<-s.Done() // CloseTimeout
		if err := s.Err(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
	})
}

func TestReasonsAreCutAtARune(t *testing.T) {
	for _, reason := range []string{strings.Repeat("a", 123), strings.Repeat("a", 124), strings.Repeat("é", 62), "a" + strings.Repeat("🙂", 31), "bad \xff byte"} {
		got := cutReason(reason)
		if len(got) > 123 || len(got) < min(len(reason), 120) || !utf8.ValidString(got) {
			t.Errorf("%q becomes %q", reason, got)
		}
	}
}

func TestCloseCodeStrings(t *testing.T) {
	for code, want := range map[CloseCode]string{1000: "1000 (normal closure)", 4000: "4000", 1015: "1015 (TLS handshake failed)"} {
		if got := code.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	err := &CloseError{Code: 1006, Reason: "why", Err: io.EOF}
	if got := err.Error(); got != "foyer: socket closed: 1006 (abnormal closure): why: EOF" {
		t.Error(got)
	}
}

// TestCloseFrameSurvivesUnreadInput has a client that breaks a rule and goes on sending: it must see the close frame and
// not a reset.
func TestCloseFrameSurvivesUnreadInput(t *testing.T) {
	h := closeHandler(t, &Handler{})
	conn := dialTCP(t, serveRaw(t, h))
	_, br := ask(t, conn, handshakeRequest())
	s := accept(t, h)
	go s.Read(context.Background())
	conn.Write([]byte{0x83, 0x80, 0, 0, 0, 0}) // a reserved opcode
	for range 20 {
		conn.Write(wstest.Masked(0x82, strings.Repeat("x", 10000)))
	}
	var b [4]byte
	if _, err := io.ReadFull(br, b[:]); err != nil || b[0] != 0x88 || binary.BigEndian.Uint16(b[2:]) != 1002 {
		t.Fatalf("%x %v", b, err)
	}
	if _, err := io.Copy(io.Discard, br); err != nil {
		t.Errorf("after the close frame: %v", err)
	}
	<-s.Done()
}

// TestEverySocketEndsOnce ends sockets from all sides at the same time.
func TestEverySocketEndsOnce(t *testing.T) {
	h := closeHandler(t, &Handler{MaxPending: -1, CloseTimeout: 200 * time.Millisecond})
	const n = 200
	var ends sync.WaitGroup
	for range n {
		ours, theirs := net.Pipe()
		go h.HandleConnection(theirs)
		ask(t, ours, handshakeRequest())
		s := accept(t, h)
		go io.Copy(io.Discard, ours)
		for _, end := range []func(){
			func() { ours.Close() },
			func() { s.Close(CloseNormalClosure, "") },
			func() { s.Abort() },
			func() { s.Read(context.Background()) },
			func() { s.beginClose(CloseGoingAway, "") },
		} {
			ends.Go(end)
		}
	}
	ends.Wait()
	total := uint64(0)
	for _, count := range h.Stats().Closed {
		total += count
	}
	if total != n {
		t.Errorf("%d ends of %d sockets", total, n)
	}
	eventually(t, "all to be gone", func() bool { return h.Stats().Open == 0 })
}

// TestViolatorsAreCutOff has clients that break a rule and then stay: nothing of them remains.
func TestViolatorsAreCutOff(t *testing.T) {
	h := closeHandler(t, &Handler{MaxPending: -1})
	go h.ForEach(t.Context(), echo)
	addr := serveRaw(t, h)
	for range 50 {
		conn := dialTCP(t, addr)
		ask(t, conn, handshakeRequest())
		conn.Write([]byte{0xff, 0x80, 0, 0, 0, 0})
	}
	eventually(t, "all to be gone", func() bool { st := h.Stats(); return st.Open == 0 && st.Closed[CloseProtocolError] == 50 })
}
