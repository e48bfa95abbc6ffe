package postgres

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Messages of all topics go over one channel. A message, with its topic and the
// topic's length in front, is cut into parts, since a notification holds less
// than 8000 bytes of text: "ID NUMBER COUNT BASE64". The parts of one message
// are sent in one transaction, so that they arrive together and in order.
const (
	// partSize is how many bytes a part holds before base64.
	partSize = 5700
	// maxMessage bounds a message, which the server keeps in memory until
	// everybody has it.
	maxMessage = 1 << 20
	// checkEvery is how often a silent connection is asked for a sign of life.
	checkEvery = 15 * time.Second
)

// channelOf returns the channel of a schema: notifications go to the whole
// database.
func channelOf(schema string) string {
	h := fnv.New64a()
	_, _ = h.Write([]byte(schema))
	return "mcp_clerk_" + strconv.FormatUint(h.Sum64(), 36)
}

// Broadcast implements store.Database.
func (d *database) Broadcast(ctx context.Context, topic string, message []byte) error {
	if len(topic)+len(message) > maxMessage {
		return fmt.Errorf("message of %d bytes is longer than %d", len(topic)+len(message), maxMessage)
	}
	_, err := d.exec(ctx, "select pg_notify($1, part) from unnest($2::text[]) as part", d.channel, cut(topic, message))
	return err
}

func cut(topic string, message []byte) []string {
	body := binary.AppendUvarint(nil, uint64(len(topic)))
	body = append(append(body, topic...), message...)
	id := strconv.FormatUint(rand.Uint64(), 36) //nolint:gosec // a mark, no secret
	count := (len(body) + partSize - 1) / partSize
	parts := make([]string, count)
	for i := range parts {
		part := body[i*partSize : min((i+1)*partSize, len(body))]
		parts[i] = fmt.Sprintf("%s %d %d %s", id, i, count, base64.StdEncoding.EncodeToString(part))
	}
	return parts
}

// assembler puts parts together again. Those of one message come one after the
// other from one server process, but may be cut off by a lost connection.
type assembler struct {
	id   string
	body []byte
	next int
}

var errNotOurs = errors.New("not a message of ours")

// add takes the next notification and returns the message it completes.
func (a *assembler) add(payload string) (topic string, message []byte, complete bool, err error) {
	fields := strings.SplitN(payload, " ", 4)
	if len(fields) != 4 {
		return "", nil, false, errNotOurs
	}
	number, errN := strconv.Atoi(fields[1])
	count, errC := strconv.Atoi(fields[2])
	part, errP := base64.StdEncoding.DecodeString(fields[3])
	if errN != nil || errC != nil || errP != nil || number < 0 || number >= count || count > maxMessage/partSize+2 {
		return "", nil, false, errNotOurs
	}
	if number == 0 {
		*a = assembler{id: fields[0]}
	}
	if fields[0] != a.id || number != a.next {
		return "", nil, false, nil // its beginning was lost
	}
	a.body = append(a.body, part...)
	a.next++
	if a.next < count {
		return "", nil, false, nil
	}
	body := a.body
	*a = assembler{}
	n, size := binary.Uvarint(body)
	if size <= 0 || n > uint64(len(body)-size) {
		return "", nil, false, errNotOurs
	}
	return string(body[size : size+int(n)]), body[size+int(n):], true, nil
}

// listen hands what is published to deliver until ctx ends, on a connection of its own, which it makes again when it is lost. What is
// published meanwhile is lost.
func (d *database) listen(ctx context.Context, config *pgx.ConnConfig, deliver func(topic string, message []byte)) {
	config = config.Copy()
	delete(config.RuntimeParams, "statement_timeout")
	for attempt := 0; ctx.Err() == nil; attempt++ {
		started := time.Now()
		err := d.listenOnce(ctx, config, deliver)
		if ctx.Err() != nil {
			return
		}
		if time.Since(started) > time.Minute {
			attempt = 0
		}
		d.log.Warn("the subscription to the database was lost", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(min(50*time.Millisecond<<min(attempt, 6), 2*time.Second)):
		}
	}
}

func (d *database) listenOnce(ctx context.Context, config *pgx.ConnConfig, deliver func(topic string, message []byte)) error {
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return explain(err)
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(closing)
	}()
	if _, err := conn.Exec(ctx, "listen "+pgx.Identifier{d.channel}.Sanitize()); err != nil {
		return err
	}
	var a assembler
	for {
		waiting, cancel := context.WithTimeout(ctx, checkEvery)
		n, err := conn.WaitForNotification(waiting)
		cancel()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && pgconn.Timeout(err):
			checking, cancel := context.WithTimeout(ctx, connectTimeout)
			err := conn.Ping(checking)
			cancel()
			if err != nil {
				return err
			}
			continue
		case err != nil:
			return err
		}
		topic, message, complete, err := a.add(n.Payload)
		if err != nil {
			d.log.Warn("a notification is not one of ours", "channel", d.channel)
			continue
		}
		if complete {
			deliver(topic, message)
		}
	}
}
