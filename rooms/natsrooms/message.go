package natsrooms

import (
	"encoding/json"
	"iter"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"

	"github.com/foyerws/foyer"
	"github.com/foyerws/foyer/rooms"
)

// escape makes a token of a subject from the name of a room. url.QueryUnescape is the reverse.
func escape(room string) string { return strings.ReplaceAll(url.QueryEscape(room), ".", "%2E") }

// The headers of messages.
const (
	aboutHeader    = "Foyer-Message"
	idHeader       = "Nats-Msg-Id"
	sequenceHeader = "Nats-Sequence"
	lastHeader     = "Nats-Last-Sequence"
	timeHeader     = "Nats-Time-Stamp"
	subjectHeader  = "Nats-Subject"
	pendingHeader  = "Nats-Num-Pending"
	statusHeader   = "Status"
)

// about is what a message has besides its data, as JSON in a header. A message without it, from another program, is a text.
type about struct {
	Binary   bool      `json:"binary,omitempty"`
	Key      string    `json:"key,omitempty"`
	Info     string    `json:"info,omitempty"`
	Replaces string    `json:"replaces,omitempty"`
	Node     string    `json:"node,omitempty"` // the process that has sent it, where that matters
	Time     time.Time `json:"time,omitzero"`  // where no stream gives it one
}

// encode makes a message for NATS.
func encode(subject string, m *rooms.Message, node string) *nats.Msg {
	a := about{Binary: m.Type == foyer.Binary, Key: m.Key, Info: m.Info, Replaces: m.Replaces, Node: node}
	if node != "" {
		a.Time = m.Time
	}
	header, _ := json.Marshal(a)
	return &nats.Msg{Subject: subject, Data: m.Data, Header: nats.Header{aboutHeader: {string(header)}}}
}

// decode makes a message for a room. What does not fit it gets defaults: NATS may have messages of other programs.
func decode(room string, msg *nats.Msg) (m *rooms.Message, node string) {
	var a about
	json.Unmarshal([]byte(msg.Header.Get(aboutHeader)), &a) // which makes valid UTF-8 of strings
	m = &rooms.Message{Room: room, Type: foyer.Text, Data: msg.Data, Key: a.Key, Info: a.Info, Replaces: a.Replaces, Time: a.Time}
	if a.Binary || !utf8.Valid(msg.Data) { // clients would close their connections
		m.Type = foyer.Binary
	}
	if m.Data == nil {
		m.Data = []byte{}
	}
	if t, err := time.Parse(time.RFC3339Nano, msg.Header.Get(timeHeader)); err == nil {
		m.Time = t
	}
	if m.Time.IsZero() {
		m.Time = time.Now()
	}
	return m, a.Node
}

// number returns the number in a header, and 0 if there is none.
func number(msg *nats.Msg, header string) uint64 {
	n, _ := strconv.ParseUint(msg.Header.Get(header), 10, 64)
	return n
}

// maxPart is about how many bytes of JSON a message to other processes or to the stream has at most. A server takes 1 MiB by default.
const maxPart = 128 << 10

// parts returns items in parts of which none is much longer than maxPart.
func parts[T any](items []T, size func(T) int) iter.Seq[[]T] {
	return func(yield func([]T) bool) {
		begin, sum := 0, 0
		for i := range items {
			if sum += size(items[i]); sum > maxPart && i > begin {
				if !yield(items[begin:i]) {
					return
				}
				begin, sum = i, size(items[i])
			}
		}
		if begin < len(items) {
			yield(items[begin:])
		}
	}
}

// sizeOfName is about how many bytes the name of a room has in JSON.
func sizeOfName(name string) int { return len(name) + 8 }
