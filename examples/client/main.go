// Client is a WebSocket client for the terminal: it sends each line that is typed and shows what comes back. A line that
// begins with a slash is a command: /ping, /binary HEX, /close [CODE [REASON]].
//
//	go run ./examples/client ws://127.0.0.1:8080/ws
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/foyerws/foyer"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout)
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, clean(err.Error()))
		os.Exit(1)
	}
}

// header collects -H flags.
type header http.Header

func (h header) String() string { return "" }

func (h header) Set(line string) error {
	name, value, ok := strings.Cut(line, ":")
	if !ok {
		return errors.New("a header is Name: value")
	}
	http.Header(h).Add(strings.TrimSpace(name), strings.TrimSpace(value))
	return nil
}

// run talks to a server until the socket, the input or ctx ends.
func run(ctx context.Context, args []string, in io.Reader, out io.Writer) error {
	o := foyer.DialOptions{Header: http.Header{}, TLSConfig: &tls.Config{}}
	flags := flag.NewFlagSet("client", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.Var(header(o.Header), "H", "a header `line` for the request, such as \"Authorization: Bearer x\"; can be repeated")
	flags.StringVar(&o.Origin, "origin", "", "the Origin header")
	subprotocols := flags.String("subprotocol", "", "subprotocols to offer, separated by commas")
	flags.BoolVar(&o.TLSConfig.InsecureSkipVerify, "insecure", false, "take any certificate")
	compression := flags.Bool("compression", false, "offer permessage-deflate")
	frames := flags.Bool("frames", false, "show frames, not only messages")
	ping := flags.Duration("ping", 0, "send a ping this often")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 1 {
		return errors.New("usage: client [flags] ws://host/path")
	}
	if *compression {
		o.Compression = foyer.CompressionContextTakeover
	}
	if *subprotocols != "" {
		o.Subprotocols = strings.Split(*subprotocols, ",")
	}

	s, resp, err := foyer.Dial(ctx, flags.Arg(0), &o)
	if err != nil {
		if resp != nil {
			body, _ := io.ReadAll(resp.Body)
			fmt.Fprintf(out, "%s\n%s\n", clean(resp.Status), clean(string(body)))
		}
		return err
	}
	c := &client{out: out}
	c.print("connected to %s, subprotocol %q", s.RemoteAddr(), s.Subprotocol())
	closed := make(chan struct{})
	events := foyer.Events{
		Message: c.message,
		Pong:    c.pong,
		Closed: func(s *foyer.Socket, code foyer.CloseCode, reason string) {
			c.print("closed: %d %s", code, clean(reason))
			close(closed)
		},
	}
	if *frames {
		events.Frame = c.frame
	}
	s.Handle(events)

	lines := make(chan string)
	go func() {
		defer close(lines)
		for scanner := bufio.NewScanner(in); scanner.Scan(); {
			select {
			case lines <- scanner.Text():
			case <-closed:
				return
			}
		}
	}()
	var tick <-chan time.Time
	if *ping > 0 {
		ticker := time.NewTicker(*ping)
		defer ticker.Stop()
		tick = ticker.C
	}
	for {
		select {
		case line, ok := <-lines:
			if !ok {
				line, lines = "/close", nil
			}
			if err := c.do(ctx, s, line); err != nil {
				c.print("%v", err)
			}
		case <-tick:
			go s.Ping(ctx, nil)
		case <-ctx.Done():
			s.Close(foyer.CloseGoingAway, "")
			<-closed
			return nil
		case <-closed:
			var end *foyer.CloseError
			if errors.As(s.Err(), &end) && end.Code == foyer.CloseNormalClosure {
				return nil
			}
			return s.Err()
		}
	}
}

// do does what a line says.
func (c *client) do(ctx context.Context, s *foyer.Socket, line string) error {
	command, rest, _ := strings.Cut(line, " ")
	switch command {
	case "/ping":
		go s.Ping(ctx, []byte(rest))
		return nil
	case "/binary":
		p, err := hex.DecodeString(rest)
		if err != nil {
			return err
		}
		return s.SendBinary(ctx, p)
	case "/close":
		number, reason, _ := strings.Cut(rest, " ")
		code := foyer.CloseNormalClosure
		if number != "" {
			n, err := strconv.Atoi(number)
			if err != nil || n < 1000 || n > 4999 {
				return fmt.Errorf("a close code is 1000 to 4999, not %q", number)
			}
			code = foyer.CloseCode(n)
		}
		return s.Close(code, reason)
	}
	return s.SendText(ctx, line)
}

// A client shows what happens.
type client struct {
	mu  sync.Mutex
	out io.Writer
}

func (c *client) print(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Fprintf(c.out, format+"\n", args...)
}

func (c *client) message(_ *foyer.Socket, t foyer.MessageType, p []byte) {
	c.print("%v, %d bytes: %s", t, len(p), show(t, p))
}

func (c *client) frame(_ *foyer.Socket, t foyer.MessageType, p []byte, last bool) {
	c.print("frame of %v, %d bytes, last %v", t, len(p), last)
}

func (c *client) pong(_ *foyer.Socket, elapsed time.Duration, payload []byte) {
	c.print("pong after %v: %q", elapsed.Round(time.Microsecond), payload)
}

// show makes a message fit for a terminal.
func show(t foyer.MessageType, p []byte) string {
	if t == foyer.Text {
		return strconv.Quote(string(p))
	}
	return hex.EncodeToString(p)
}

// clean leaves out what would let a server steer the terminal.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || strconv.IsPrint(r) {
			return r
		}
		return '\uFFFD'
	}, s)
}
