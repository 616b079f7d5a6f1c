//go:build linux

package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"embed"
	"net"
	"net/http"
	"sync"

	"github.com/coder/websocket"
	"github.com/gobwas/ws"
	gorilla "github.com/gorilla/websocket"
	"github.com/lxzan/gws"
	"github.com/olahol/melody"
)

//go:embed qt/echo.cpp
var qtSource embed.FS

// A room is the connections at /broadcast, with the function that sends to one.
type room[C comparable] struct {
	mu    sync.Mutex
	conns map[C]struct{}
}

func (r *room[C]) join(c C) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conns == nil {
		r.conns = make(map[C]struct{})
	}
	r.conns[c] = struct{}{}
}

func (r *room[C]) leave(c C) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, c)
}

func (r *room[C]) each(f func(C)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.conns {
		f(c)
	}
}

func anyOrigin(*http.Request) bool { return true }

func serveGorilla(o options) error {
	return gorillaWith(o, gorilla.Upgrader{CheckOrigin: anyOrigin, EnableCompression: o.deflate}, func(f func()) { f() })
}

// serveGorillaTuned keeps small buffers, and lets go of net/http's goroutine and its.
func serveGorillaTuned(o options) error {
	return gorillaWith(o, gorilla.Upgrader{CheckOrigin: anyOrigin, EnableCompression: o.deflate,
		ReadBufferSize: 512, WriteBufferSize: 1024, WriteBufferPool: &sync.Pool{}}, func(f func()) { go f() })
}

func gorillaWith(o options, u gorilla.Upgrader, run func(func())) error {
	var all room[*gorilla.Conn]
	return serveHTTP(o, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := u.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		broadcast := r.URL.Path == "/broadcast"
		run(func() { echoGorilla(c, broadcast, &all) })
	}))
}

func echoGorilla(c *gorilla.Conn, broadcast bool, all *room[*gorilla.Conn]) {
	defer c.Close()
	if broadcast {
		all.join(c)
		defer all.leave(c)
	}
	for {
		t, p, err := c.ReadMessage()
		if err != nil {
			return
		}
		if broadcast {
			prepared, err := gorilla.NewPreparedMessage(t, p)
			if err != nil {
				return
			}
			all.each(func(c *gorilla.Conn) { c.WritePreparedMessage(prepared) })
		} else if c.WriteMessage(t, p) != nil {
			return
		}
	}
}

func serveCoder(o options) error {
	accept := &websocket.AcceptOptions{InsecureSkipVerify: true}
	if o.deflate {
		accept.CompressionMode = websocket.CompressionNoContextTakeover
		accept.CompressionThreshold = 1
	}
	var all room[*websocket.Conn]
	return serveHTTP(o, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, accept)
		if err != nil {
			return
		}
		defer c.CloseNow()
		c.SetReadLimit(1 << 20)
		broadcast := r.URL.Path == "/broadcast"
		if broadcast {
			all.join(c)
			defer all.leave(c)
		}
		ctx := context.Background()
		for {
			t, p, err := c.Read(ctx)
			if err != nil {
				return
			}
			if broadcast {
				all.each(func(c *websocket.Conn) { c.Write(ctx, t, p) })
			} else if c.Write(ctx, t, p) != nil {
				return
			}
		}
	}))
}

func serveGWS(o options) error {
	option := &gws.ServerOption{
		Authorize: func(r *http.Request, session gws.SessionStorage) bool {
			session.Store("broadcast", r.URL.Path == "/broadcast")
			return true
		},
		TlsConfig: o.tls,
	}
	if o.deflate {
		option.PermessageDeflate = gws.PermessageDeflate{Enabled: true, Threshold: 1}
	}
	u := gws.NewUpgrader(&gwsHandler{}, option)
	return serveHTTP(o, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := u.Upgrade(w, r)
		if err != nil {
			return
		}
		go c.ReadLoop()
	}))
}

type gwsHandler struct {
	gws.BuiltinEventHandler
	all room[*gws.Conn]
}

func isBroadcast(c *gws.Conn) bool {
	b, _ := c.Session().Load("broadcast")
	return b == true
}

func (h *gwsHandler) OnOpen(c *gws.Conn) {
	if isBroadcast(c) {
		h.all.join(c)
	}
}

func (h *gwsHandler) OnClose(c *gws.Conn, err error) { h.all.leave(c) }

func (h *gwsHandler) OnMessage(c *gws.Conn, m *gws.Message) {
	defer m.Close()
	if !isBroadcast(c) {
		c.WriteMessage(m.Opcode, m.Bytes())
		return
	}
	b := gws.NewBroadcaster(m.Opcode, m.Bytes())
	defer b.Close()
	h.all.each(func(c *gws.Conn) { b.Broadcast(c) })
}

func serveMelody(o options) error {
	m := melody.New()
	m.Config.MaxMessageSize = 1 << 20
	m.Upgrader.CheckOrigin = anyOrigin
	isBroadcast := func(s *melody.Session) bool { return s.Request.URL.Path == "/broadcast" }
	m.HandleMessage(func(s *melody.Session, p []byte) {
		if isBroadcast(s) {
			m.BroadcastFilter(p, isBroadcast)
			return
		}
		s.Write(p)
	})
	m.HandleMessageBinary(func(s *melody.Session, p []byte) { s.WriteBinary(p) })
	return serveHTTP(o, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { m.HandleRequest(w, r) }))
}

// serveGobwas is what one builds on gobwas/ws: a goroutine a connection, buffers of its own, a flush when the input is
// used up.
func serveGobwas(o options) error {
	var all room[*gobwasConn]
	l, err := o.listen()
	if err != nil {
		return err
	}
	if o.tls != nil {
		l = tls.NewListener(l, o.tls)
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go serveGobwasConn(conn, &all)
	}
}

type gobwasConn struct {
	mu sync.Mutex
	w  *bufio.Writer
}

func serveGobwasConn(conn net.Conn, all *room[*gobwasConn]) {
	defer conn.Close()
	broadcast := false
	u := ws.Upgrader{OnRequest: func(uri []byte) error {
		broadcast = string(uri) == "/broadcast"
		return nil
	}}
	if _, err := u.Upgrade(conn); err != nil {
		return
	}
	in := bufio.NewReaderSize(conn, 512)
	c := &gobwasConn{w: bufio.NewWriterSize(conn, 512)}
	if broadcast {
		all.join(c)
		defer all.leave(c)
	}
	for {
		f, err := ws.ReadFrame(in)
		if err != nil || f.Header.OpCode.IsControl() {
			return
		}
		f = ws.UnmaskFrameInPlace(f)
		if broadcast {
			compiled, err := ws.CompileFrame(ws.NewFrame(f.Header.OpCode, true, f.Payload))
			if err != nil {
				return
			}
			all.each(func(c *gobwasConn) {
				c.mu.Lock()
				defer c.mu.Unlock()
				c.w.Write(compiled)
				c.w.Flush()
			})
			continue
		}
		if ws.WriteFrame(c.w, ws.NewFrame(f.Header.OpCode, true, f.Payload)) != nil {
			return
		}
		if in.Buffered() == 0 && c.w.Flush() != nil {
			return
		}
	}
}
