package foyer

import (
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"github.com/foyerws/foyer/internal/wire"
)

// An encoder is a gorilla Conn that belongs to no socket: it builds the frames of whole messages that a server sends
// uncompressed, one message for one socket after the other. A socket's own gorilla Conn would have to keep a buffer for
// it, or to take one from a pool for each message, which costs an allocation.
type encoder struct {
	mu      sync.Mutex // guards:
	gorilla *websocket.Conn
	to      *wire.Conn
	err     error // of to; gorilla is not told, or it would refuse to go on
}

// Encoders of short messages copy them. Those of long ones build the header and pass the payload on from where it lies.
// They are made here, and not in a sync.Pool, because the channel in each must not belong to a bubble of
// testing/synctest.
var shortEncoders, longEncoders = newEncoders(wire.LendSize), newEncoders(1)

// encoderCount is how many messages of a kind can be built at the same time. That takes a tenth of a microsecond or two.
const encoderCount = 8

func newEncoders(buffer int) (all [encoderCount]*encoder) {
	u := &websocket.Upgrader{ReadBufferSize: readBufferSize, WriteBufferSize: buffer, CheckOrigin: func(*http.Request) bool { return true }}
	for i := range all {
		e := new(encoder)
		g, err := gorillaOn(encoderConn{encoder: e}, u, anyKey, false, nil)
		if err != nil {
			panic("foyer: gorilla refuses its own handshake: " + err.Error())
		}
		e.gorilla = g
		all[i] = e
	}
	return all
}

// borrowEncoder returns an encoder that writes a message of this length to c. It must be given back.
func borrowEncoder(c *wire.Conn, size int) *encoder {
	all := &shortEncoders
	if size >= wire.LendSize {
		all = &longEncoders
	}
	for _, e := range all {
		if e.mu.TryLock() {
			e.to = c
			return e
		}
	}
	e := all[rand.IntN(len(all))]
	e.mu.Lock()
	e.to = c
	return e
}

// giveBack ends the use of an encoder. err is what gorilla has said.
func (e *encoder) giveBack(err error) error {
	if err == nil {
		err = e.err
	}
	e.to, e.err = nil, nil
	e.mu.Unlock()
	return err
}

// encode queues a message on c. The caller has the socket's writing side.
func encode(c *wire.Conn, t MessageType, p []byte) error {
	e := borrowEncoder(c, len(p))
	return e.giveBack(e.gorilla.WriteMessage(int(t), p))
}

// encodePrepared is encode for a message that was encoded before.
func encodePrepared(c *wire.Conn, prepared *websocket.PreparedMessage) error {
	e := borrowEncoder(c, 0)
	return e.giveBack(e.gorilla.WritePreparedMessage(prepared))
}

// encodeControl queues a ping or pong on c.
func encodeControl(c *wire.Conn, opcode int, payload []byte) error {
	e := borrowEncoder(c, 0)
	return e.giveBack(e.gorilla.WriteControl(opcode, payload, noDeadline))
}

// An encoderConn is the net.Conn that an encoder writes to.
type encoderConn struct {
	net.Conn // nil: nothing else is called
	encoder  *encoder
}

func (c encoderConn) Write(p []byte) (int, error) {
	if e := c.encoder; e.to != nil {
		e.err = e.to.Queue(p)
	}
	return len(p), nil
}

func (encoderConn) SetDeadline(time.Time) error      { return nil }
func (encoderConn) SetWriteDeadline(time.Time) error { return nil }

// newEngine returns a gorilla Conn on c, whose handshake is over.
func newEngine(c *wire.Conn, cfg *config, subprotocol string) *websocket.Conn {
	header := http.Header{}
	if subprotocol != "" {
		header["Sec-Websocket-Protocol"] = []string{subprotocol}
	}
	conn := &engineConn{Conn: c}
	g, err := gorillaOn(conn, cfg.upgrader, anyKey, false, header)
	if err != nil {
		panic("foyer: gorilla refuses its own handshake: " + err.Error())
	}
	conn.begun = true
	return g
}

// anyKey is a Sec-WebSocket-Key for handshakes that nobody sees.
var anyKey = []string{"AAAAAAAAAAAAAAAAAAAAAA=="}

// An engineConn is the Conn that a socket's gorilla Conn has. It leaves out the answer to a handshake that was answered
// before.
type engineConn struct {
	*wire.Conn
	begun bool
}

// Close is for programs that close through gorilla.
func (c *engineConn) Close() error { return c.HangUp() }

func (c *engineConn) Write(p []byte) (int, error) {
	if !c.begun {
		return len(p), nil
	}
	return c.Conn.Write(p)
}
