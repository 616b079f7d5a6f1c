//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/centrifugal/centrifuge"
	"github.com/nats-io/nats.go"
	"golang.org/x/sys/unix"

	"github.com/foyerws/foyer/internal/frame"
	"github.com/foyerws/foyer/internal/wstest"
)

func serveCentrifuge(o options) error {
	return serveCentrifugeWith(o, func(*centrifuge.Node) error { return nil })
}

func serveCentrifugeNATS(o options) error {
	return serveCentrifugeWith(o, func(node *centrifuge.Node) error {
		nc, err := nats.Connect(o.broker)
		if err != nil {
			return err
		}
		node.SetBroker(&natsBroker{nc: nc, subs: make(map[string]*nats.Subscription)})
		return nil
	})
}

func serveCentrifugeRedis(o options) error {
	return serveCentrifugeWith(o, func(node *centrifuge.Node) error {
		shard, err := centrifuge.NewRedisShard(node, centrifuge.RedisShardConfig{Address: o.broker})
		if err != nil {
			return err
		}
		broker, err := centrifuge.NewRedisBroker(node, centrifuge.RedisBrokerConfig{Shards: []*centrifuge.RedisShard{shard}})
		if err != nil {
			return err
		}
		node.SetBroker(broker)
		return nil
	})
}

// serveCentrifugeWith subscribes each client to the channel "all", and lets each publish there. No option is set: the channel
// has no history, positions or presence, nothing is logged, and all limits are the defaults.
func serveCentrifugeWith(o options, setBroker func(*centrifuge.Node) error) error {
	node, err := centrifuge.New(centrifuge.Config{})
	if err != nil {
		return err
	}
	if err := setBroker(node); err != nil {
		return err
	}
	node.OnConnecting(func(context.Context, centrifuge.ConnectEvent) (centrifuge.ConnectReply, error) {
		return centrifuge.ConnectReply{
			Credentials:   &centrifuge.Credentials{}, // without them a client is refused; these are anonymous
			Subscriptions: map[string]centrifuge.SubscribeOptions{"all": {}},
		}, nil
	})
	node.OnConnect(func(c *centrifuge.Client) {
		c.OnPublish(func(_ centrifuge.PublishEvent, done centrifuge.PublishCallback) {
			done(centrifuge.PublishReply{}, nil) // without this hook no client may publish
		})
	})
	if err := node.Run(); err != nil {
		return err
	}
	return serveHTTP(o, centrifuge.NewWebsocketHandler(node, centrifuge.WebsocketConfig{}))
}

// What a client sends and gets in Centrifugal's JSON protocol, apart from publications.
var (
	centrifugeConnect   = wstest.Masked(0x81, `{"id":1,"connect":{}}`)
	centrifugeConnected = []byte(`{"id":1,"connect":{"client":`)
	centrifugePublished = []byte(`{"id":2,"publish":{}}`)
	centrifugePing      = []byte(`{}`)
	centrifugePong      = wstest.Masked(0x81, `{}`)
)

// joinCentrifuge connects a client and waits for the reply: then it is subscribed. The reply is left for the reader.
func joinCentrifuge(fd int) error {
	if _, err := unix.Write(fd, centrifugeConnect); err != nil {
		return err
	}
	n, _, err := unix.Recvfrom(fd, make([]byte, 1), unix.MSG_PEEK)
	if err == nil && n == 0 {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// centrifugeFrames returns the frame that publishes a text, and the push that each subscriber must get.
func centrifugeFrames(text string) (send, want []byte) {
	send = wstest.Masked(0x81, `{"id":2,"publish":{"channel":"all","data":"`+text+`"}}`)
	return send, []byte(`{"push":{"channel":"all","pub":{"data":"` + text + `"}}}`)
}

// pushes is compare for this protocol: it counts the pushes that in completes. Each must be the wanted one. The server may
// send several messages in one frame, separated by newlines, and it sends pings and replies, too.
func (p *peers) pushes(c *peer, in []byte) (n int, err error) {
	c.rest = append(c.rest, in...)
	rest := c.rest
	for {
		var sequence frame.Sequence
		h, ok, err := sequence.Parse(&frame.Limits{}, rest)
		if err != nil {
			return n, err
		}
		end := h.Size + int(h.Payload)
		if !ok || len(rest) < end {
			break
		}
		for message := range bytes.SplitSeq(rest[h.Size:end], []byte("\n")) {
			switch {
			case bytes.Equal(message, p.want):
				n++
			case bytes.Equal(message, centrifugePing):
				if err := p.write(c, centrifugePong); err != nil {
					return n, err
				}
			case !bytes.Equal(message, centrifugePublished) && !bytes.HasPrefix(message, centrifugeConnected):
				return n, fmt.Errorf("%w: %q", errEcho, message)
			}
		}
		rest = rest[end:]
	}
	c.rest = append(c.rest[:0], rest...)
	return n, nil
}
