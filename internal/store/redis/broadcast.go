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

func (d *database) channel() string { return d.prefix + ":broadcast" }

// Broadcast implements store.Database.
func (d *database) Broadcast(ctx context.Context, topic string, message []byte) error {
	body := binary.AppendUvarint(nil, uint64(len(topic)))
	body = append(append(body, topic...), message...)
	node, err := d.nodeOf(ctx, d.channel())
	if err != nil {
		return store.WithContext(ctx, err)
	}
	if err := node.Publish(ctx, d.channel(), body).Err(); err != nil {
		d.reload(ctx)
		return store.WithContext(ctx, err)
	}
	return nil
}

// listen hands what is published to deliver until ctx ends.
// go-redis connects and subscribes again when the connection is lost; what is
// published meanwhile is lost.
func (d *database) listen(ctx context.Context, deliver func(topic string, message []byte)) {
	subscription := d.client.Subscribe(ctx, d.channel())
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
				d.log.Warn("a message on the broadcast channel is not one of ours", "channel", d.channel())
				continue
			}
			topic := m.Payload[size : size+int(n)]
			deliver(strings.Clone(topic), []byte(m.Payload[size+int(n):]))
		}
	}
}
