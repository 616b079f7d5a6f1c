package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/foyerws/foyer"
	"github.com/foyerws/foyer/rooms"
)

func TestCheck(t *testing.T) {
	for sent, want := range map[string]string{
		`{"text":" hello "}`:                    `{"text":"hello"}`,
		`{"text":"<b>","more":1}`:               `{"text":"\u003cb\u003e"}`,
		`{"typing":true}`:                       `transient {"typing":true}`,
		`{"text":"hi","typing":true}`:           `{"text":"hi","typing":true}`,
		`{"text":"  "}`:                         "the message is empty",
		`hello`:                                 "malformed message",
		`{"text":1}`:                            "malformed message",
		`{"text":"` + strings.Repeat("x", 2001): "malformed message",
		`{"text":"` + strings.Repeat("x", 2001) + `"}`: "the message is too long",
	} {
		m := &rooms.Message{Type: foyer.Binary, Data: []byte(sent)}
		err := check(t.Context(), nil, m)
		got := string(m.Data)
		if m.Transient {
			got = "transient " + got
		}
		if err != nil {
			got = err.(*rooms.Refusal).Reason
		}
		if got != want || err == nil && (m.Type != foyer.Text || !json.Valid(m.Data)) {
			t.Errorf("%.40s: %q, want %q", sent, got, want)
		}
	}
}
