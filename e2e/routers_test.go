package e2e

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/go-chi/chi/v5"
	chimiddleware "github.com/go-chi/chi/v5/middleware"
	"github.com/gofiber/fiber/v2"
	"github.com/gorilla/handlers"
	"github.com/gorilla/mux"
	"github.com/justinas/alice"
	"github.com/labstack/echo/v4"
	echomiddleware "github.com/labstack/echo/v4/middleware"
	"github.com/rs/cors"
	"github.com/valyala/fasthttp/fasthttpadaptor"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"

	"github.com/foyerws/foyer"
)

// routers mount a Handler at /rooms/{room}/ws, each in its own way, for both methods that a handshake has: GET over
// HTTP/1.1, CONNECT over HTTP/2. The README of examples/router has the lines of some.
var routers = map[string]func(h *foyer.Handler) http.Handler{
	"http.ServeMux": func(h *foyer.Handler) http.Handler {
		m := http.NewServeMux()
		m.Handle("/rooms/{room}/ws", h)
		return m
	},
	"chi Handle": func(h *foyer.Handler) http.Handler {
		r := chi.NewRouter()
		r.Use(chimiddleware.RequestID, chimiddleware.Recoverer)
		r.Handle("/rooms/{room}/ws", h)
		return r
	},
	"chi Route, Group, With": func(h *foyer.Handler) http.Handler {
		r := chi.NewRouter()
		r.Route("/rooms/{room}", func(r chi.Router) {
			r.Group(func(r chi.Router) {
				r.With(chimiddleware.NoCache).Get("/ws", h.ServeHTTP)
				r.Connect("/ws", h.ServeHTTP)
			})
		})
		return r
	},
	"chi Mount": func(h *foyer.Handler) http.Handler {
		inner, r := chi.NewRouter(), chi.NewRouter()
		inner.Handle("/ws", h)
		r.Mount("/rooms/{room}", inner)
		return r
	},
	"gorilla/mux": func(h *foyer.Handler) http.Handler {
		r := mux.NewRouter()
		r.Handle("/rooms/{room}/ws", h)
		return r
	},
	"gorilla/mux subrouter": func(h *foyer.Handler) http.Handler {
		r := mux.NewRouter()
		r.PathPrefix("/rooms/{room}").Subrouter().Handle("/ws", h).Methods("GET", "CONNECT")
		return r
	},
	"gin": func(h *foyer.Handler) http.Handler {
		gin.SetMode(gin.ReleaseMode)
		r := gin.New()
		r.Use(gin.Recovery())
		r.Match([]string{"GET", "CONNECT"}, "/rooms/:room/ws", func(c *gin.Context) {
			c.Request.SetPathValue("room", c.Param("room"))
			h.ServeHTTP(c.Writer, c.Request)
		})
		return r
	},
	"echo": func(h *foyer.Handler) http.Handler {
		e := echo.New()
		e.Use(echomiddleware.Recover(), echomiddleware.RequestID(), echomiddleware.Gzip())
		e.Match([]string{"GET", "CONNECT"}, "/rooms/:room/ws", func(c echo.Context) error {
			c.Request().SetPathValue("room", c.Param("room"))
			h.ServeHTTP(c.Response(), c.Request())
			return nil
		})
		return e
	},
}

// A recorder is a ResponseWriter as programs wrap it, with and without a way to what it wraps.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

type unwrapping struct{ *recorder }

func (u unwrapping) Unwrap() http.ResponseWriter { return u.ResponseWriter }

// middlewares stand around a router. broken is the type that the error must name where they cannot work.
var middlewares = []struct {
	name   string
	wrap   func(http.Handler) http.Handler
	broken string
}{
	{"none", func(next http.Handler) http.Handler { return next }, ""},
	{"all of chi's", func(next http.Handler) http.Handler {
		r := chi.NewRouter()
		r.Use(chimiddleware.RequestID, chimiddleware.Recoverer, chimiddleware.CleanPath, chimiddleware.StripSlashes,
			chimiddleware.RequestLogger(&chimiddleware.DefaultLogFormatter{Logger: log.New(io.Discard, "", 0), NoColor: true}),
			chimiddleware.Compress(5), chimiddleware.Timeout(20*time.Millisecond), chimiddleware.Throttle(10), chimiddleware.NoCache,
			chimiddleware.SetHeader("X-Frame-Options", "DENY"), chimiddleware.Heartbeat("/ping"))
		r.Mount("/", next)
		return r
	}, ""},
	{"rs/cors", cors.AllowAll().Handler, ""},
	{"gorilla/handlers", func(next http.Handler) http.Handler {
		return handlers.RecoveryHandler()(handlers.CombinedLoggingHandler(io.Discard, handlers.CompressHandler(handlers.ProxyHeaders(next))))
	}, ""},
	{"alice", func(next http.Handler) http.Handler {
		return alice.New(cors.Default().Handler, chimiddleware.Recoverer).Then(next)
	}, ""},
	{"http.StripPrefix", func(next http.Handler) http.Handler {
		strip := http.StripPrefix("/api", next)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.URL.Path = "/api" + r.URL.Path
			strip.ServeHTTP(w, r)
		})
	}, ""},
	{"otelhttp", func(next http.Handler) http.Handler { return otelhttp.NewHandler(next, "ws") }, ""},
	{"a wrapper with Unwrap", func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(unwrapping{&recorder{ResponseWriter: w}}, r)
		})
	}, ""},
	{"a wrapper without Unwrap", func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { next.ServeHTTP(&recorder{ResponseWriter: w}, r) })
	}, "*e2e.recorder"},
	{"http.TimeoutHandler", func(next http.Handler) http.Handler { return http.TimeoutHandler(next, time.Second, "late") }, "*http.timeoutWriter"},
}

// TestRouters mounts a Handler in every router behind every middleware. It prints a table.
func TestRouters(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	table := []string{"", "| router | middleware | HTTP/1.1 | HTTP/2 |", "| --- | --- | --- | --- |"}
	for _, name := range slices.Sorted(maps.Keys(routers)) {
		for _, m := range middlewares {
			failed := make(chan error, 10)
			h := &foyer.Handler{Origins: foyer.AnyOrigin(), Logger: slog.New(slog.DiscardHandler), OnError: func(err error) { failed <- err }}
			go h.ForEach(context.Background(), func(ctx context.Context, s *foyer.Socket) {
				time.Sleep(30 * time.Millisecond) // past any timeout of a request
				t, p, err := s.Read(ctx)
				if err == nil {
					s.Write(ctx, t, append(p, roomOf(s.Request())...))
					s.Read(ctx)
				}
			})
			srv := httptest.NewUnstartedServer(m.wrap(routers[name](h)))
			srv.EnableHTTP2 = true
			srv.StartTLS()
			row := fmt.Sprintf("| %s | %s |", name, m.name)
			for _, options := range []*foyer.DialOptions{{TLSConfig: insecure}, {NetDial: overHTTP2(t)}} {
				result := echoThrough(t, srv.Listener.Addr().String(), options)
				switch {
				case m.broken != "" && strings.HasPrefix(result, "500"):
					err := <-failed
					if !strings.Contains(err.Error(), m.broken+" hides ") {
						t.Errorf("%s behind %s: %v", name, m.name, err)
					}
					_, why, _ := strings.Cut(err.Error(), m.broken)
					why, _, _ = strings.Cut(why, ":")
					result += ": " + m.broken + why
				case m.broken != "" || result != "works":
					t.Errorf("%s behind %s: %s", name, m.name, result)
				}
				row += " " + result + " |"
			}
			table = append(table, row)
			srv.Close()
			h.Close()
		}
	}
	table = append(table, "| fiber | adaptor | "+throughFiber(t)+" | fasthttp has none |")
	t.Log(strings.Join(table, "\n"))
}

var insecure = &tls.Config{InsecureSkipVerify: true}

// roomOf returns the room in the path. gorilla/mux keeps it to itself.
func roomOf(r *http.Request) string { return cmp.Or(r.PathValue("room"), mux.Vars(r)["room"]) }

// echoThrough opens a socket and has something echoed. It returns what came of it: "works", or the status of a refusal.
func echoThrough(t *testing.T, addr string, o *foyer.DialOptions) string {
	scheme := "ws"
	if o.TLSConfig != nil {
		scheme = "wss"
	}
	o.Header = http.Header{"Accept-Encoding": {"gzip"}, "User-Agent": {"e2e"}} // as browsers have it
	s, _, err := foyer.Dial(shortly(t), scheme+"://"+addr+"/rooms/7/ws", o)
	var refusal *foyer.HandshakeError
	if errors.As(err, &refusal) && refusal.Status != 0 {
		return strconv.Itoa(refusal.Status)
	}
	if err != nil {
		return err.Error()
	}
	defer s.Abort()
	s.SendText(t.Context(), "hello, room ")
	_, p, err := s.Read(shortly(t))
	if err != nil || string(p) != "hello, room 7" {
		return fmt.Sprintf("%q, %v", p, err)
	}
	if err := s.Close(4000, "bye"); err != nil {
		return err.Error()
	}
	return "works"
}

// TestRouterREADME finds the lines of examples/router/README.md in the source of this package's tests.
func TestRouterREADME(t *testing.T) {
	readme, err := os.ReadFile("../examples/router/README.md")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("routers_test.go")
	if err != nil {
		t.Fatal(err)
	}
	flat := func(text string) string {
		lines := strings.Split(text, "\n")
		for i := range lines {
			lines[i] = strings.TrimSpace(lines[i])
		}
		return strings.Join(lines, "\n")
	}
	blocks := strings.Split(string(readme), "```go\n")[1:]
	for _, block := range blocks {
		block, _, _ = strings.Cut(block, "```")
		if !strings.Contains(flat(string(source)), "\n"+flat(block)) {
			t.Errorf("no test has\n%s", block)
		}
	}
	if len(blocks) < 7 {
		t.Error("only", len(blocks), "blocks")
	}
}

// throughFiber takes a connection out of fasthttp, which knows no http.ResponseWriter.
func throughFiber(t *testing.T) string {
	h := &foyer.Handler{Origins: foyer.AnyOrigin()}
	defer h.Close()
	go h.ForEach(context.Background(), func(ctx context.Context, s *foyer.Socket) {
		t, p, err := s.Read(ctx)
		if err == nil {
			s.Write(ctx, t, append(p, roomOf(s.Request())...))
			s.Read(ctx)
		}
	})
	app := fiber.New(fiber.Config{DisableStartupMessage: true})
	app.Get("/rooms/:room/ws", func(c *fiber.Ctx) error {
		var r http.Request
		if err := fasthttpadaptor.ConvertRequest(c.Context(), &r, false); err != nil {
			return err
		}
		request := r.Clone(context.Background()) // fasthttp uses its own again
		request.SetPathValue("room", strings.Clone(c.Params("room")))
		c.Context().HijackSetNoResponse(true)
		c.Context().Hijack(func(conn net.Conn) {
			done := make(chan struct{})
			h.HandleUpgrade(request, &hijacked{Conn: conn, done: done}, nil)
			<-done // fasthttp closes the connection when this returns
		})
		return nil
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go app.Listener(l)
	defer app.ShutdownWithTimeout(time.Second)
	return echoThrough(t, l.Addr().String(), new(foyer.DialOptions))
}

// A hijacked tells when it was closed.
type hijacked struct {
	net.Conn
	done chan struct{}
}

func (c *hijacked) Close() error {
	err := c.Conn.Close()
	close(c.done)
	return err
}
