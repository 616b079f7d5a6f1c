package main

import (
	"context"
	"io"
	"net"
	"testing"

	"github.com/foyerws/foyer"
	"github.com/foyerws/foyer/foyertest"
	"github.com/foyerws/foyer/internal/crowd"
)

func TestClientAddress(t *testing.T) {
	for _, test := range []struct {
		name, balancers, header, want string
	}{
		{"believed", "127.0.0.1", "PROXY TCP4 192.0.2.1 192.0.2.2 1234 80\r\n", "192.0.2.1:1234"},
		{"not believed", "192.0.2.9", "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			l, err := listen("127.0.0.1:0", []string{test.balancers})
			if err != nil {
				t.Fatal(err)
			}
			s := &foyer.Server{Handler: newHandler()}
			go s.Serve(l)
			defer s.Close()
			var local string
			c := foyertest.Dial(t, "ws://"+l.Addr().String(), &foyer.DialOptions{NetDial: func(ctx context.Context, network, addr string) (net.Conn, error) {
				conn, err := new(net.Dialer).DialContext(ctx, network, addr)
				if err == nil {
					local = conn.LocalAddr().String()
					_, err = io.WriteString(conn, test.header)
				}
				return conn, err
			}})
			want := test.want
			if want == "" {
				want = local
			}
			if _, p, err := c.Read(t.Context()); err != nil || string(p) != want {
				t.Errorf("%q instead of %q, %v", p, want, err)
			}
		})
	}
}

func TestLiarsAreTurnedAway(t *testing.T) {
	l, err := listen("127.0.0.1:0", []string{"192.0.2.9"})
	if err != nil {
		t.Fatal(err)
	}
	s := &foyer.Server{Handler: newHandler()}
	go s.Serve(l)
	defer s.Close()
	_, _, err = foyer.Dial(t.Context(), "ws://"+l.Addr().String(), &foyer.DialOptions{NetDial: func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err == nil {
			_, err = io.WriteString(conn, "PROXY TCP4 192.0.2.1 192.0.2.2 1234 80\r\n")
		}
		return conn, err
	}})
	if err == nil {
		t.Error("the header was believed")
	}
}

func TestCrowd(t *testing.T) {
	l, err := listen("127.0.0.1:0", []string{"192.0.2.9"})
	if err != nil {
		t.Fatal(err)
	}
	s := &foyer.Server{Handler: newHandler()}
	go s.Serve(l)
	defer s.Close()
	crowd.Come(t, "ws://"+l.Addr().String(), nil, func(ctx context.Context, s *foyer.Socket) error {
		return crowd.Hear(ctx, s, s.LocalAddr().String())
	})
}
