package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/foyerws/foyer"
	"github.com/foyerws/foyer/internal/crowd"
	"github.com/foyerws/foyer/internal/wstest"
)

// start serves for the time of a test.
func start(t *testing.T) *server {
	t.Helper()
	certified := httptest.NewTLSServer(nil)
	defer certified.Close()
	s, err := listen("127.0.0.1:0", certified.TLS.Certificates[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.shutdown(); err != nil {
			t.Error(err)
		}
	})
	return s
}

var insecure = &tls.Config{InsecureSkipVerify: true, NextProtos: []string{http3.NextProtoH3}}

// dialQUIC connects to s over HTTP/3.
func dialQUIC(t *testing.T, s *server) *http3.ClientConn {
	t.Helper()
	conn, err := quic.DialAddr(t.Context(), s.addr(), insecure, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.CloseWithError(0, "") })
	client := new(http3.Transport).NewClientConn(conn)
	select {
	case <-client.ReceivedSettings():
	case <-time.After(5 * time.Second):
		t.Fatal("no settings")
	}
	if !client.Settings().EnableExtendedConnect {
		t.Fatal("extended CONNECT is not announced")
	}
	return client
}

// open opens a socket.
func open(t *testing.T, client *http3.ClientConn, s *server, header http.Header) (*http3.RequestStream, *http.Response) {
	t.Helper()
	stream, err := client.OpenRequestStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	stream.SetDeadline(time.Now().Add(10 * time.Second))
	r := &http.Request{Method: http.MethodConnect, Proto: "websocket", Host: s.addr(), Header: header,
		URL: &url.URL{Scheme: "https", Host: s.addr(), Path: "/ws"}}
	if err := stream.SendRequestHeader(r); err != nil {
		t.Fatal(err)
	}
	resp, err := stream.ReadResponse()
	if err != nil {
		t.Fatal(err)
	}
	return stream, resp
}

var version = http.Header{"Sec-Websocket-Version": {"13"}}

// hear reads n frames of the server's.
func hear(t *testing.T, r io.Reader, n int) (heard []string) {
	t.Helper()
	for range n {
		head := make([]byte, 2)
		if _, err := io.ReadFull(r, head); err != nil {
			t.Fatal(err)
		}
		size := int(head[1])
		if long := map[int]int{126: 2, 127: 8}[size]; long > 0 {
			length := make([]byte, 8)
			io.ReadFull(r, length[8-long:])
			size = int(binary.BigEndian.Uint64(length))
		}
		p := make([]byte, size)
		if _, err := io.ReadFull(r, p); err != nil {
			t.Fatal(err)
		}
		heard = append(heard, fmt.Sprintf("%x %d %.20q", head[0], size, p))
	}
	return heard
}

func TestHTTP3(t *testing.T) {
	s := start(t)
	client := dialQUIC(t, s)
	var streams []*http3.RequestStream
	for range 5 {
		stream, resp := open(t, client, s, version)
		if resp.StatusCode != 200 {
			t.Fatal(resp)
		}
		streams = append(streams, stream)
	}
	for i, stream := range streams {
		small, large := fmt.Appendf(nil, "hello %d", i), bytes.Repeat([]byte("x"), 1<<20)
		go func() {
			stream.Write(wstest.Masked(0x81, string(small)))
			stream.Write(wstest.Masked(0x82, string(large)))
			stream.Write(wstest.Masked(0x89, "ping"))
			stream.Write(wstest.Masked(0x88, "\x0f\xa0bye"))
		}()
		want := []string{fmt.Sprintf("81 7 %q", small), fmt.Sprintf("82 1048576 %q", large[:20]), `8a 4 "ping"`, `88 2 "\x0f\xa0"`}
		if got := hear(t, stream, 4); strings.Join(got, ", ") != strings.Join(want, ", ") {
			t.Errorf("%q", got)
		}
		if rest, err := io.ReadAll(stream); err != nil || len(rest) > 0 {
			t.Errorf("%q, %v", rest, err)
		}
	}
	if st := s.sockets.Stats(); st.Upgraded != 5 || st.Closed[4000] != 5 || st.Open != 0 {
		t.Error(st)
	}
}

func TestHTTP3Refusals(t *testing.T) {
	s := start(t)
	client := dialQUIC(t, s)
	for want, header := range map[int]http.Header{
		426: {"Sec-Websocket-Version": {"8"}},
		403: {"Sec-Websocket-Version": {"13"}, "Origin": {"https://evil.example"}},
	} {
		if _, resp := open(t, client, s, header); resp.StatusCode != want {
			t.Error(resp)
		}
	}
}

// A client that vanishes, or only ends or resets its stream, ends its sockets.
func TestHTTP3Ends(t *testing.T) {
	s := start(t)
	for name, leave := range map[string]func(*http3.RequestStream, *http3.ClientConn){
		"end": func(stream *http3.RequestStream, _ *http3.ClientConn) { stream.Close() },
		"reset": func(stream *http3.RequestStream, _ *http3.ClientConn) {
			stream.CancelWrite(0x10c)
			stream.CancelRead(0x10c)
		},
		"vanish": func(_ *http3.RequestStream, client *http3.ClientConn) { client.CloseWithError(0, "") },
	} {
		t.Run(name, func(t *testing.T) {
			client := dialQUIC(t, s)
			stream, _ := open(t, client, s, version)
			stream.Write(wstest.Masked(0x81, "hello"))
			hear(t, stream, 1)
			leave(stream, client)
			for deadline := time.Now().Add(5 * time.Second); s.sockets.Stats().Open > 0; {
				if time.Now().After(deadline) {
					t.Fatal(s.sockets.Stats())
				}
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	if st := s.sockets.Stats(); st.Closed[foyer.CloseAbnormalClosure] != 3 {
		t.Error(st)
	}
}

// The program's Shutdown closes sockets with 1001 here, too; and one that nobody reads stays until then.
func TestHTTP3Shutdown(t *testing.T) {
	s := start(t)
	client := dialQUIC(t, s)
	stream, _ := open(t, client, s, version)
	done := make(chan []string)
	go func() { done <- hear(t, stream, 1); stream.Write(wstest.Masked(0x88, "\x03\xe9")) }()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	go s.sockets.Shutdown(ctx)
	if heard := <-done; heard[0] != `88 2 "\x03\xe9"` {
		t.Error(heard)
	}
}

// The same Handler is there over TCP.
func TestHTTP1(t *testing.T) {
	s := start(t)
	dial := func() (*foyer.Socket, *http.Response) {
		c, resp, err := foyer.Dial(t.Context(), "wss://"+s.addr()+"/ws", &foyer.DialOptions{TLSConfig: &tls.Config{InsecureSkipVerify: true}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Abort() })
		return c, resp
	}
	c, resp := dial()
	for range 100 { // the server for HTTP/3 may begin a moment later
		if strings.HasPrefix(resp.Header.Get("Alt-Svc"), "h3=") {
			break
		}
		time.Sleep(10 * time.Millisecond)
		c, resp = dial()
	}
	if !strings.HasPrefix(resp.Header.Get("Alt-Svc"), "h3=") {
		t.Error(resp.Header)
	}
	c.SendText(t.Context(), "hello")
	if _, p, err := c.Read(t.Context()); err != nil || string(p) != "hello" {
		t.Error(string(p), err)
	}
}

// Clients that speak neither HTTP/2 nor HTTP/3 come in as well, a hundred at once.
func TestCrowd(t *testing.T) {
	s := start(t)
	crowd.Come(t, "wss://"+s.addr()+"/ws", &foyer.DialOptions{TLSConfig: &tls.Config{InsecureSkipVerify: true}}, crowd.Echo(""))
}
