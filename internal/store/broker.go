package store

import (
	"bytes"
	"sync"
)

// subscriberQueue is how many messages a subscriber may fall behind before the
// oldest is dropped.
const subscriberQueue = 256

// Broker is the in-process half of Publish and Subscribe, which every backend
// shares: it hands each message to the subscribers of its topic, in order for
// each, and waits for none of them. The zero value is ready.
type Broker struct {
	mu     sync.Mutex
	topics map[string]map[*subscriber]struct{}
	closed bool

	running sync.WaitGroup
}

type subscriber struct {
	f func([]byte)

	mu    sync.Mutex
	wake  sync.Cond
	queue [][]byte
	done  bool
}

// Publish queues a copy of message for every subscriber of topic.
func (b *Broker) Publish(topic string, message []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || len(b.topics[topic]) == 0 {
		return
	}
	message = bytes.Clone(message)
	if message == nil {
		message = []byte{}
	}
	for s := range b.topics[topic] {
		s.push(message)
	}
}

// Subscribe calls f for what is published to topic, as Store.Subscribe says.
func (b *Broker) Subscribe(topic string, f func([]byte)) (cancel func(), err error) {
	s := &subscriber{f: f}
	s.wake.L = &s.mu

	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, ErrClosed
	}
	if b.topics == nil {
		b.topics = make(map[string]map[*subscriber]struct{})
	}
	if b.topics[topic] == nil {
		b.topics[topic] = make(map[*subscriber]struct{})
	}
	b.topics[topic][s] = struct{}{}
	b.running.Go(s.deliver)
	return func() {
		b.mu.Lock()
		delete(b.topics[topic], s)
		if len(b.topics[topic]) == 0 {
			delete(b.topics, topic)
		}
		b.mu.Unlock()
		s.stop()
	}, nil
}

// Close ends every subscription and waits for the calls under way.
func (b *Broker) Close() {
	b.mu.Lock()
	b.closed = true
	for _, subscribers := range b.topics {
		for s := range subscribers {
			s.stop()
		}
	}
	b.topics = nil
	b.mu.Unlock()
	b.running.Wait()
}

func (s *subscriber) push(message []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == subscriberQueue {
		s.queue = s.queue[1:]
	}
	s.queue = append(s.queue, message)
	s.wake.Signal()
}

func (s *subscriber) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done = true
	s.wake.Signal()
}

func (s *subscriber) deliver() {
	for {
		s.mu.Lock()
		for len(s.queue) == 0 && !s.done {
			s.wake.Wait()
		}
		if s.done {
			s.mu.Unlock()
			return
		}
		message := s.queue[0]
		s.queue = s.queue[1:]
		s.mu.Unlock()
		s.f(message)
	}
}
