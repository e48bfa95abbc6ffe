package store

import (
	"maps"
	"slices"
	"strings"
	"sync"
)

// layers are the commits that are in the log and not yet in the store file: by
// key the newest encoded record, or nil where it was removed. One layer takes
// changes; the other one, if there is one, is on its way into the file.
//
// Who reads a record looks here first and begins to read the file then. The other
// order could miss one that goes from here to there meanwhile.
type layers struct {
	mu             sync.RWMutex
	active, frozen map[string][]byte
}

// get returns the newest state of a record; found is false where only the file
// knows it.
func (l *layers) get(key string) (encoded []byte, found bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if encoded, found = l.active[key]; !found {
		encoded, found = l.frozen[key]
	}
	return encoded, found
}

// both returns the layers as they are. Only a commit changes them, but for thaw,
// which leaves a layer that somebody holds as it was.
func (l *layers) both() (active, frozen map[string][]byte) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.active, l.frozen
}

// add puts the changes of a commit on top.
func (l *layers) add(changes map[string][]byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.active == nil {
		l.active = make(map[string][]byte)
	}
	maps.Copy(l.active, changes)
}

// freeze has the next changes go to a new layer and returns the one before.
// There must be no other frozen one.
func (l *layers) freeze() map[string][]byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.frozen, l.active = l.active, nil
	return l.frozen
}

// all returns the changes of both layers.
func (l *layers) all() map[string][]byte {
	l.mu.RLock()
	defer l.mu.RUnlock()
	changes := maps.Clone(l.frozen)
	if changes == nil {
		return maps.Clone(l.active)
	}
	maps.Copy(changes, l.active)
	return changes
}

// thaw forgets the frozen layer, which is in the file now.
func (l *layers) thaw() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.frozen = nil
}

// clear forgets both layers.
func (l *layers) clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.active, l.frozen = nil, nil
}

// change is the newest state of one record.
type change struct {
	key     string
	encoded []byte // nil: removed
}

// list returns what the layers have of the keys that start with prefix and are
// greater than after, ascending.
func (l *layers) list(prefix, after string) []change {
	var found []change
	in := func(key string) bool { return key > after && strings.HasPrefix(key, prefix) }
	l.mu.RLock()
	for key, encoded := range l.active {
		if in(key) {
			found = append(found, change{key, encoded})
		}
	}
	for key, encoded := range l.frozen {
		if _, newer := l.active[key]; !newer && in(key) {
			found = append(found, change{key, encoded})
		}
	}
	l.mu.RUnlock()
	slices.SortFunc(found, func(a, b change) int { return strings.Compare(a.key, b.key) })
	return found
}
