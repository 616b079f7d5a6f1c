package middleware_test

import (
	"encoding/base64"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"
	chimiddleware "github.com/go-chi/chi/v5/middleware"
	"github.com/gorilla/websocket"
	"github.com/rs/cors"

	"github.com/foyerws/foyer"
	"github.com/foyerws/foyer/middleware"
)

// page answers all requests that are no handshake.
var page = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "page") })

func serve(t *testing.T, h http.Handler) string {
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv.URL
}

func handler(t *testing.T) *foyer.Handler {
	h := &foyer.Handler{}
	t.Cleanup(func() { h.Close() })
	return h
}

// dial performs a handshake and returns the answer.
func dial(t *testing.T, url string, header http.Header) *http.Response {
	t.Helper()
	c, resp, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(url, "http"), header)
	if resp == nil {
		t.Fatal(err)
	}
	if err == nil {
		t.Cleanup(func() { c.Close() })
	}
	return resp
}

func get(t *testing.T, url string, header http.Header) (*http.Response, string) {
	t.Helper()
	r, _ := http.NewRequest("GET", url, nil)
	r.Header = header
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return resp, string(body)
}

func TestUpgradeTakesHandshakesOnAnyRoute(t *testing.T) {
	h := handler(t)
	url := serve(t, middleware.Upgrade(h)(page))
	for _, path := range []string{"/", "/a/b?c"} {
		if resp := dial(t, url+path, nil); resp.StatusCode != 101 {
			t.Error(path, resp.Status)
		}
		if _, body := get(t, url+path, nil); body != "page" {
			t.Error(path, body)
		}
	}
	if _, body := get(t, url, http.Header{"Connection": {"upgrade"}, "Upgrade": {"h2c"}}); body != "page" {
		t.Error(body)
	}
	// A handshake that is a bad one is still a handshake.
	if resp, _ := get(t, url, http.Header{"Connection": {"keep-alive, Upgrade"}, "Upgrade": {"WebSocket"}}); resp.StatusCode != 426 {
		t.Error(resp.Status)
	}
}

func TestUpgradeTakesHandshakesOverHTTP2(t *testing.T) {
	taken := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusTeapot) })
	for protocol, want := range map[string]int{"websocket": http.StatusTeapot, "connect-udp": http.StatusOK} {
		r := httptest.NewRequest(http.MethodConnect, "/any/route", nil)
		r.ProtoMajor = 2
		r.Header[":protocol"] = []string{protocol}
		w := httptest.NewRecorder()
		middleware.Upgrade(taken)(page).ServeHTTP(w, r)
		if w.Code != want {
			t.Error(protocol, w.Code)
		}
	}
}

func TestCORSAgreesWithTheHandler(t *testing.T) {
	origins := foyer.AllowOrigins("https://app.example")
	h := handler(t)
	h.Origins = origins
	url := serve(t, middleware.CORS(origins, cors.Options{AllowCredentials: true, AllowedOrigins: []string{"*"}})(middleware.Upgrade(h)(page)))
	for origin, status := range map[string]int{"https://app.example": 101, "https://evil.example": 403} {
		if resp := dial(t, url, http.Header{"Origin": {origin}}); resp.StatusCode != status || !slices.Contains(resp.Header["Vary"], "Origin") {
			t.Error(origin, resp.Status, resp.Header)
		}
		resp, body := get(t, url, http.Header{"Origin": {origin}})
		allowed := resp.Header.Get("Access-Control-Allow-Origin") == origin && resp.Header.Get("Access-Control-Allow-Credentials") == "true"
		if body != "page" || allowed != (status == 101) || !slices.Contains(resp.Header["Vary"], "Origin") {
			t.Error(origin, resp.Header)
		}
	}
	same := serve(t, middleware.CORS(nil, cors.Options{})(page))
	if resp, _ := get(t, same, http.Header{"Origin": {same}}); resp.Header.Get("Access-Control-Allow-Origin") != same {
		t.Error(resp.Header)
	}
	if resp, _ := get(t, same, http.Header{"Origin": {"https://evil.example"}}); resp.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Error(resp.Header)
	}
}

func TestBearerToken(t *testing.T) {
	const prefix = "base64url.bearer.authorization.k8s.io."
	token := func(s string) string { return prefix + base64.RawURLEncoding.EncodeToString([]byte(s)) }
	tests := []struct {
		name, offer   string
		authorization string
		status        int
		wantToken     string
		wantProtocols string
	}{
		{"token and subprotocol", token("s3cret") + ", chat.v1", "", 101, "Bearer s3cret", "chat.v1"},
		{"token in the middle", "chat.v2," + token("a.b_c-d") + " ,chat.v1", "", 101, "Bearer a.b_c-d", "chat.v2, chat.v1"},
		{"token alone", token("s3cret"), "", 101, "Bearer s3cret", ""},
		{"no token", "chat.v1, chat.v2", "Basic x", 101, "Basic x", "chat.v1, chat.v2"},
		{"nothing", "", "", 101, "", ""},
		{"two tokens", token("a") + "," + token("b"), "", 400, "", ""},
		{"token and header", token("a"), "Bearer b", 400, "", ""},
		{"not base64", prefix + "!", "", 400, "", ""},
		{"padded", prefix + "YQ==", "", 400, "", ""},
		{"empty", prefix, "", 400, "", ""},
		{"line feed", token("a\r\nX: b"), "", 400, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := handler(t)
			h.Subprotocols = []string{"chat.v1"}
			seen := make(chan *http.Request, 1)
			h.Authorize = func(r *http.Request) (http.Header, error) { seen <- r; return nil, nil }
			url := serve(t, middleware.BearerToken(prefix)(h))
			header := http.Header{}
			if tt.offer != "" {
				header["Sec-Websocket-Protocol"] = []string{tt.offer}
			}
			if tt.authorization != "" {
				header.Set("Authorization", tt.authorization)
			}
			resp := dial(t, url, header)
			if resp.StatusCode != tt.status {
				t.Fatal(resp.Status)
			}
			if tt.status != 101 {
				return
			}
			r := <-seen
			if got := r.Header.Get("Authorization"); got != tt.wantToken {
				t.Errorf("Authorization: %q", got)
			}
			if got := r.Header.Get("Sec-Websocket-Protocol"); got != tt.wantProtocols {
				t.Errorf("subprotocols %q", got)
			}
			if strings.Contains(tt.wantProtocols, "chat.v1") && resp.Header.Get("Sec-Websocket-Protocol") != "chat.v1" {
				t.Error(resp.Header)
			}
		})
	}
	t.Run("other requests are left alone", func(t *testing.T) {
		url := serve(t, middleware.BearerToken(prefix)(page))
		if resp, body := get(t, url, http.Header{"Sec-Websocket-Protocol": {prefix + "!"}}); resp.StatusCode != 200 || body != "page" {
			t.Error(resp.Status)
		}
	})
	for _, bad := range []string{"", "a b", "a,"} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("prefix %q did not panic", bad)
				}
			}()
			middleware.BearerToken(bad)
		}()
	}
}

// TestBehindChiMiddleware puts each of foyer's middleware behind a chain of chi's.
func TestBehindChiMiddleware(t *testing.T) {
	origins := foyer.AllowOrigins("https://app.example")
	for name, ours := range map[string]func(*foyer.Handler) func(http.Handler) http.Handler{
		"Upgrade":     func(h *foyer.Handler) func(http.Handler) http.Handler { return middleware.Upgrade(h) },
		"CORS":        func(*foyer.Handler) func(http.Handler) http.Handler { return middleware.CORS(origins, cors.Options{}) },
		"BearerToken": func(*foyer.Handler) func(http.Handler) http.Handler { return middleware.BearerToken("bearer.") },
	} {
		t.Run(name, func(t *testing.T) {
			h := handler(t)
			h.Origins = origins
			r := chi.NewRouter()
			r.Use(chimiddleware.RequestID,
				chimiddleware.RequestLogger(&chimiddleware.DefaultLogFormatter{Logger: log.New(io.Discard, "", 0)}),
				chimiddleware.Recoverer, chimiddleware.Timeout(50*time.Millisecond), chimiddleware.Compress(5), chimiddleware.Throttle(10),
				func(next http.Handler) http.Handler { return http.StripPrefix("/api", next) }, ours(h))
			r.Handle("/*", h)
			resp := dial(t, serve(t, r)+"/api/ws", http.Header{"Origin": {"https://app.example"}})
			if resp.StatusCode != 101 {
				t.Fatal(resp.Status)
			}
			s, err := h.Accept(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Millisecond) // past the Timeout of the request
			if s.State() != foyer.StateOpen || s.Request().Context().Err() != nil || chimiddleware.GetReqID(s.Request().Context()) == "" {
				t.Error(s.State(), s.Request().Context().Err())
			}
		})
	}
}
