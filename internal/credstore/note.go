package credstore

import (
	"bytes"
	"fmt"
	"path/filepath"
)

// maxNote bounds a note, in bytes.
const maxNote = 256 << 10

// Note is a small file beside a record for what is no secret and can be had
// again: readable by its owner only, replaced atomically, not sealed, without
// lock or generation. It goes when the record is deleted.
type Note struct{ record *Record }

// Note returns the note beside the record, which need not exist.
func (r *Record) Note() *Note { return &Note{r} }

// Read returns what was written last, or nil.
func (n *Note) Read() []byte {
	raw, err := readFile(n.path())
	if err != nil || len(raw) > maxNote {
		return nil
	}
	return raw
}

// Write replaces the note unless it is the same already.
func (n *Note) Write(data []byte) error {
	if len(data) > maxNote {
		return fmt.Errorf("write note %q: %d bytes are too many", n.path(), len(data))
	}
	if bytes.Equal(n.Read(), data) {
		return nil
	}
	if err := n.record.store.ensureDir(); err != nil {
		return err
	}
	if err := writeFile(n.path(), data); err != nil {
		return fmt.Errorf("write note: %w", err)
	}
	return nil
}

func (n *Note) remove() {
	_ = remove(n.path()) // it holds nothing that must be gone
}

func (n *Note) path() string { return filepath.Join(n.record.store.dir, n.record.name+".note") }
