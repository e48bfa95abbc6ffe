package storetest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/mcp-clerk/mcp-clerk/internal/store"
)

type opKind string

const (
	opGet    opKind = "get"
	opCreate opKind = "create"
	opAppend opKind = "append" // Update that adds to the value
	opTake   opKind = "take"
	opDelete opKind = "delete"
)

type opInput struct {
	kind  opKind
	key   string
	value string
}

// opOutput is what an operation returned: a record's value, or that there was
// none or one already, or, where the store could not be asked, nothing at all.
type opOutput struct {
	found   bool
	value   string
	unknown bool
}

// register is the state of one key.
type register struct {
	live  bool
	value string
}

var linearModel = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byKey := make(map[string][]porcupine.Operation)
		for _, op := range history {
			key := op.Input.(opInput).key
			byKey[key] = append(byKey[key], op)
		}
		var parts [][]porcupine.Operation
		for _, key := range sortedKeys(byKey) {
			parts = append(parts, byKey[key])
		}
		return parts
	},
	Init: func() any { return register{} },
	Step: func(state, input, output any) (bool, any) {
		s, in, out := state.(register), input.(opInput), output.(opOutput)
		next, result := s, opOutput{found: s.live, value: s.value}
		switch in.kind {
		case opGet:
		case opCreate:
			result.value = ""
			if !s.live {
				next = register{true, in.value}
			}
		case opAppend:
			if s.live {
				next.value += in.value
				result.value = next.value
			}
		case opTake:
			next = register{}
		case opDelete:
			next, result = register{}, opOutput{}
		}
		return out.unknown || out == result, next
	},
	DescribeOperation: func(input, output any) string {
		return fmt.Sprintf("%v -> %+v", input, output)
	},
}

// History records what several clients did to shared records, and when, for
// the check that one order of all of it explains every answer.
type History struct {
	start time.Time

	mu  sync.Mutex
	ops []porcupine.Operation
}

// NewHistory returns an empty history.
func NewHistory() *History { return &History{start: time.Now()} }

// Len is how many operations were recorded.
func (h *History) Len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.ops)
}

// Work has a client do n random operations on few keys of s. An operation that
// fails is one whose outcome nobody knows, and counted in failed.
func (h *History) Work(ctx context.Context, client int, s store.Store, n int) (failed int) {
	random := rand.New(rand.NewPCG(uint64(client), 7))
	kinds := []opKind{opGet, opGet, opCreate, opAppend, opAppend, opAppend, opTake, opDelete}
	for i := range n {
		in := opInput{kinds[random.IntN(len(kinds))], fmt.Sprint("register/", random.IntN(3)), fmt.Sprintf("%d.%d ", client, i)}
		call := time.Since(h.start)
		out := do(ctx, s, in)
		op := porcupine.Operation{ClientId: client, Input: in, Call: int64(call), Output: out, Return: int64(time.Since(h.start))}
		if out.unknown {
			failed++
			if in.kind == opGet {
				continue
			}
			op.Return = math.MaxInt64 // it may still come into effect
		}
		h.mu.Lock()
		h.ops = append(h.ops, op)
		h.mu.Unlock()
	}
	return failed
}

func do(ctx context.Context, s store.Store, in opInput) opOutput {
	var r store.Record
	var err error
	switch in.kind {
	case opGet:
		r, err = s.Get(ctx, in.key)
	case opCreate:
		err = s.Create(ctx, store.Record{Key: in.key, Value: []byte(in.value)})
	case opAppend:
		r, err = s.Update(ctx, in.key, func(old store.Record) ([]byte, time.Time, error) {
			return append(old.Value, in.value...), old.Expires, nil
		})
	case opTake:
		r, err = s.Take(ctx, in.key)
	case opDelete:
		err = s.Delete(ctx, in.key)
	}
	switch {
	case errors.Is(err, store.ErrNotFound):
		return opOutput{}
	case errors.Is(err, store.ErrExists):
		return opOutput{found: true}
	case err != nil:
		return opOutput{unknown: true}
	case in.kind == opCreate || in.kind == opDelete:
		return opOutput{}
	}
	return opOutput{found: true, value: string(r.Value)}
}

// Check fails the test unless the history is linearisable.
func (h *History) Check(t *testing.T) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	result, info := porcupine.CheckOperationsVerbose(linearModel, h.ops, time.Minute)
	switch result {
	case porcupine.Ok:
		t.Logf("%d operations are linearisable", len(h.ops))
	case porcupine.Illegal:
		t.Errorf("no order of the %d operations explains their answers", len(h.ops))
		if file := t.ArtifactDir() + "/history.html"; porcupine.VisualizePath(linearModel, info, file) == nil {
			t.Logf("see %s", file)
		}
	case porcupine.Unknown:
		t.Errorf("the check of %d operations took too long", len(h.ops))
	}
}

func testLinearisable(t *testing.T, f Fixture) {
	stores := f.instances(t, 3)
	h := NewHistory()
	all(6, func(i int) {
		if failed := h.Work(t.Context(), i, stores[i%len(stores)], 150); failed > 0 {
			t.Errorf("client %d: %d operations failed", i, failed)
		}
	})
	h.Check(t)
}
