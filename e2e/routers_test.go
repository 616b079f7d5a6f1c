package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
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

// routers mount a Handler at /rooms/{room}/ws, each in its own way, with what the path has to be for it.
var routers = map[string]func(h *foyer.Handler) http.Handler{
	"http.ServeMux": func(h *foyer.Handler) http.Handler {
		m := http.NewServeMux()
		m.Handle("GET /rooms/{room}/ws", h)
		return m
	},
	"chi Handle": func(h *foyer.Handler) http.Handler {
		r := chi.NewRouter()
		r.Handle("/rooms/{room}/ws", h)
		return r
	},
	"chi Route, Group, With": func(h *foyer.Handler) http.Handler {
		r := chi.NewRouter()
		r.Route("/rooms/{room}", func(r chi.Router) {
			r.Group(func(r chi.Router) {
				r.With(chimiddleware.NoCache).Get("/ws", h.ServeHTTP)
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
		r.PathPrefix("/rooms/{room}").Subrouter().Handle("/ws", h).Methods("GET")
		return r
	},
	"gin": func(h *foyer.Handler) http.Handler {
		gin.SetMode(gin.ReleaseMode)
		r := gin.New()
		r.Use(gin.Recovery())
		r.GET("/rooms/:room/ws", gin.WrapH(h))
		return r
	},
	"echo": func(h *foyer.Handler) http.Handler {
		e := echo.New()
		e.Use(echomiddleware.Recover(), echomiddleware.RequestID(), echomiddleware.Gzip())
		e.GET("/rooms/:room/ws", echo.WrapHandler(h))
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

// middlewares stand around a router. broken says what the error must name where they cannot work.
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
	{"a wrapper that hides Hijacker", func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { next.ServeHTTP(&recorder{ResponseWriter: w}, r) })
	}, "*e2e.recorder hides http.Hijacker"},
	{"http.TimeoutHandler", func(next http.Handler) http.Handler { return http.TimeoutHandler(next, time.Second, "late") }, "*http.timeoutWriter hides http.Hijacker"},
}

// TestRouters mounts a Handler in every router behind every middleware. It prints a table.
func TestRouters(t *testing.T) {
	table := []string{"", "| router | middleware | result |", "| --- | --- | --- |"}
	for name, mount := range routers {
		for _, m := range middlewares {
			failed := make(chan error, 10)
			h := &foyer.Handler{Origins: foyer.AnyOrigin(), Logger: slog.New(slog.DiscardHandler), OnError: func(err error) { failed <- err }}
			go h.ForEach(context.Background(), func(ctx context.Context, s *foyer.Socket) {
				time.Sleep(30 * time.Millisecond) // past any timeout of a request
				t, p, err := s.Read(ctx)
				if err == nil {
					s.Write(ctx, t, append(p, s.Request().PathValue("room")...))
					s.Read(ctx)
				}
			})
			srv := httptest.NewServer(m.wrap(mount(h)))
			result := echoThrough(t, "ws"+strings.TrimPrefix(srv.URL, "http")+"/rooms/7/ws", name)
			if m.broken != "" {
				result = "500"
				select {
				case err := <-failed:
					result = "500: " + err.Error()
					if !strings.Contains(err.Error(), m.broken) {
						t.Errorf("%s behind %s: %v", name, m.name, err)
					}
				case <-time.After(5 * time.Second):
					t.Errorf("%s behind %s: no error", name, m.name)
				}
				if i := strings.LastIndex(result, "foyer: "); i > 0 {
					result = "500: " + result[i+len("foyer: "):]
				}
			} else if result != "works" {
				t.Errorf("%s behind %s: %s", name, m.name, result)
			}
			table = append(table, fmt.Sprintf("| %s | %s | %s |", name, m.name, result))
			srv.Close()
			h.Close()
		}
	}
	table = append(table, "| fiber | adaptor | "+throughFiber(t)+" |")
	t.Log(strings.Join(table, "\n"))
}

// echoThrough opens a socket and has something echoed.
func echoThrough(t *testing.T, url, router string) string {
	s, _, err := foyer.Dial(shortly(t), url, nil)
	if err != nil {
		return err.Error()
	}
	defer s.Abort()
	s.SendText(t.Context(), "hello, room ")
	_, p, err := s.Read(shortly(t))
	want := "hello, room 7"
	if router == "gin" || router == "echo" || strings.HasPrefix(router, "gorilla/mux") {
		want = "hello, room " // they keep path values to themselves
	}
	if err != nil || string(p) != want {
		return fmt.Sprintf("%q, %v", p, err)
	}
	return "works"
}

// throughFiber takes a connection out of fasthttp, which knows no http.ResponseWriter.
func throughFiber(t *testing.T) string {
	h := &foyer.Handler{Origins: foyer.AnyOrigin()}
	defer h.Close()
	go h.ForEach(context.Background(), func(ctx context.Context, s *foyer.Socket) {
		t, p, err := s.Read(ctx)
		if err == nil {
			s.Write(ctx, t, append(p, s.Request().URL.Path[len("/rooms/"):][:1]...))
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
		c.Context().HijackSetNoResponse(true)
		c.Context().Hijack(func(conn net.Conn) {
			done := make(chan struct{})
			h.HandleUpgrade(request, &hijacked{Conn: conn, done: done}, bufio.NewReadWriter(bufio.NewReader(conn), nil))
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
	return echoThrough(t, "ws://"+l.Addr().String()+"/rooms/7/ws", "fiber")
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
