package qt

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/foyerws/foyer"
)

// A connection is that of one call of Open, or that of a server's socket.
type connection struct {
	w        *WebSocket
	cancel   context.CancelFunc // of the handshake; nil on a server
	socket   *foyer.Socket      // nil until the handshake has succeeded
	overflow atomic.Bool        // the peer reads too slowly
	began    sync.Once
	closed   bool          // the program has closed it; guarded by w.mu, as the following
	over     bool          // it has ended, and that was reported
	paused   chan struct{} // closed by Resume; nil while nothing is paused
	held     chan struct{} // closed by ContinueInterruptedHandshake; the same

	mu      sync.Mutex // guards:
	waiting int        // bytes that wait for slots
	room    sync.Cond  // there are fewer

	// Touched only by the functions of Events, which are called one at a time.
	character []byte // the beginning of one that the last frame of text has cut
	err       error  // what broke the connection
}

// defaultReadBuffer is how many bytes wait for slots where the program has set nothing.
const defaultReadBuffer = 1 << 20

// overhead is what something that waits for its slots takes, besides its payload.
const overhead = 128

// emit has f, which emits signals, called on the event loop. A panic of a slot ends the socket.
func (c *connection) emit(f func()) {
	application.post(func() {
		defer func() {
			if v := recover(); v != nil {
				logPanic(v)
				c.close(CloseCodeBadOperation, "")
			}
		}()
		f()
	})
}

// deliverOpen is deliver for what the program does not want any more once it has closed the socket.
func (c *connection) deliverOpen(n int, f func()) {
	c.deliver(n, func() {
		if c.w.State() == ConnectedState {
			f()
		}
	})
}

// deliver has f called on the event loop, unless the program has opened another connection by then. It waits while too
// many bytes wait for their slots; this one is about n.
func (c *connection) deliver(n int, f func()) {
	limit := int(c.w.ReadBufferSize())
	if limit <= 0 {
		limit = defaultReadBuffer
	}
	n += overhead
	c.mu.Lock()
	if c.room.L == nil {
		c.room.L = &c.mu
	}
	for c.waiting > 0 && c.waiting+n > limit {
		c.room.Wait()
	}
	c.waiting += n
	c.mu.Unlock()
	c.emit(func() {
		defer func() {
			c.mu.Lock()
			c.waiting -= n
			c.room.Broadcast()
			c.mu.Unlock()
		}()
		if field(c.w, &c.w.connection) == c {
			f()
		}
	})
}

// begin has the signals emitted for what comes.
func (c *connection) begin() {
	c.began.Do(func() {
		c.socket.Handle(foyer.Events{
			Message:      c.message,
			Frame:        c.frame,
			Pong:         c.pong,
			BytesWritten: c.written,
			StateChanged: func(_ *foyer.Socket, state foyer.State) {
				if state == foyer.StateClosing {
					c.deliver(0, c.closes)
				}
			},
			Error: func(_ *foyer.Socket, err error) { c.err = err },
			Closed: func(_ *foyer.Socket, code foyer.CloseCode, reason string) {
				err := c.err
				c.deliver(0, func() { c.ended(code, reason, err) })
			},
		})
	})
}

func (c *connection) message(_ *foyer.Socket, t foyer.MessageType, p []byte) {
	w := c.w
	if t == foyer.Text {
		m := string(p)
		c.deliverOpen(len(p), func() { w.TextMessageReceived.emit(func(slot func(string)) { slot(m) }) })
		return
	}
	m := append([]byte{}, p...)
	c.deliverOpen(len(p), func() { w.BinaryMessageReceived.emit(func(slot func([]byte)) { slot(m) }) })
}

func (c *connection) frame(_ *foyer.Socket, t foyer.MessageType, p []byte, last bool) {
	w := c.w
	if t == foyer.Binary {
		if w.BinaryFrameReceived.isConnected() {
			f := append([]byte{}, p...)
			c.deliverOpen(len(p), func() { w.BinaryFrameReceived.emit(func(slot func([]byte, bool)) { slot(f, last) }) })
		}
		return
	}
	if !w.TextFrameReceived.isConnected() {
		c.character = nil
		return
	}
	text := append(c.character, p...)
	whole := len(text) - unfinished(text)
	if last {
		whole = len(text)
	}
	c.character = append([]byte{}, text[whole:]...)
	f := string(text[:whole])
	c.deliverOpen(len(f), func() { w.TextFrameReceived.emit(func(slot func(string, bool)) { slot(f, last) }) })
}

// unfinished returns how many bytes at the end of text are the beginning of a character.
func unfinished(text []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(text); n++ {
		if rest := text[len(text)-n:]; utf8.RuneStart(rest[0]) {
			if utf8.FullRune(rest) {
				return 0
			}
			return n
		}
	}
	return 0
}

func (c *connection) pong(_ *foyer.Socket, _ time.Duration, payload []byte) {
	w := c.w
	elapsed := uint64(time.Since(field(w, &w.pinged)).Milliseconds())
	p := append([]byte{}, payload...)
	c.deliverOpen(len(p), func() { w.Pong.emit(func(slot func(uint64, []byte)) { slot(elapsed, p) }) })
}

func (c *connection) written(_ *foyer.Socket, n int) {
	w := c.w
	if w.BytesWritten.isConnected() {
		c.deliver(0, func() { w.BytesWritten.emit(func(slot func(int64)) { slot(int64(n)) }) })
	}
}

// closes is called on the event loop when the peer begins to close the connection.
func (c *connection) closes() {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	c.closing()
}

// closing leads to ClosingState. The caller has w.mu.
func (c *connection) closing() {
	w := c.w
	if w.state != ConnectedState {
		return
	}
	c.emit(func() { w.AboutToClose.emit(func(slot func()) { slot() }) })
	c.changeState(ClosingState)
}

// changeState changes the state, and has that reported. The caller has w.mu.
func (c *connection) changeState(state SocketState) {
	w := c.w
	w.state = state
	c.emit(func() { w.StateChanged.emit(func(slot func(SocketState)) { slot(state) }) })
}

// ended is called on the event loop when the connection has ended.
func (c *connection) ended(code foyer.CloseCode, reason string, err error) {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	c.end(code, reason, err)
}

// end is the end of a connection, however it comes. The caller has w.mu.
func (c *connection) end(code foyer.CloseCode, reason string, err error) {
	w := c.w
	if c.over {
		return
	}
	c.over = true
	c.closing()
	if !c.closed {
		w.closeCode, w.closeReason = code, reason
		if code == foyer.CloseNoStatusReceived {
			w.closeCode = CloseCodeNormal
		}
	}
	c.emit(func() { w.ReadChannelFinished.emit(func(slot func()) { slot() }) })
	switch {
	case c.overflow.Load():
		c.fail(SocketResourceError, "The peer reads too slowly")
	case code == foyer.CloseAbnormalClosure && err != nil && !c.closed:
		c.fail(lossOf(err))
	}
	c.changeState(UnconnectedState)
	c.emit(func() { w.Disconnected.emit(func(slot func()) { slot() }) })
}

// close is WebSocket.Close for a connection that may have been replaced.
func (c *connection) close(code CloseCode, reason string) {
	w := c.w
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.connection != c:
	case c.socket == nil:
		w.lose(c)
	case w.state == ConnectedState && c.socket.State() == foyer.StateOpen: // or else the peer was first, which will be reported
		c.closed = true
		w.closeCode, w.closeReason = code, cut(reason)
		c.closing()
		if c.socket.Close(code, w.closeReason) != nil {
			w.closeCode = CloseCodeBadOperation
		}
	}
}

// lossOf returns Qt's error and description for the error that broke a connection.
func lossOf(err error) (SocketError, string) {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return RemoteHostClosedError, "The remote host closed the connection"
	}
	return errorOf(err)
}

// fail records an error, and has it reported. The caller has w.mu.
func (c *connection) fail(kind SocketError, text string) {
	w := c.w
	w.err, w.errString = kind, text
	c.emit(func() { w.ErrorOccurred.emit(func(slot func(SocketError)) { slot(kind) }) })
}

// lose ends a connection whose handshake is under way, or that another call of Open replaces. The caller has w.mu.
func (w *WebSocket) lose(c *connection) {
	if c.cancel != nil {
		c.cancel()
	}
	c.over = true
	if c.socket != nil {
		c.closing()
		c.socket.Close(CloseCodeGoingAway, "Connection closed")
		go c.begin() // reads the answer
	}
	w.connection = nil
	if w.state != UnconnectedState {
		c.changeState(UnconnectedState)
		c.emit(func() { w.Disconnected.emit(func(slot func()) { slot() }) })
	}
}
