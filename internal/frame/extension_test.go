package frame

import (
	"strings"
	"testing"
)

func TestAccept(t *testing.T) {
	both := "; server_no_context_takeover; client_no_context_takeover"
	for _, test := range []struct{ offer, answer, alone string }{ // with and without takeover; "" for nothing acceptable
		{"permessage-deflate", "", both},
		{"permessage-deflate; client_max_window_bits", "; client_max_window_bits=12", both},
		{"permessage-deflate; client_max_window_bits=10", "; client_max_window_bits=10", both + "; client_max_window_bits=10"},
		{`permessage-deflate; client_max_window_bits="10"`, "; client_max_window_bits=10", both + "; client_max_window_bits=10"},
		{"permessage-deflate; server_max_window_bits=15", "; server_max_window_bits=15", both + "; server_max_window_bits=15"},
		{"permessage-deflate; server_max_window_bits=9", "; server_max_window_bits=9", both + "; server_max_window_bits=9"},
		{"permessage-deflate; server_no_context_takeover", "; server_no_context_takeover", both},
		{"permessage-deflate; client_no_context_takeover", "; client_no_context_takeover", both},
		{"permessage-deflate; client_no_context_takeover; client_max_window_bits", "; client_no_context_takeover", both},
		{"permessage-deflate; server_no_context_takeover; client_no_context_takeover", both, both},
		{"x-other, permessage-deflate", "", both},
		{"permessage-deflate; server_max_window_bits=16, permessage-deflate; server_no_context_takeover", "; server_no_context_takeover", both},
		{"permessage-deflate ; client_max_window_bits\t; server_max_window_bits = 11", "; server_max_window_bits=11; client_max_window_bits=12", both + "; server_max_window_bits=11"},
	} {
		for takeover, want := range map[bool]string{true: test.answer, false: test.alone} {
			agreed, answer, ok := Accept([]string{test.offer}, takeover)
			if !ok || answer != "permessage-deflate"+want {
				t.Errorf("%q, takeover %v: %q, want %q", test.offer, takeover, answer, want)
			}
			if takeover != (agreed.Server.Takeover || agreed.Client.Takeover) && want != both {
				t.Errorf("%q, takeover %v: %+v", test.offer, takeover, agreed)
			}
			// A client that has offered that understands the answer.
			if strings.Contains(test.offer, "client_max_window_bits") || agreed.Client.Bits == maxBits {
				if theirs, err := Agree(answer, true); err != nil || theirs != agreed {
					t.Errorf("%q: %+v, %v, want %+v", answer, theirs, err, agreed)
				}
			}
		}
	}
	for _, offer := range []string{
		"permessage-deflate; client_max_window_bits=7", "permessage-deflate; client_max_window_bits=16", "permessage-deflate; client_max_window_bits=",
		"permessage-deflate; server_max_window_bits", "permessage-deflate; server_max_window_bits=08", "permessage-deflate; server_max_window_bits=9; server_max_window_bits=9",
		"permessage-deflate; client_no_context_takeover=1", "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
		"permessage-deflate; unknown", "permessage-deflate;", "x-permessage-deflate", "",
	} {
		if _, answer, ok := Accept([]string{offer}, true); ok {
			t.Errorf("%q: %q", offer, answer)
		}
	}
}

func TestAgree(t *testing.T) {
	for _, test := range []struct {
		answer         string
		takeover       bool
		server, client Direction
		fails          bool
	}{
		{answer: "permessage-deflate", takeover: true, server: Direction{true, 15}, client: Direction{true, 15}},
		{answer: "permessage-deflate", server: Direction{true, 15}, client: Direction{false, 15}}, // aiohttp and tornado answer so
		{answer: "permessage-deflate; server_no_context_takeover", takeover: true, server: Direction{false, 15}, client: Direction{true, 15}},
		{answer: "permessage-deflate; client_no_context_takeover", takeover: true, server: Direction{true, 15}, client: Direction{false, 15}},
		{answer: "permessage-deflate; server_max_window_bits=9; client_max_window_bits=10", takeover: true, server: Direction{true, 9}, client: Direction{true, 10}},
		{answer: "permessage-deflate; client_max_window_bits=10", server: Direction{true, 15}, client: Direction{false, 10}},
		{answer: "permessage-deflate; client_max_window_bits", takeover: true, fails: true},
		{answer: "permessage-deflate, permessage-deflate", takeover: true, fails: true},
		{answer: "x-webkit-deflate-frame", takeover: true, fails: true},
	} {
		agreed, err := Agree(test.answer, test.takeover)
		if (err != nil) != test.fails || err == nil && agreed != (Agreement{test.server, test.client}) {
			t.Errorf("%q: %+v, %v", test.answer, agreed, err)
		}
	}
}

func TestMemory(t *testing.T) {
	for offer, want := range map[string]int64{
		"permessage-deflate":                                                         4<<10 + 32<<10,
		"permessage-deflate; client_max_window_bits":                                 4<<10 + 4<<10,
		"permessage-deflate; client_max_window_bits=9; server_max_window_bits=9":     1 << 10,
		"permessage-deflate; server_no_context_takeover":                             32 << 10,
		"permessage-deflate; server_no_context_takeover; client_no_context_takeover": 0,
	} {
		agreed, _, _ := Accept([]string{offer}, true)
		if got := agreed.Memory(true); got != want {
			t.Errorf("%q: %d bytes, want %d", offer, got, want)
		}
	}
	if got := (Agreement{Server: Direction{true, 15}, Client: Direction{true, 9}}).Memory(false); got != 32<<10+512 {
		t.Errorf("a client: %d bytes", got)
	}
}
