package foyer

import (
	"iter"

	"github.com/gorilla/websocket"
)

// A Dropped is a socket that a message was not sent to, and why.
type Dropped struct {
	Socket *Socket
	Err    error // ErrWriteBufferFull, ErrWriterOpen, ErrMessageTooBig, or ErrClosed for a socket that closes or has ended
}

// Broadcast sends p as one message to each of sockets, encoded once for all of them, as [Socket.TryWrite] does: it never
// waits. It returns the sockets that could not take the message, nil if all could. p is the caller's again when Broadcast
// returns.
//
// What to do about a client that reads too slowly is for the program to say. It may miss a message, or be disconnected; its
// close frame stands behind all that waits, and if it takes longer than CloseTimeout for that it sees CloseAbnormalClosure.
//
//	for _, d := range foyer.Broadcast(h.Sockets(), foyer.Text, news) {
//		d.Socket.Close(foyer.CloseTryAgainLater, "too slow")
//	}
func Broadcast(sockets iter.Seq[*Socket], t MessageType, p []byte) []Dropped {
	var dropped []Dropped
	prepared, err := websocket.NewPreparedMessage(int(t), p)
	if err != nil {
		err = errBadMessageType
	}
	for s := range sockets {
		failed := err
		if failed == nil {
			failed = s.post(t, p, prepared)
		}
		if failed != nil {
			dropped = append(dropped, Dropped{s, failed})
		}
	}
	return dropped
}

// post posts a prepared message, of type t and with payload p.
func (s *Socket) post(t MessageType, p []byte, prepared *websocket.PreparedMessage) error {
	if s.config.frameSize > 0 {
		return s.TryWrite(t, p)
	}
	if err := s.lockWrite(background, t, len(p), false); err != nil {
		return err
	}
	s.wire.Hold()
	var err error
	if !s.compresses(len(p)) {
		err = encodePrepared(s.wire, prepared)
	} else {
		g := s.engine()
		g.EnableWriteCompression(true)
		err = g.WritePreparedMessage(prepared)
	}
	s.writeMu.Unlock()
	s.wire.ReleaseSoon()
	if err != nil {
		return s.writeError(err)
	}
	s.messagesOut.Add(1)
	return nil
}
