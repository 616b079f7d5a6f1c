package natsrooms

import (
	"encoding/json"
	"net/url"
	"strconv"
	"strings"
	"time"

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
	Node     string    `json:"node,omitempty"` // who has sent it, where that matters
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
	json.Unmarshal([]byte(msg.Header.Get(aboutHeader)), &a)
	m = &rooms.Message{Room: room, Type: foyer.Text, Data: msg.Data, Key: a.Key, Info: a.Info, Replaces: a.Replaces, Time: a.Time}
	if a.Binary {
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
