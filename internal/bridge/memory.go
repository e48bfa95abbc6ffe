package bridge

import (
	"encoding/json"
	"sync"
	"time"
)

// maxKept bounds what is kept of a server's initialize result, in bytes.
const maxKept = 64 << 10

// only is the one way in which a server was found to speak. It spares the next
// process of a host the requests that the server refused.
type only string

const (
	onlyModern   only = "2026-07-28" // it refused initialize
	onlySessions only = "sessions"   // it refused 2026-07-28, and opened a session over Streamable HTTP
	onlySSE      only = "http+sse"   // it refused both, and spoke HTTP+SSE
)

// onlyLasts is how long the way holds. Servers learn further revisions, and one
// that speaks the host's is not translated for.
const onlyLasts = 24 * time.Hour

// memory is what a bridge knows of its server from the processes before: no
// secret, and nothing that could not be found out again.
type memory struct {
	b *bridge

	mu    sync.Mutex
	known known

	writing sync.Mutex // so that the last thing known is what is written last
}

// known is a memory as it is written down.
type known struct {
	Initialize json.RawMessage `json:"initialize,omitempty"` // the last result
	Only       only            `json:"only,omitempty"`
	Found      time.Time       `json:"found,omitzero"` // when Only was
}

func newMemory(b *bridge) *memory {
	m := &memory{b: b}
	if b.o.Recall == nil {
		return m
	}
	if json.Unmarshal(b.o.Recall(), &m.known) != nil {
		m.known = known{} // there is none yet, or it is damaged
	}
	if age := time.Since(m.known.Found); age < 0 || age > onlyLasts {
		m.known.Only = ""
	}
	return m
}

// only returns the way that the server was found to speak, or "".
func (m *memory) only() only {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.known.Only
}

// initialize returns the server's last result of initialize, or nil.
func (m *memory) initialize() json.RawMessage {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.known.Initialize
}

// found notes the only way that the server speaks.
func (m *memory) found(o only) {
	if m.only() != o {
		m.change(func(k *known) { k.Only, k.Found = o, time.Now().UTC() })
	}
}

// speaks notes a way in which the server does speak: another one is not the only one.
func (m *memory) speaks(o only) {
	if now := m.only(); now != "" && now != o {
		m.found("")
	}
}

// initialized notes a result of initialize.
func (m *memory) initialized(result json.RawMessage) {
	m.change(func(k *known) { k.Initialize = result })
}

func (m *memory) change(f func(*known)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f(&m.known)
	if m.b.o.Remember != nil {
		m.b.background(m.write)
	}
}

func (m *memory) write() {
	m.writing.Lock()
	defer m.writing.Unlock()
	m.mu.Lock()
	data, err := json.Marshal(m.known)
	m.mu.Unlock()
	if err == nil {
		m.b.o.Remember(data)
	}
}
