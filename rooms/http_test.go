package rooms

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/foyerws/foyer"

	"github.com/go-chi/chi/v5"
)

// serveHTTP serves a hub's Events and PublishHandler behind chi.
func serveHTTP(t *testing.T, hub *Hub) string {
	room := func(r *http.Request) (string, error) {
		switch name := chi.URLParam(r, "room"); name {
		case "secret":
			return "", &Refusal{"members only"}
		case "broken":
			return "", errors.New("the database is away")
		default:
			return name, nil
		}
	}
	router := chi.NewRouter()
	router.Method("GET", "/rooms/{room}/events", hub.Events(room))
	router.Method("POST", "/rooms/{room}", hub.PublishHandler(room))
	srv := httptest.NewServer(router)
	t.Cleanup(func() {
		hub.Shutdown(t.Context())
		srv.Close()
	})
	return srv.URL + "/rooms/"
}

// listen opens a stream, and returns a function that reads the lines of the next event.
func listen(t *testing.T, url, last string) (next func() []string) {
	t.Helper()
	r, _ := http.NewRequestWithContext(t.Context(), "GET", url, nil)
	if last != "" {
		r.Header.Set("Last-Event-ID", last)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil || resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatal(resp, err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	return func() (event []string) {
		defer time.AfterFunc(20*time.Second, func() { resp.Body.Close() }).Stop()
		for lines.Scan() {
			switch line := lines.Text(); {
			case line == "" && len(event) > 1: // one that is only an id reaches no program
				return event
			case line == "":
				event = nil
			case line != "" && line[0] != ':':
				event = append(event, line)
			}
		}
		return []string{"the end"}
	}
}

func TestEvents(t *testing.T) {
	var hub Hub
	url := serveHTTP(t, &hub)
	room := hub.Room("attic")
	first, _ := room.Publish(t.Context(), foyer.Text, []byte("before"))
	next := listen(t, url+"attic/events", "")
	var last Position
	for _, m := range []string{"hello", "two\nlines", "a\rb\r\nc", ""} {
		last, _ = room.Publish(t.Context(), foyer.Text, []byte(m))
		want := []string{"id: " + last.String()}
		for _, line := range strings.FieldsFunc(m+" ", func(r rune) bool { return r == '\n' || r == '\r' }) {
			want = append(want, "data: "+line)
		}
		want[len(want)-1] = strings.TrimSuffix(want[len(want)-1], " ")
		if m == "" {
			want[1] = "data: "
		}
		if got := next(); !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
	binary, _ := room.Publish(t.Context(), foyer.Binary, []byte{0xff})
	if got := next(); !slices.Equal(got, []string{"event: binary", "id: " + binary.String(), "data: /w=="}) {
		t.Errorf("%q", got)
	}
	back := listen(t, url+"attic/events", first.String()) // a page that was reloaded
	for i := range 5 {
		if got := back()[0]; i < 4 && got != fmt.Sprintf("id: %s-%d", first.Epoch, i+2) {
			t.Errorf("%q", got)
		}
	}
	recent := listen(t, url+"attic/events?history=2", "")
	if got := recent(); got[0] != "id: "+last.String() {
		t.Errorf("%q", got)
	}
	if err := hub.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if got := next(); got[0] != "the end" {
		t.Errorf("%q", got)
	}
}

// TestEventsOfASlowClient have a gap.
func TestEventsOfASlowClient(t *testing.T) {
	hub := Hub{Encode: JSON}
	url := serveHTTP(t, &hub)
	next := listen(t, url+"x/events", "")
	next() // welcome
	flood(t, hub.Room("x"), 300)
	var missed, got uint64
	for got+missed < 300 {
		event := next()
		var e event1
		if err := json.Unmarshal([]byte(strings.TrimPrefix(event[len(event)-1], "data: ")), &e); err != nil {
			t.Fatalf("%.100q after %d and %d missed", event, got, missed)
		}
		if missed += e.Missed; e.Type == "message" {
			got++
		}
	}
	if missed == 0 {
		t.Error("no gap")
	}
}

// event1 is as much of an event as is needed here.
type event1 struct {
	Type   string
	Missed uint64
}

func TestPublishHandler(t *testing.T) {
	hub := Hub{HistoryBytes: 1000, Encode: JSON}
	url := serveHTTP(t, &hub)
	next := listen(t, url+"x/events", "")
	next()
	for _, test := range []struct {
		method, path, contentType, body string
		status                          int
		data                            string
	}{
		{"POST", "x", "application/json; charset=utf-8", `{"a":1}`, 200, `"data":{"a":1}`},
		{"POST", "x", "text/plain", "hällo", 200, `"data":"hällo"`},
		{"POST", "x", "", "\xff", 200, `"base64":"/w=="`},
		{"POST", "x", "text/plain", "\xff", 400, ""},
		{"POST", "x", "", strings.Repeat("x", 1001), 413, ""},
		{"POST", "x", "", strings.Repeat("x", 900), 413, ""},
		{"POST", "secret", "", "", 403, "members only"},
		{"POST", "broken", "", "", 403, "refused"},
		{"POST", "a%0Ab", "", "", 400, ""},
		{"GET", "x", "", "", 405, ""},
	} {
		r, _ := http.NewRequest(test.method, url+test.path, strings.NewReader(test.body))
		r.Header.Set("Content-Type", test.contentType)
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != test.status || test.status == 403 && string(b) != test.data+"\n" {
			t.Errorf("%+v: %v %q", test, resp.Status, b)
		}
		if test.status != 200 {
			continue
		}
		var answer struct{ Position string }
		json.Unmarshal(b, &answer)
		if got := next(); len(got) != 2 || got[0] != "id: "+answer.Position || !strings.Contains(got[1], test.data) {
			t.Errorf("%q, answer %q", got, b)
		}
	}
	for path, status := range map[string]int{"secret/events": 403, strings.Repeat("x", 200) + "/events": 400} {
		if resp, err := http.Get(url + path); err != nil || resp.StatusCode != status {
			t.Error(path, resp, err)
		}
	}
	r, _ := http.NewRequest("GET", url+"x/events", nil)
	r.Header.Set("Last-Event-ID", "nonsense")
	if resp, err := http.DefaultClient.Do(r); err != nil || resp.StatusCode != 400 {
		t.Error(resp, err)
	}
}
