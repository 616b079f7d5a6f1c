//go:build linux

package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"net"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// streams keeps a message in flight on each of several sockets of each of n HTTP/2 connections.
func (l *load) streams(n, sockets int) (result, error) {
	send, want := l.frames(1, 128)
	dial := func(int) (net.Conn, *bufio.Reader, error) {
		s, err := newSession(l.addr())
		if err != nil {
			return nil, nil, err
		}
		return s, nil, s.openAll(sockets, send)
	}
	r, err := l.each(n, dial, func(s net.Conn, _ *bufio.Reader) error { return s.(*session).echo(send, want) })
	r.P99 = 0 // an echo was not waited for alone
	return r, err
}

// A session is an HTTP/2 connection with sockets on it.
type session struct {
	net.Conn
	in         *bufio.Reader
	out        *bufio.Writer
	framer     *http2.Framer
	head       bytes.Buffer
	encoder    *hpack.Encoder    // into head
	opened     uint32            // streams
	came       map[uint32][]byte // of the echo under way on each stream
	unreturned uint32            // bytes of flow control
}

// window is how much the server may send before it hears from us.
const window = 1 << 30

func newSession(addr string) (*session, error) {
	conn, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		return nil, err
	}
	s := &session{Conn: conn, in: bufio.NewReader(conn), out: bufio.NewWriter(conn), came: make(map[uint32][]byte)}
	s.framer = http2.NewFramer(s.out, s.in)
	s.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	s.framer.SetReuseFrames()
	s.encoder = hpack.NewEncoder(&s.head)
	s.out.WriteString(http2.ClientPreface)
	s.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: window})
	s.framer.WriteWindowUpdate(0, window)
	return s, nil
}

// open asks for a socket, and returns its stream.
func (s *session) open() uint32 {
	s.head.Reset()
	for _, f := range []hpack.HeaderField{
		{Name: ":method", Value: "CONNECT"}, {Name: ":protocol", Value: "websocket"}, {Name: ":scheme", Value: "https"},
		{Name: ":path", Value: "/"}, {Name: ":authority", Value: s.RemoteAddr().String()}, {Name: "sec-websocket-version", Value: "13"},
	} {
		s.encoder.WriteField(f)
	}
	id := 2*s.opened + 1
	s.opened++
	s.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: s.head.Bytes(), EndHeaders: true})
	return id
}

// openAll opens n sockets and sends on each.
func (s *session) openAll(n int, send []byte) error {
	for range n {
		s.open()
	}
	for opened := 0; opened < n; {
		f, err := s.next()
		if err != nil {
			return err
		}
		if answer, ok := f.(*http2.MetaHeadersFrame); ok {
			if answer.PseudoValue("status") != "200" {
				return fmt.Errorf("answer %v", answer)
			}
			s.framer.WriteData(answer.StreamID, false, send)
			opened++
		}
	}
	return nil
}

// next returns the next frame that is not about the connection itself.
func (s *session) next() (http2.Frame, error) {
	for {
		if s.in.Buffered() == 0 {
			if err := s.out.Flush(); err != nil {
				return nil, err
			}
		}
		f, err := s.framer.ReadFrame()
		if err != nil {
			return nil, err
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				s.framer.WriteSettingsAck()
			}
		case *http2.PingFrame:
			s.framer.WritePing(true, f.Data)
		case *http2.DataFrame, *http2.MetaHeadersFrame, *http2.RSTStreamFrame:
			return f, nil
		case *http2.GoAwayFrame:
			return nil, fmt.Errorf("the server says %v", f)
		}
	}
}

// echo waits for an echo on any of the streams and sends the next message there.
func (s *session) echo(send, want []byte) error {
	for {
		f, err := s.next()
		if err != nil {
			return err
		}
		data, ok := f.(*http2.DataFrame)
		if !ok || data.StreamEnded() {
			return fmt.Errorf("the server says %v", f)
		}
		s.giveBack(uint32(len(data.Data())))
		came := append(s.came[data.StreamID], data.Data()...)
		if len(came) < len(want) {
			s.came[data.StreamID] = came
			continue
		}
		if !bytes.Equal(came, want) {
			return errEcho
		}
		s.came[data.StreamID] = came[:0]
		return s.framer.WriteData(data.StreamID, false, send)
	}
}

// giveBack returns flow control of the connection. That of a stream lasts for the bench.
func (s *session) giveBack(n uint32) {
	if s.unreturned += n; s.unreturned > window/2 {
		s.framer.WriteWindowUpdate(0, s.unreturned)
		s.unreturned = 0
	}
}
