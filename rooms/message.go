package rooms

import (
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/foyerws/foyer"
)

// A Position is a place in the history of a room: that of a message. Offsets grow from message to message, not always by
// one. If the epochs of two positions differ, history was lost between them, and their offsets cannot be compared.
type Position struct {
	Epoch  string
	Offset uint64
}

// String returns the form that ParsePosition understands: the epoch, a hyphen, and the offset. That of the zero Position
// is "".
func (p Position) String() string {
	if p == (Position{}) {
		return ""
	}
	return p.Epoch + "-" + strconv.FormatUint(p.Offset, 10)
}

// before reports whether p is an earlier position than q, of those that can be compared.
func (p Position) before(q Position) bool { return p.Epoch == q.Epoch && p.Offset < q.Offset }

// ParsePosition is the reverse of String. Clients send it, so anything may come.
func ParsePosition(s string) (Position, error) {
	if s == "" {
		return Position{}, nil
	}
	i := strings.LastIndexByte(s, '-')
	if i <= 0 || len(s) > 100 {
		return Position{}, errPosition
	}
	offset, err := strconv.ParseUint(s[i+1:], 10, 64)
	if err != nil {
		return Position{}, errPosition
	}
	return Position{s[:i], offset}, nil
}

var errPosition = errors.New("rooms: malformed position")

// A Kind says what a Message is.
type Kind int

// The kinds of messages. Only published ones have a place in the history of a room.
const (
	Published Kind = iota // by a member, or with Room.Publish
	Joined                // the first member with this key has joined
	Left                  // the last member with this key has left
	Welcome               // for a member alone: it has joined
	Gap                   // for a member alone: it was too slow, and has missed messages
	Refused               // for a member alone: what it has sent was not published
)

var kindNames = [...]string{"message", "joined", "left", "welcome", "gap", "refused"}

// String returns the name that [JSON] uses.
func (k Kind) String() string {
	if k < 0 || int(k) >= len(kindNames) {
		return "invalid kind"
	}
	return kindNames[k]
}

// A Message is what members of a room get.
type Message struct {
	Kind Kind
	Room string

	// Position is that of a published message. Of a Welcome and a Gap it is the position after which the member goes on.
	Position Position

	// Time is when the message was published.
	Time time.Time

	// Key and Info are those of the member that has published, joined or left. Key is empty for members without a key,
	// and for Room.Publish.
	Key  string
	Info string

	// Type and Data are what was published. Data must not be changed.
	Type foyer.MessageType
	Data []byte

	// Replaces is the subject of the message, for members with the policy Conflate: of the messages with one subject they
	// need only the last.
	Replaces string

	// Transient says that the message is only for the members of the moment: it has no place in the history, and Position is that of
	// the message before it. "Is typing" is such a message.
	Transient bool

	// Recovered says, in a Welcome, that the member gets everything that was published after JoinOptions.Since.
	Recovered bool

	// Missed says, in a Gap, how many published messages the member will not get; at least one. With Conflate, messages that are
	// replaced after the Gap was made are not counted.
	Missed uint64

	// Reason says, in a Refused, why.
	Reason string
}

// Raw sends the data of published messages as they are, and nothing else. It is what Hub.Encode does if it is nil.
func Raw(m *Message) (foyer.MessageType, []byte) {
	if m.Kind != Published {
		return 0, nil
	}
	return m.Type, m.Data
}

// JSON is for Hub.Encode: it sends each message as a text of JSON, with all that a client needs to come back without loss.
//
//	{"type":"message","room":"attic","position":"k3Jw-17","time":"2026-01-02T15:04:05.123Z","key":"alice","data":"hello"}
//	{"type":"welcome","room":"attic","position":"k3Jw-17","recovered":true}
//	{"type":"joined","room":"attic","key":"alice","info":"Alice"}
//	{"type":"gap","room":"attic","position":"k3Jw-90","missed":12}
//	{"type":"refused","room":"attic","reason":"too fast"}
//
// Data that is JSON itself stands there as JSON, without its white space; other text is a string; binary data is a string in base64, under the
// name "base64".
func JSON(m *Message) (foyer.MessageType, []byte) {
	e := struct {
		Type      string          `json:"type"`
		Room      string          `json:"room"`
		Position  string          `json:"position,omitempty"`
		Time      *time.Time      `json:"time,omitempty"`
		Key       string          `json:"key,omitempty"`
		Info      string          `json:"info,omitempty"`
		Data      json.RawMessage `json:"data,omitempty"`
		Base64    *[]byte         `json:"base64,omitempty"`
		Transient bool            `json:"transient,omitempty"`
		Recovered *bool           `json:"recovered,omitempty"`
		Missed    uint64          `json:"missed,omitempty"`
		Reason    string          `json:"reason,omitempty"`
	}{Type: m.Kind.String(), Room: m.Room, Position: m.Position.String(), Key: m.Key, Info: m.Info, Transient: m.Transient, Missed: m.Missed, Reason: m.Reason}
	switch m.Kind {
	case Published:
		now := m.Time.UTC().Truncate(time.Millisecond)
		e.Time = &now
		switch {
		case m.Type == foyer.Binary:
			e.Base64 = &m.Data
		case json.Valid(m.Data):
			e.Data = m.Data
		case utf8.Valid(m.Data):
			e.Data, _ = json.Marshal(string(m.Data))
		}
	case Welcome:
		e.Recovered = &m.Recovered
	}
	b, err := json.Marshal(e)
	if err != nil {
		return 0, nil // json.Valid lets nothing through that Marshal does not
	}
	return foyer.Text, b
}
