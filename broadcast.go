package foyer

import (
	"iter"

	"github.com/gorilla/websocket"
)

// Broadcast posts p as one message to each of sockets, encoded once for all of them. It never waits: a socket that
// cannot take the message at once, because it is closed or its write buffer is full, counts as dropped.
func Broadcast(sockets iter.Seq[*Socket], t MessageType, p []byte) (sent, dropped int) {
	prepared, err := websocket.NewPreparedMessage(int(t), p)
	for s := range sockets {
		if err == nil && s.post(t, p, prepared) == nil {
			sent++
		} else {
			dropped++
		}
	}
	return sent, dropped
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
