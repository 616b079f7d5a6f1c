//go:build linux

package main

import (
	"sync"
	"time"

	"github.com/centrifugal/centrifuge"
	"github.com/centrifugal/protocol"
	"github.com/nats-io/nats.go"
)

// A natsBroker is a centrifuge.Broker over NATS, for which centrifuge has no package: a subject and a subscription for each
// channel, publications as protocol buffers, no history.
type natsBroker struct {
	nc      *nats.Conn
	handler centrifuge.BrokerEventHandler

	mu   sync.Mutex // guards:
	subs map[string]*nats.Subscription
}

// subjects is what subjects of channels begin with.
const subjects = "centrifuge."

func (b *natsBroker) RegisterBrokerEventHandler(h centrifuge.BrokerEventHandler) error {
	b.handler = h
	return nil
}

func (b *natsBroker) Subscribe(channels ...string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, channel := range channels {
		if b.subs[channel] != nil {
			continue // a node may subscribe again without having unsubscribed
		}
		sub, err := b.nc.Subscribe(subjects+channel, func(m *nats.Msg) { b.take(channel, m.Data) })
		if err != nil {
			return err
		}
		b.subs[channel] = sub
	}
	return b.nc.Flush()
}

func (b *natsBroker) Unsubscribe(channels ...string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, channel := range channels {
		if sub := b.subs[channel]; sub != nil {
			delete(b.subs, channel)
			if err := sub.Unsubscribe(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *natsBroker) Publish(channel string, data []byte, o centrifuge.PublishOptions) (centrifuge.PublishResult, error) {
	p := &protocol.Publication{Data: data, Tags: o.Tags, Time: time.Now().UnixMilli()}
	if i := o.ClientInfo; i != nil {
		p.Info = &protocol.ClientInfo{User: i.UserID, Client: i.ClientID, ConnInfo: i.ConnInfo, ChanInfo: i.ChanInfo}
	}
	message, err := p.MarshalCF()
	if err != nil {
		return centrifuge.PublishResult{}, err
	}
	return centrifuge.PublishResult{}, b.nc.Publish(subjects+channel, message)
}

func (b *natsBroker) take(channel string, message []byte) {
	var p protocol.Publication
	if p.UnmarshalCF(message) != nil {
		return
	}
	publication := &centrifuge.Publication{Data: p.Data, Tags: p.Tags, Time: p.Time}
	if i := p.Info; i != nil {
		publication.Info = &centrifuge.ClientInfo{UserID: i.User, ClientID: i.Client, ConnInfo: i.ConnInfo, ChanInfo: i.ChanInfo}
	}
	b.handler.HandlePublication(channel, publication, centrifuge.StreamPosition{}, false, nil)
}

// The rest is not used: no channel has history, or tells who joins.

func (b *natsBroker) PublishJoin(string, *centrifuge.ClientInfo) error { return nil }

func (b *natsBroker) PublishLeave(string, *centrifuge.ClientInfo) error { return nil }

func (b *natsBroker) History(string, centrifuge.HistoryOptions) ([]*centrifuge.Publication, centrifuge.StreamPosition, error) {
	return nil, centrifuge.StreamPosition{}, centrifuge.ErrorNotAvailable
}

func (b *natsBroker) RemoveHistory(string) error { return centrifuge.ErrorNotAvailable }
