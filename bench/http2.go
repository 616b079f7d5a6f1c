//go:build linux

package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"net"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// streams keeps a message in flight on each of several sockets of each of n HTTP/2 connections.
func (l *load) streams(n, sockets int) (result, error) {
	send, want := l.frames(1, 128)
	dial := func(int) (net.Conn, *bufio.Reader, error) {
		s, err := newSession(l.addr(), sockets, send, want)
		return s, nil, err
	}
	r, err := l.each(n, dial, func(s net.Conn, _ *bufio.Reader) error { return s.(*session).echo() })
	r.P99 = 0 // an echo was not waited for alone
	return r, err
}

// A session is an HTTP/2 connection with sockets on it.
type session struct {
	net.Conn
	in         *bufio.Reader
	out        *bufio.Writer
	framer     *http2.Framer
	send, want []byte
	came       map[uint32][]byte // of the echo under way on each stream
	unreturned uint32            // bytes of flow control
}

// window is how much the server may send before it hears from us.
const window = 1 << 30

func newSession(addr string, sockets int, send, want []byte) (*session, error) {
	conn, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		return nil, err
	}
	s := &session{Conn: conn, in: bufio.NewReader(conn), out: bufio.NewWriter(conn), send: send, want: want, came: make(map[uint32][]byte)}
	s.framer = http2.NewFramer(s.out, s.in)
	s.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	s.framer.SetReuseFrames()
	s.out.WriteString(http2.ClientPreface)
	s.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: window})
	s.framer.WriteWindowUpdate(0, window)
	var head bytes.Buffer
	encoder := hpack.NewEncoder(&head)
	for i := range sockets {
		head.Reset()
		for _, f := range []hpack.HeaderField{
			{Name: ":method", Value: "CONNECT"}, {Name: ":protocol", Value: "websocket"}, {Name: ":scheme", Value: "https"},
			{Name: ":path", Value: "/"}, {Name: ":authority", Value: addr}, {Name: "sec-websocket-version", Value: "13"},
		} {
			encoder.WriteField(f)
		}
		s.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*i + 1), BlockFragment: head.Bytes(), EndHeaders: true})
	}
	for opened := 0; opened < sockets; {
		f, err := s.next()
		if err != nil {
			return nil, err
		}
		if answer, ok := f.(*http2.MetaHeadersFrame); ok {
			if answer.PseudoValue("status") != "200" {
				return nil, fmt.Errorf("answer %v", answer)
			}
			s.framer.WriteData(answer.StreamID, false, send)
			opened++
		}
	}
	return s, nil
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
		case *http2.DataFrame, *http2.MetaHeadersFrame:
			return f, nil
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return nil, fmt.Errorf("the server says %v", f)
		}
	}
}

// echo waits for an echo on any of the streams and sends the next message there.
func (s *session) echo() error {
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
		if len(came) < len(s.want) {
			s.came[data.StreamID] = came
			continue
		}
		if !bytes.Equal(came, s.want) {
			return errors.New("the echo differs")
		}
		s.came[data.StreamID] = came[:0]
		return s.framer.WriteData(data.StreamID, false, s.send)
	}
}

// giveBack returns flow control of the connection. That of a stream lasts for the bench.
func (s *session) giveBack(n uint32) {
	if s.unreturned += n; s.unreturned > window/2 {
		s.framer.WriteWindowUpdate(0, s.unreturned)
		s.unreturned = 0
	}
}
