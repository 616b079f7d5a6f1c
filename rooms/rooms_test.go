package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/foyerws/foyer"
	"github.com/foyerws/foyer/foyertest"
)

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	os.Exit(m.Run())
}

// serve serves the rooms of a hub: the path is the name of the room, the query has key, since and history.
func serve(t testing.TB, hub *Hub) (url string) {
	t.Helper()
	h := &foyer.Handler{}
	if hub.Options == nil {
		hub.Options = func(s *foyer.Socket) JoinOptions {
			q := s.Request().URL.Query()
			since, _ := ParsePosition(q.Get("since"))
			history, _ := strconv.Atoi(q.Get("history"))
			return JoinOptions{Key: q.Get("key"), Info: q.Get("info"), Since: since, History: history}
		}
	}
	mux := http.NewServeMux()
	mux.Handle("/{room}", h)
	srv := httptest.NewServer(mux)
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.ForEach(context.Background(), func(ctx context.Context, s *foyer.Socket) {
			hub.Room(s.Request().PathValue("room")).Serve(ctx, s)
		})
	}()
	t.Cleanup(func() {
		h.Close()
		<-done
		srv.Close()
		hub.Shutdown(context.Background())
	})
	return "ws" + strings.TrimPrefix(srv.URL, "http")
}

// dial opens a client's socket.
func dial(t testing.TB, url string) *foyer.Socket {
	t.Helper()
	s, _, err := foyer.Dial(t.Context(), url, &foyer.DialOptions{MaxMessageSize: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Abort() })
	return s
}

// hear reads the next message.
func hear(t testing.TB, s *foyer.Socket) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, p, err := s.Read(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return string(p)
}

// eventually waits until ok is true.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not in time: " + what)
		}
	}
}

func members(hub *Hub, room string) int {
	n, _ := hub.Room(room).Count()
	return n
}

func TestServe(t *testing.T) {
	var hub Hub
	url := serve(t, &hub)
	a, b, other := dial(t, url+"/attic"), dial(t, url+"/attic"), dial(t, url+"/cellar")
	eventually(t, "members", func() bool { return members(&hub, "attic") == 2 && members(&hub, "cellar") == 1 })
	a.SendText(t.Context(), "hello")
	b.SendBinary(t.Context(), []byte{1, 2, 3})
	for _, s := range []*foyer.Socket{a, b} {
		got := []string{hear(t, s), hear(t, s)}
		if slices.Sort(got); !slices.Equal(got, []string{"\x01\x02\x03", "hello"}) {
			t.Errorf("%q", got)
		}
	}
	if _, err := hub.Room("cellar").Publish(t.Context(), foyer.Text, []byte("from the program")); err != nil {
		t.Error(err)
	}
	if got := hear(t, other); got != "from the program" {
		t.Errorf("%q", got)
	}
	if st := hub.Stats(); st.Rooms != 2 || st.Members != 3 || st.Published != 3 || st.Joined != 3 || st.HistoryBytes == 0 {
		t.Errorf("%+v", st)
	}
	a.Close(foyer.CloseNormalClosure, "")
	b.Abort()
	eventually(t, "all have left", func() bool { return members(&hub, "attic") == 0 })
}

func TestOrderIsTheSameForAll(t *testing.T) {
	const publishers, each = 8, 100
	hub := Hub{PublishRate: -1, HistoryMessages: 2 * publishers * each}
	url := serve(t, &hub)
	var sockets []*foyer.Socket
	for range publishers {
		sockets = append(sockets, dial(t, url+"/x"))
	}
	eventually(t, "members", func() bool { return members(&hub, "x") == publishers })
	for i, s := range sockets {
		go func() {
			for n := range each {
				s.SendText(t.Context(), fmt.Sprint(i, "-", n))
			}
		}()
	}
	heard := make([][]string, publishers)
	var wg sync.WaitGroup
	for i, s := range sockets {
		wg.Go(func() {
			for range publishers * each {
				heard[i] = append(heard[i], hear(t, s))
			}
		})
	}
	wg.Wait()
	for i := range heard {
		if !slices.Equal(heard[i], heard[0]) {
			t.Errorf("member %d has another order", i)
		}
	}
}

// A Write after Publish has returned leaves behind the message: to any socket if the program publishes, to its own if a member does.
func TestWriteBehindPublish(t *testing.T) {
	for name, publish := range map[string]func(r *Room, m *Member, p []byte){
		"room":   func(r *Room, m *Member, p []byte) { r.Publish(t.Context(), foyer.Text, p) },
		"member": func(r *Room, m *Member, p []byte) { m.Publish(t.Context(), foyer.Text, p) },
	} {
		hub := Hub{PublishRate: -1}
		client, server := foyertest.Pair(t, &foyer.Handler{})
		m, err := hub.Room("x").Join(t.Context(), server, JoinOptions{})
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for i := range 100 {
				publish(hub.Room("x"), m, fmt.Append(nil, "p", i))
				server.SendText(t.Context(), fmt.Sprint("w", i))
			}
		}()
		for i := range 100 {
			if p, w := hear(t, client), hear(t, client); p != fmt.Sprint("p", i) || w != fmt.Sprint("w", i) {
				t.Fatal(name, p, w)
			}
		}
	}
}

// event is what JSON sends.
type event struct {
	Type, Room, Position, Key, Info, Reason string
	Data                                    json.RawMessage
	Base64                                  []byte
	Recovered, Transient                    bool
	Missed                                  uint64
	Time                                    time.Time
}

func hearEvent(t testing.TB, s *foyer.Socket) (e event) {
	t.Helper()
	if err := json.Unmarshal([]byte(hear(t, s)), &e); err != nil {
		t.Fatal(err)
	}
	return e
}

func TestJSON(t *testing.T) {
	hub := Hub{Encode: JSON, OnMessage: func(_ context.Context, m *Member, message *Message) error {
		switch string(message.Data) {
		case "bad":
			return &Refusal{"bad word"}
		case "wrong":
			return errors.New("secret")
		}
		return nil
	}}
	url := serve(t, &hub)
	s := dial(t, url+"/attic?key=alice&info=Alice")
	if e := hearEvent(t, s); e.Type != "welcome" || e.Room != "attic" || e.Key != "alice" || e.Recovered || !strings.HasSuffix(e.Position, "-0") {
		t.Errorf("%+v", e)
	}
	if e := hearEvent(t, s); e.Type != "joined" || e.Key != "alice" || e.Info != "Alice" {
		t.Errorf("%+v", e)
	}
	for i, sent := range []string{"hello", `{"a":1}`, "<b>"} {
		s.SendText(t.Context(), sent)
		e := hearEvent(t, s)
		want := sent
		if i != 1 {
			b, _ := json.Marshal(sent)
			want = string(b)
		}
		if e.Type != "message" || string(e.Data) != want || e.Key != "alice" || e.Info != "Alice" || e.Time.IsZero() || !strings.HasSuffix(e.Position, fmt.Sprint("-", i+1)) {
			t.Errorf("%+v", e)
		}
	}
	s.SendBinary(t.Context(), []byte{0xff})
	if e := hearEvent(t, s); string(e.Base64) != "\xff" {
		t.Errorf("%+v", e)
	}
	for sent, reason := range map[string]string{"bad": "bad word", "wrong": "refused"} {
		s.SendText(t.Context(), sent)
		if e := hearEvent(t, s); e.Type != "refused" || e.Reason != reason {
			t.Errorf("%+v", e)
		}
	}
}

func TestPositions(t *testing.T) {
	for _, p := range []Position{{}, {"a", 0}, {"a-b", 17}, {"x", 1<<64 - 1}} {
		if got, err := ParsePosition(p.String()); err != nil || got != p {
			t.Errorf("%q: %v, %v", p.String(), got, err)
		}
	}
	for _, s := range []string{"x", "-", "-1", "a-", "a-x", "a-18446744073709551616", strings.Repeat("a", 200) + "-1"} {
		if p, err := ParsePosition(s); err == nil {
			t.Errorf("%q: %v", s, p)
		}
	}
}

// numbered is an Encode that sends positions.
func numbered(m *Message) (foyer.MessageType, []byte) {
	switch m.Kind {
	case Published:
		return foyer.Text, fmt.Append(nil, m.Position, " ", string(m.Data))
	case Welcome:
		return foyer.Text, fmt.Append(nil, m.Position, " welcome ", m.Recovered)
	case Gap:
		return foyer.Text, fmt.Append(nil, m.Position, " gap ", m.Missed)
	}
	return 0, nil
}

// TestComingBack has members that disconnect and come back at random while others publish: each gets everything, once, in
// order.
func TestComingBack(t *testing.T) {
	const publishers, each, comers = 4, 300, 20
	hub := Hub{Encode: numbered, HistoryMessages: publishers*each + 1, PublishRate: -1}
	url := serve(t, &hub)
	room := hub.Room("x")
	keeper := dial(t, url+"/x") // so that the room exists throughout
	first, _, _ := strings.Cut(hear(t, keeper), " ")
	var publishing, coming sync.WaitGroup
	var over atomic.Bool
	for range publishers {
		publishing.Go(func() {
			for i := range each {
				if _, err := room.Publish(t.Context(), foyer.Text, fmt.Append(nil, i)); err != nil {
					t.Error(err)
				}
				if i%10 == 0 {
					time.Sleep(time.Millisecond)
				}
			}
		})
	}
	for i := range comers {
		coming.Go(func() {
			position, _ := ParsePosition(first)
			for visit := 0; position.Offset < publishers*each; visit++ {
				s, _, err := foyer.Dial(t.Context(), url+"/x?since="+position.String(), nil)
				if err != nil {
					t.Error(err)
					return
				}
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				for n := -1; n < (i*7+visit*3)%23 || over.Load() && position.Offset < publishers*each; n++ {
					_, p, err := s.Read(ctx)
					if err != nil {
						t.Errorf("comer %d at %v: %v", i, position, err)
						over.Store(true)
						break
					}
					at, rest, _ := strings.Cut(string(p), " ")
					next, _ := ParsePosition(at)
					switch {
					case n == -1 && rest == "welcome true":
					case next.Epoch != position.Epoch || next.Offset != position.Offset+1:
						t.Errorf("comer %d: %q behind %v", i, p, position)
						position = next
					default:
						position = next
					}
				}
				cancel()
				s.Abort()
				if t.Failed() {
					return
				}
			}
		})
	}
	publishing.Wait()
	over.Store(true)
	coming.Wait()
}

func TestHistory(t *testing.T) {
	hub := Hub{Encode: numbered, HistoryMessages: 5}
	url := serve(t, &hub)
	keeper := dial(t, url+"/x")
	epoch, _, _ := strings.Cut(hear(t, keeper), "-")
	for i := 1; i <= 8; i++ {
		hub.Room("x").Publish(t.Context(), foyer.Text, fmt.Append(nil, "m", i))
	}
	at := func(n int) string { return fmt.Sprint(epoch, "-", n) }
	for query, want := range map[string][]string{
		"":                                   {"8 welcome false"},
		"?history=2":                         {"8 welcome false", "7 m7", "8 m8"},
		"?history=100":                       {"8 welcome false", "4 m4", "5 m5", "6 m6", "7 m7", "8 m8"},
		"?since=" + at(6):                    {"8 welcome true", "7 m7", "8 m8"},
		"?since=" + at(3):                    {"8 welcome true", "4 m4", "5 m5", "6 m6", "7 m7", "8 m8"},
		"?since=" + at(2):                    {"8 welcome false"},
		"?history=1&since=" + at(2):          {"8 welcome false", "8 m8"},
		"?since=" + at(8):                    {"8 welcome true"},
		"?since=" + at(9):                    {"8 welcome false"},
		"?since=other-7":                     {"8 welcome false"},
		"?since=nonsense":                    {"8 welcome false"},
		"?history=-5&since=" + at(8) + "999": {"8 welcome false"},
	} {
		s := dial(t, url+"/x"+query)
		for _, w := range want {
			if got := hear(t, s); got != epoch+"-"+w {
				t.Errorf("%s: %q, want %q", query, got, w)
			}
		}
		hub.Room("y").Publish(t.Context(), foyer.Text, []byte("elsewhere"))
		s.Abort()
	}
}

// TestTransientMessages reach the members of the moment, and none that join later.
func TestTransientMessages(t *testing.T) {
	hub := Hub{Encode: JSON, OnMessage: func(_ context.Context, _ *Member, m *Message) error {
		m.Transient = string(m.Data) == "typing"
		return nil
	}}
	url := serve(t, &hub)
	a := dial(t, url+"/x")
	welcome := hearEvent(t, a)
	for _, m := range []string{"one", "typing", "two", "typing"} {
		a.SendText(t.Context(), m)
	}
	var got []string
	for range 4 {
		e := hearEvent(t, a)
		got = append(got, fmt.Sprint(string(e.Data), e.Position[len(e.Position)-1:], e.Transient))
	}
	if want := []string{`"one"1false`, `"typing"1true`, `"two"2false`, `"typing"2true`}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	b := dial(t, url+"/x?since="+welcome.Position)
	if e := hearEvent(t, b); !e.Recovered {
		t.Errorf("%+v", e)
	}
	a.SendText(t.Context(), "typing")
	for i, want := range []string{`"one"`, `"two"`, `"typing"`} {
		if e := hearEvent(t, b); string(e.Data) != want || e.Transient != (i == 2) {
			t.Errorf("%d: %+v", i, e)
		}
	}
	if !slices.Equal(hub.Rooms(), []string{"x"}) {
		t.Error(hub.Rooms())
	}
}
