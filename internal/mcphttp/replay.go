package mcphttp

import (
	"bytes"
	"container/list"
	"crypto/rand"
	"errors"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	replayPerSession = 1 << 20  // bytes of sent events kept for one session
	replayInAll      = 64 << 20 // and for all of them
	eventOverhead    = 160      // what an event costs beside its bytes
	maxParked        = 10_000   // streams kept whose client is away
	maxParkedSession = 8        // of one session
	retryHint        = time.Second
)

// Event ids name their stream: one letter for how it came about, so that an
// id means something even where its stream is not known.
const (
	streamOfCall  = 'c' // the response to a POST
	streamForNews = 'n' // a GET
	nameLength    = 17
)

// errNotKept says that what a client missed cannot be sent again: it is with
// another instance, too old or too much.
var errNotKept = errors.New("the events after this id are not kept here")

// replays are the events of legacy streams that a client may ask for again
// (2025-11-25, basic/transports, Resumability and Redelivery). What is kept is
// bounded by bytes in a session and in all, the oldest going first; streams
// without a connection are bounded in number and in time.
type replays struct {
	keep time.Duration // after the connection is gone

	mu      sync.Mutex
	streams map[string]*replay // by name
	session map[string]*kept   // by Session.ID
	all     kept
	parked  list.List // of *replay, oldest first
}

// kept are the events of one bound, oldest first.
type kept struct {
	events list.List // of *sentEvent
	bytes  int
	parked int
}

// replay is what is kept of one stream.
type replay struct {
	of     *replays
	owner  owner
	name   string
	stream *stream   // that the events belong to
	news   *listener // of a GET stream

	// The rest is guarded by of.mu.
	last   uint64       // number of the newest event
	events []*sentEvent // oldest first, without gaps up to last
	gone   bool         // forgotten: there is nothing to resume
	parked *list.Element
	timer  *time.Timer
	drop   func() // called once when a parked stream is forgotten
}

type sentEvent struct {
	replay     *replay
	bytes      []byte
	all, local *list.Element
}

func newReplays(keep time.Duration) *replays {
	return &replays{keep: keep, streams: map[string]*replay{}, session: map[string]*kept{}}
}

// open begins to keep the events of st.
func (rs *replays) open(st *stream, o owner, kind byte, news *listener) *replay {
	r := &replay{of: rs, owner: o, name: string(kind) + rand.Text()[:nameLength-1], stream: st, news: news}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.streams[r.name] = r
	return r
}

// id is the id of the stream's event number n; 0 is the one before the first.
func (r *replay) id(n uint64) string { return r.name + "." + strconv.FormatUint(n, 10) }

// parseEventID undoes id. ok is false for an id that was not made here.
func parseEventID(id string) (name string, n uint64, ok bool) {
	name, number, found := strings.Cut(id, ".")
	if !found || len(name) != nameLength || name[0] != streamOfCall && name[0] != streamForNews {
		return "", 0, false
	}
	n, err := strconv.ParseUint(number, 10, 64)
	if err != nil || strconv.FormatUint(n, 10) != number {
		return "", 0, false
	}
	return name, n, true
}

// add numbers a new event, and keeps and returns what event makes of its id.
func (r *replay) add(event func(id string) []byte) []byte {
	rs := r.of
	rs.mu.Lock()
	defer rs.mu.Unlock()
	r.last++
	b := event(r.id(r.last))
	if r.gone {
		return b
	}
	k := rs.session[r.owner.Session]
	if k == nil {
		k = &kept{}
		rs.session[r.owner.Session] = k
	}
	e := &sentEvent{replay: r, bytes: b}
	e.all, e.local = rs.all.events.PushBack(e), k.events.PushBack(e)
	r.events = append(r.events, e)
	k.bytes += len(b) + eventOverhead
	rs.all.bytes += len(b) + eventOverhead
	for k.bytes > replayPerSession {
		rs.forget(k.events.Front().Value.(*sentEvent)) //nolint:forcetypeassert // nothing else is in it
	}
	for rs.all.bytes > replayInAll {
		rs.forget(rs.all.events.Front().Value.(*sentEvent)) //nolint:forcetypeassert // nothing else is in it
	}
	return b
}

// forget drops one event, which is the oldest of its stream. rs.mu is held.
func (rs *replays) forget(e *sentEvent) {
	r := e.replay
	k := rs.session[r.owner.Session]
	rs.all.events.Remove(e.all)
	k.events.Remove(e.local)
	rs.all.bytes -= len(e.bytes) + eventOverhead
	k.bytes -= len(e.bytes) + eventOverhead
	r.events[0] = nil
	if r.events = r.events[1:]; len(r.events) == 0 {
		r.events = nil
	}
	rs.tidy(r.owner.Session)
}

// tidy forgets a session of which nothing is kept. rs.mu is held.
func (rs *replays) tidy(session string) {
	if k := rs.session[session]; k != nil && k.events.Len() == 0 && k.parked == 0 {
		delete(rs.session, session)
	}
}

// find returns the stream that an event id of o's names, errNotKept if there
// is none.
func (rs *replays) find(o owner, name string) (*replay, error) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	r := rs.streams[name]
	if r == nil || r.owner != o {
		return nil, errNotKept
	}
	return r, nil
}

// since returns the events after number n. Of those that are not kept any more
// there is nothing, unless ended says that nothing else will follow: then the
// last one, the response, must be among them.
func (r *replay) since(n uint64, ended bool) ([]byte, error) {
	r.of.mu.Lock()
	defer r.of.mu.Unlock()
	if r.gone || n > r.last || ended && n < r.last && len(r.events) == 0 {
		return nil, errNotKept
	}
	events := r.events[len(r.events)-min(len(r.events), int(min(r.last-n, 1<<30))):]
	parts := make([][]byte, len(events))
	for i, e := range events {
		parts[i] = e.bytes
	}
	return bytes.Join(parts, nil), nil
}

// park keeps the stream for a client that has gone, or may not have got the
// end, for a while. drop, which may be nil, is called if it does not come back.
func (r *replay) park(drop func()) {
	rs := r.of
	rs.mu.Lock()
	if gone := r.gone; gone || r.parked != nil {
		rs.mu.Unlock()
		if gone && drop != nil {
			drop()
		}
		return
	}
	k := rs.session[r.owner.Session]
	if k == nil {
		k = &kept{}
		rs.session[r.owner.Session] = k
	}
	k.parked++
	r.drop = drop
	r.parked = rs.parked.PushBack(r)
	r.timer = time.AfterFunc(rs.keep, r.close)
	var victim *replay
	if k.parked > maxParkedSession || rs.parked.Len() > maxParked {
		for e := rs.parked.Front(); e != nil; e = e.Next() {
			o := e.Value.(*replay) //nolint:forcetypeassert // nothing else is in it
			if k.parked <= maxParkedSession || o.owner.Session == r.owner.Session {
				victim = o
				break
			}
		}
	}
	rs.mu.Unlock()
	if victim != nil {
		victim.close()
	}
}

// unpark is called when the client is back. It reports whether the stream is
// still kept.
func (r *replay) unpark() bool {
	r.of.mu.Lock()
	defer r.of.mu.Unlock()
	r.unparkLocked()
	return !r.gone
}

func (r *replay) unparkLocked() {
	if r.parked == nil {
		return
	}
	r.timer.Stop()
	r.of.parked.Remove(r.parked)
	r.parked, r.drop = nil, nil
	r.of.session[r.owner.Session].parked--
	r.of.tidy(r.owner.Session)
}

// close forgets the stream.
func (r *replay) close() {
	rs := r.of
	rs.mu.Lock()
	if r.gone {
		rs.mu.Unlock()
		return
	}
	r.gone = true
	drop := r.drop
	for len(r.events) > 0 {
		rs.forget(r.events[0])
	}
	r.unparkLocked()
	delete(rs.streams, r.name)
	rs.mu.Unlock()
	if drop != nil {
		drop()
	}
}

// endSession forgets all streams of a session.
func (rs *replays) endSession(session string) {
	rs.mu.Lock()
	var ended []*replay
	for _, r := range rs.streams {
		if r.owner.Session == session {
			ended = append(ended, r)
		}
	}
	rs.mu.Unlock()
	for _, r := range ended {
		r.close()
	}
}
