package rooms

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/foyerws/foyer"
)

// Events serves a room as Server-Sent Events (the EventSource of browsers), for clients that cannot have a WebSocket. They
// get what members get, from the same ring, and only listen. The id of each event is a [Position]: a client that comes back
// sends the last one as Last-Event-ID, and gets what it has missed. The parameter history in the URL asks for that many
// messages at the beginning; HistoryMessages at most.
//
// room returns the name of the room for a request, or an error; then the client gets 403. It must check whether the client
// may listen: OnJoin is not called. Streams count for MaxMembers, and not for presence. Binary messages are sent in base64,
// as events of the type "binary". A client that does not read for 30 seconds is cut off.
func (h *Hub) Events(room func(*http.Request) (string, error)) http.Handler {
	h.init()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "The method is GET.", http.StatusMethodNotAllowed)
			return
		}
		name, err := room(r)
		if err != nil {
			forbid(w, err)
			return
		}
		since, err := ParsePosition(r.Header.Get("Last-Event-ID"))
		if err != nil {
			http.Error(w, "Last-Event-ID is malformed.", http.StatusBadRequest)
			return
		}
		o := JoinOptions{Since: since}
		fmt.Sscan(r.URL.Query().Get("history"), &o.History)
		opened, err := h.open(r.Context(), name)
		if err != nil {
			httpError(w, h.refused(err))
			return
		}
		defer h.release(opened)
		if err := opened.stream(w, r, o); err != nil {
			httpError(w, h.refused(err))
		}
	})
}

// How long a client of a stream may take to read, and how long a stream may be silent. Proxies cut connections that are.
const (
	streamTimeout   = 30 * time.Second
	streamKeepalive = 15 * time.Second
)

// stream serves Events until the request ends. An error means that nothing was written.
func (r *room) stream(w http.ResponseWriter, request *http.Request, o JoinOptions) error {
	earlier, err := r.earlier(request.Context(), o)
	if err != nil {
		return err
	}
	m := &Member{room: r, slow: Skip} // which is only a place in the ring here
	wake := make(chan struct{}, 1)
	r.mu.Lock()
	if len(r.members)+len(r.streams) >= r.hub.set.members {
		r.mu.Unlock()
		return fmt.Errorf("%w members", ErrFull)
	}
	m.begin(o, earlier)
	if r.streams == nil {
		r.streams = make(map[chan struct{}]bool)
	}
	r.streams[wake] = true
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.streams, wake)
	}()

	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no") // nginx would collect events
	control := http.NewResponseController(w)
	keepalive := time.NewTicker(streamKeepalive)
	defer keepalive.Stop()
	if request.Method == http.MethodHead {
		return nil
	}
	if m.cursor.Load() == m.arrived { // a client that hears nothing comes back to here
		fmt.Fprintf(w, "id: %s\n\n", m.last)
	}
	for {
		for more := true; more; {
			var events []byte
			events, more = m.events()
			control.SetWriteDeadline(time.Now().Add(streamTimeout))
			if _, err := w.Write(events); err != nil {
				return nil
			}
		}
		if control.Flush() != nil {
			return nil
		}
		select {
		case <-wake:
		case <-keepalive.C:
			fmt.Fprint(w, ":\n\n")
		case <-r.hub.whenClosed():
			return nil
		case <-request.Context().Done():
			return nil
		}
	}
}

// events returns the next events of a stream, and whether there may be more.
func (m *Member) events() (events []byte, more bool) {
	var b bytes.Buffer
	m.mu.Lock()
	backlog, catching := m.backlog, m.catching
	m.backlog = nil
	var messages []*foyer.Prepared
	var steps []step
	ok := !catching
	if ok {
		var next uint64
		messages, next, _, ok = m.room.ring.read(nil, m.cursor.Load(), ^uint64(0), m.arrived, m.seen, 64, &steps)
		if len(steps) > 0 {
			next = steps[len(steps)-1].next
		}
		m.cursor.Store(next)
	}
	m.mu.Unlock()
	for _, p := range backlog {
		writeEvent(&b, p.message, p.position)
	}
	for i, p := range messages {
		writeEvent(&b, p, steps[i].position)
	}
	if !ok && !(catching && m.resync()) {
		m.skip()
	}
	return b.Bytes(), !ok || len(messages) == 64
}

// writeEvent writes a message as an event. The position is "" for one that has none; clients keep the last one then.
func writeEvent(b *bytes.Buffer, m *foyer.Prepared, position Position) {
	data := string(m.Payload())
	if m.Type() == foyer.Binary {
		b.WriteString("event: binary\n")
		data = base64.StdEncoding.EncodeToString(m.Payload())
	}
	if position != (Position{}) {
		fmt.Fprintf(b, "id: %s\n", position)
	}
	for line := range strings.SplitSeq(strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(data), "\n") {
		fmt.Fprintf(b, "data: %s\n", line)
	}
	b.WriteByte('\n')
}

// wakeStreams tells the streams that there is something.
func (r *room) wakeStreams() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for wake := range r.streams {
		select {
		case wake <- struct{}{}:
		default:
		}
	}
}

// PublishHandler publishes the body of each POST in a room, and answers with its position: {"position":"k3Jw-17"}. A body
// whose Content-Type is JSON or text is a text message and must be UTF-8; any other is a binary one. It may have up to
// HistoryBytes.
//
// room returns the name of the room for a request, or an error; then the client gets 403. It must check whether the client
// may publish: OnMessage and PublishRate are for members.
func (h *Hub) PublishHandler(room func(*http.Request) (string, error)) http.Handler {
	h.init()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			w.Header().Set("Allow", "POST")
			http.Error(w, "The method is POST.", http.StatusMethodNotAllowed)
			return
		}
		name, err := room(r)
		if err != nil {
			forbid(w, err)
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, int64(h.set.bytes)))
		if err != nil {
			var big *http.MaxBytesError
			if errors.As(err, &big) {
				err = ErrTooBig
			}
			httpError(w, h.refused(err))
			return
		}
		t := messageType(r.Header.Get("Content-Type"))
		if t == foyer.Text && !utf8.Valid(body) {
			http.Error(w, "The text is not UTF-8.", http.StatusBadRequest)
			return
		}
		position, err := h.Room(name).Publish(r.Context(), t, body)
		if err != nil {
			httpError(w, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(map[string]string{"position": position.String()})
	})
}

// messageType returns the type of a message with a Content-Type.
func messageType(contentType string) foyer.MessageType {
	mediaType, _, _ := mime.ParseMediaType(contentType)
	if strings.HasPrefix(mediaType, "text/") || mediaType == "application/json" || strings.HasSuffix(mediaType, "+json") {
		return foyer.Text
	}
	return foyer.Binary
}

// forbid answers with 403, and with the reason of a *Refusal.
func forbid(w http.ResponseWriter, err error) {
	reason := "refused"
	var refusal *Refusal
	if errors.As(err, &refusal) {
		reason = refusal.Reason
	}
	http.Error(w, reason, http.StatusForbidden)
}

// httpError answers with the status for an error of a Hub.
func httpError(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	switch {
	case errors.Is(err, ErrName):
		status = http.StatusBadRequest
	case errors.Is(err, ErrTooBig):
		status = http.StatusRequestEntityTooLarge
	case errors.Is(err, ErrFull), errors.Is(err, ErrUnavailable), errors.Is(err, ErrClosed), errors.Is(err, context.DeadlineExceeded):
		status = http.StatusServiceUnavailable
	}
	http.Error(w, http.StatusText(status), status)
}
