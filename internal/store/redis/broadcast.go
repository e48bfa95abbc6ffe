package redis

import (
	"context"
	"encoding/binary"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/mcp-clerk/mcp-clerk/internal/store"
)

// Messages of all topics go over one channel, each with its topic and the
// topic's length in front. In a Cluster they all enter at one node: from several
// they would arrive out of order.

func (s *Store) channel() string { return s.prefix + ":broadcast" }

// Publish implements store.Store.
func (s *Store) Publish(ctx context.Context, topic string, message []byte) error {
	leave, err := s.gate.Enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	body := binary.AppendUvarint(nil, uint64(len(topic)))
	body = append(append(body, topic...), message...)
	node, err := s.nodeOf(ctx, s.channel())
	if err != nil {
		return store.WithContext(ctx, err)
	}
	if err := node.Publish(ctx, s.channel(), body).Err(); err != nil {
		s.reload(ctx)
		return store.WithContext(ctx, err)
	}
	return nil
}

// Subscribe implements store.Store.
func (s *Store) Subscribe(topic string, f func(message []byte)) (cancel func(), err error) {
	leave, err := s.gate.Enter(context.Background())
	if err != nil {
		return nil, err
	}
	defer leave()
	return s.broker.Subscribe(topic, f)
}

// listen hands what is published to this process's subscribers until ctx ends.
// go-redis connects and subscribes again when the connection is lost; what is
// published meanwhile is lost.
func (s *Store) listen(ctx context.Context) {
	subscription := s.client.Subscribe(ctx, s.channel())
	defer func() { _ = subscription.Close() }()
	messages := subscription.Channel(goredis.WithChannelSize(1000), goredis.WithChannelHealthCheckInterval(3*time.Second))
	for {
		select {
		case <-ctx.Done():
			return
		case m, ok := <-messages:
			if !ok {
				return
			}
			n, size := binary.Uvarint([]byte(m.Payload[:min(len(m.Payload), binary.MaxVarintLen64)]))
			if size <= 0 || n > uint64(len(m.Payload)-size) {
				s.log.Warn("a message on the broadcast channel is not one of ours", "channel", s.channel())
				continue
			}
			topic := m.Payload[size : size+int(n)]
			s.broker.Publish(strings.Clone(topic), []byte(m.Payload[size+int(n):]))
		}
	}
}
