package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/foyerws/foyer"
	"github.com/foyerws/foyer/foyertest"
	"github.com/foyerws/foyer/internal/syncbuf"
)

func serve(t *testing.T) *foyertest.Server {
	h := &foyer.Handler{
		Origins:      foyer.AllowOrigins("https://example.com"),
		Subprotocols: []string{"b"},
		Authorize: func(r *http.Request) (http.Header, error) {
			if r.Header.Get("X-User") != "alice" {
				return nil, errors.New("who?")
			}
			return nil, nil
		},
	}
	go h.ForEach(context.Background(), func(ctx context.Context, s *foyer.Socket) {
		for {
			t, p, err := s.Read(ctx)
			if err != nil || s.Write(ctx, t, p) != nil {
				return
			}
		}
	})
	return foyertest.NewServer(t, h)
}

func TestClient(t *testing.T) {
	srv := serve(t)
	in, typed := io.Pipe()
	var out syncbuf.Buffer
	done := make(chan error, 1)
	go func() {
		done <- run(t.Context(), []string{"-H", "X-User: alice", "-origin", "https://example.com", "-subprotocol", "a,b", "-insecure", "-frames", "-compression", srv.SecureURL}, in, &out)
	}()
	for _, line := range []string{"hello", "/binary 0001ff", "/binary x", "/ping are you there", "/close 99"} {
		io.WriteString(typed, line+"\n")
	}
	for range 1000 {
		if strings.Contains(out.String(), "0001ff\n") && strings.Contains(out.String(), "pong after") {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	io.WriteString(typed, "/close 4000 bye\n")
	err := <-done
	var end *foyer.CloseError
	if !errors.As(err, &end) || end.Code != 4000 {
		t.Error(err)
	}
	for _, want := range []string{
		`^connected to 127\.0\.0\.1:\d+, subprotocol "b"\n`, `frame of text, 5 bytes, last true\n`, `text, 5 bytes: "hello"\n`,
		`binary, 3 bytes: 0001ff\n`, `invalid byte`, `pong after [0-9.µmn]+s: "are you there"\n`, `a close code is`, `closed: 4000`,
	} {
		if !regexp.MustCompile(want).MatchString(out.String()) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

func TestClientIsRefused(t *testing.T) {
	srv := serve(t)
	var out bytes.Buffer
	if err := run(t.Context(), []string{srv.URL}, strings.NewReader(""), &out); err == nil || !strings.Contains(out.String(), "403 Forbidden") {
		t.Error(err, out.String())
	}
	if err := run(t.Context(), nil, strings.NewReader(""), &out); err == nil || !strings.Contains(err.Error(), "usage") {
		t.Error(err)
	}
}

func TestClientAtTheEndOfInput(t *testing.T) {
	srv := serve(t)
	var out bytes.Buffer
	if err := run(t.Context(), []string{"-H", "X-User: alice", "-ping", "1ms", srv.URL}, strings.NewReader("last line\n"), &out); err != nil || !strings.Contains(out.String(), "closed: 1000") {
		t.Error(err, out.String())
	}
}
