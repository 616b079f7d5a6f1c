package frame

import (
	"errors"
	"strconv"
	"strings"
)

// An Agreement is what two ends have agreed on for permessage-deflate, RFC 7692 section 7.1.
type Agreement struct {
	Server Direction // what the server sends
	Client Direction // what the client sends
}

// A Direction is how one end compresses.
type Direction struct {
	Takeover bool // messages may refer to those before them
	Bits     int  // the window has 2^Bits bytes: 8 to 15
}

// maxBits is the size of DEFLATE's largest window.
const maxBits = 15

// keptBits is the window that a server asks clients for when it has to keep it for each of them: 4 KiB.
const keptBits = 12

const extensionName = "permessage-deflate"

// Offer returns what a client puts into Sec-WebSocket-Extensions. Some servers refuse who cannot do with any window.
func Offer(takeover bool) string {
	if takeover {
		return extensionName + "; client_max_window_bits"
	}
	return extensionName + "; server_no_context_takeover; client_no_context_takeover; client_max_window_bits"
}

// Accept chooses the first of a client's offers that a server can accept, and returns what it agrees to and says in its answer.
// Without takeover it agrees to none in either direction. It reports false when nothing acceptable was offered.
func Accept(offers []string, takeover bool) (a Agreement, answer string, ok bool) {
	for _, list := range offers {
		for offer := range strings.SplitSeq(list, ",") {
			p, ok := parseExtension(offer)
			if !ok {
				continue
			}
			a, answer = p.accept(takeover)
			return a, answer, true
		}
	}
	return Agreement{}, "", false
}

// accept returns what a server agrees to when it was offered p.
func (p *parameters) accept(takeover bool) (a Agreement, answer string) {
	a.Server = Direction{Takeover: takeover && !p.serverNoTakeover, Bits: p.serverBits}
	a.Client = Direction{Takeover: takeover && !p.clientNoTakeover, Bits: p.clientBits}
	if p.clientBitsGiven && a.Client.Takeover {
		a.Client.Bits = min(a.Client.Bits, keptBits)
	}
	var b strings.Builder
	b.WriteString(extensionName)
	if !a.Server.Takeover {
		b.WriteString("; server_no_context_takeover")
	}
	if !a.Client.Takeover {
		b.WriteString("; client_no_context_takeover")
	}
	if p.serverBitsGiven {
		b.WriteString("; server_max_window_bits=" + strconv.Itoa(a.Server.Bits))
	}
	if a.Client.Bits < maxBits {
		b.WriteString("; client_max_window_bits=" + strconv.Itoa(a.Client.Bits))
	}
	return a, b.String()
}

var errAnswer = errors.New("permessage-deflate with parameters that are malformed or were not offered (RFC 7692 section 7.1)")

// Agree returns what a client has agreed to with a server that answered its [Offer] so. It may compress without takeover though the server
// does not ask for that.
func Agree(answer string, takeover bool) (Agreement, error) {
	p, ok := parseExtension(answer)
	if !ok || p.clientBitsAny {
		return Agreement{}, errAnswer
	}
	return Agreement{
		Server: Direction{Takeover: !p.serverNoTakeover, Bits: p.serverBits},
		Client: Direction{Takeover: takeover && !p.clientNoTakeover, Bits: p.clientBits},
	}, nil
}

// Parameters are those of permessage-deflate.
type parameters struct {
	serverNoTakeover, clientNoTakeover bool
	serverBits, clientBits             int // 15 where nothing is said
	serverBitsGiven, clientBitsGiven   bool
	clientBitsAny                      bool // client_max_window_bits without a value
}

// parseExtension parses an offer or an answer, and reports false where it is of another extension or malformed.
func parseExtension(s string) (p parameters, ok bool) {
	name, rest, more := strings.Cut(s, ";")
	if strings.Trim(name, " \t") != extensionName {
		return p, false
	}
	p.serverBits, p.clientBits = maxBits, maxBits
	for more {
		var param string
		param, rest, more = strings.Cut(rest, ";")
		key, value, hasValue := strings.Cut(param, "=")
		if !p.set(strings.Trim(key, " \t"), strings.Trim(value, " \t"), hasValue) {
			return p, false
		}
	}
	return p, true
}

// set takes in one parameter. Each may be there once.
func (p *parameters) set(key, value string, hasValue bool) bool {
	once := func(given *bool) bool {
		first := !*given
		*given = true
		return first
	}
	switch key {
	case "server_no_context_takeover":
		return once(&p.serverNoTakeover) && !hasValue
	case "client_no_context_takeover":
		return once(&p.clientNoTakeover) && !hasValue
	case "server_max_window_bits":
		return once(&p.serverBitsGiven) && parseBits(value, &p.serverBits)
	case "client_max_window_bits":
		p.clientBitsAny = !hasValue
		return once(&p.clientBitsGiven) && (!hasValue || parseBits(value, &p.clientBits))
	}
	return false
}

// parseBits parses the size of a window, which may be quoted: 8 to 15, without leading zeros.
func parseBits(s string, bits *int) bool {
	if len(s) > 2 && s[0] == '"' && s[len(s)-1] == '"' {
		s = s[1 : len(s)-1]
	}
	switch s {
	case "8", "9", "10", "11", "12", "13", "14", "15":
		*bits, _ = strconv.Atoi(s)
		return true
	}
	return false
}
