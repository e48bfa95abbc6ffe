package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"log/slog"
)

// verifyPages bounds how many pages are read when a store is opened: with the
// usual 4 KiB all of a file of 64 MiB, and the upper levels of a larger one.
const verifyPages = 16384

// The layout of a bbolt file (version 2). A page is a header of id (8 bytes),
// flags (2), count (2) and overflow (4), then, on a branch or leaf, count
// elements of 16 bytes, whose positions count from the element itself. Integers
// are in the machine's order.
const (
	pageHeader   = 16
	pageElement  = 16
	metaLength   = 64
	bucketHeader = 16

	pageBranch   = 0x01
	pageLeaf     = 0x02
	pageFreelist = 0x10

	elementIsBucket = 0x01
	noFreelist      = ^uint64(0)
)

// verifier reads a store's pages by ordinary reads, so that damage is an error
// here and neither a fault nor a panic in the mapped file later.
type verifier struct {
	d        *database
	pageSize int
	end      uint64 // pages in use
	seen     map[uint64]bool
}

// child is a page to be visited; records says that it belongs to the bucket
// whose values have checksums.
type child struct {
	page    uint64
	records bool
}

// verify reports damage: a file that is cut off, meta, branch, leaf and free
// pages that contradict each other, and records whose checksum is wrong. Beyond
// verifyPages it samples from the root downwards.
func (d *database) verify(log *slog.Logger) error {
	v := &verifier{d: d, pageSize: d.Info().PageSize, seen: make(map[uint64]bool)}
	if v.pageSize < 1024 || v.pageSize > 1<<24 {
		return fmt.Errorf("%w: page size %d", errDamaged, v.pageSize)
	}
	root, freelist, err := v.meta(log)
	if err != nil {
		return err
	}
	info, err := d.file.Stat()
	if err != nil {
		return err
	}
	if size, want := info.Size(), int64(v.end)*int64(v.pageSize); size < want {
		return fmt.Errorf("%w: the file is cut off at %d of %d bytes", errDamaged, size, want)
	}
	queue := []child{{page: root}}
	for i := 0; i < len(queue) && i < verifyPages; i++ {
		found, err := v.page(queue[i])
		if err != nil {
			return err
		}
		queue = append(queue, found...)
		for _, c := range found {
			if c.page < 2 || c.page >= v.end {
				return v.damaged(queue[i].page, "refers to page %d of %d", c.page, v.end)
			}
		}
	}
	if freelist == noFreelist {
		return nil
	}
	return v.freelist(freelist)
}

func (v *verifier) damaged(page uint64, format string, args ...any) error {
	return fmt.Errorf("%w: page %d %s", errDamaged, page, fmt.Sprintf(format, args...))
}

// meta reads both meta pages and returns what the newer valid one says.
func (v *verifier) meta(log *slog.Logger) (root, freelist uint64, err error) {
	var newest uint64
	valid := 0
	for i := range 2 {
		b := make([]byte, metaLength)
		if _, err := v.d.file.ReadAt(b, int64(i*v.pageSize+pageHeader)); err != nil {
			return 0, 0, fmt.Errorf("%w: meta page %d: %w", errDamaged, i, err)
		}
		sum := fnv.New64a()
		_, _ = sum.Write(b[:56])
		if binary.NativeEndian.Uint64(b[56:]) != sum.Sum64() {
			// A commit that the power ended leaves this too.
			log.Warn("a meta page of the store file is damaged; the other one is used", "path", v.d.path, "page", i)
			continue
		}
		if txid := binary.NativeEndian.Uint64(b[48:]); valid == 0 || txid > newest {
			newest = txid
			root = binary.NativeEndian.Uint64(b[16:])
			freelist = binary.NativeEndian.Uint64(b[32:])
			v.end = binary.NativeEndian.Uint64(b[40:])
		}
		valid++
	}
	if valid == 0 || root < 2 || root >= v.end || v.end > 1<<40 {
		return 0, 0, fmt.Errorf("%w: no valid meta page", errDamaged)
	}
	return root, freelist, nil
}

// read returns page id with its overflow, and its header.
func (v *verifier) read(id uint64) (b []byte, flags uint16, err error) {
	header := make([]byte, pageHeader)
	if _, err := v.d.file.ReadAt(header, int64(id)*int64(v.pageSize)); err != nil {
		return nil, 0, v.damaged(id, "can't be read (%v)", err)
	}
	if got := binary.NativeEndian.Uint64(header); got != id {
		return nil, 0, v.damaged(id, "says it is page %d", got)
	}
	overflow := uint64(binary.NativeEndian.Uint32(header[12:]))
	if id+overflow >= v.end {
		return nil, 0, v.damaged(id, "ends at page %d of %d", id+overflow, v.end)
	}
	for i := id; i <= id+overflow; i++ {
		if v.seen[i] {
			return nil, 0, v.damaged(i, "is used twice")
		}
		v.seen[i] = true
	}
	b = make([]byte, (overflow+1)*uint64(v.pageSize))
	if _, err := v.d.file.ReadAt(b, int64(id)*int64(v.pageSize)); err != nil {
		return nil, 0, v.damaged(id, "can't be read (%v)", err)
	}
	return b, binary.NativeEndian.Uint16(header[8:]), nil
}

func (v *verifier) page(c child) ([]child, error) {
	b, flags, err := v.read(c.page)
	if err != nil {
		return nil, err
	}
	return v.elements(c.page, flags, b, c.records)
}

// elements checks the elements of a branch or leaf page, or of the page of a
// small bucket inside a leaf, and returns the pages below it.
func (v *verifier) elements(page uint64, flags uint16, b []byte, records bool) (below []child, err error) {
	if flags != pageBranch && flags != pageLeaf {
		return nil, v.damaged(page, "is neither branch nor leaf (%#x)", flags)
	}
	count := int(binary.NativeEndian.Uint16(b[10:]))
	if pageHeader+count*pageElement > len(b) {
		return nil, v.damaged(page, "has %d elements in %d bytes", count, len(b))
	}
	var last []byte
	for i := range count {
		at := pageHeader + i*pageElement
		e := b[at : at+pageElement]
		var pos, ksize, vsize uint64
		if flags == pageBranch {
			pos, ksize = uint64(binary.NativeEndian.Uint32(e)), uint64(binary.NativeEndian.Uint32(e[4:]))
		} else {
			pos, ksize = uint64(binary.NativeEndian.Uint32(e[4:])), uint64(binary.NativeEndian.Uint32(e[8:]))
			vsize = uint64(binary.NativeEndian.Uint32(e[12:]))
		}
		from := uint64(at) + pos
		if pos < pageElement || from+ksize+vsize > uint64(len(b)) {
			return nil, v.damaged(page, "has an element beyond its end")
		}
		key, value := b[from:from+ksize], b[from+ksize:from+ksize+vsize]
		if i > 0 && bytes.Compare(last, key) >= 0 {
			return nil, v.damaged(page, "has its keys out of order")
		}
		last = key
		switch {
		case flags == pageBranch:
			below = append(below, child{binary.NativeEndian.Uint64(e[8:]), records})
		case binary.NativeEndian.Uint32(e)&elementIsBucket != 0:
			found, err := v.bucket(page, value, bytes.Equal(key, recordsBucket))
			if err != nil {
				return nil, err
			}
			below = append(below, found...)
		case records:
			if _, err := decodeRecord(string(key), value); err != nil {
				return nil, err
			}
		}
	}
	return below, nil
}

// bucket checks the value that stands for a bucket: where its root is, or, for
// a small one, the page itself.
func (v *verifier) bucket(page uint64, value []byte, records bool) ([]child, error) {
	if len(value) < bucketHeader {
		return nil, v.damaged(page, "has a bucket of %d bytes", len(value))
	}
	if root := binary.NativeEndian.Uint64(value); root != 0 {
		return []child{{root, records}}, nil
	}
	inline := value[bucketHeader:]
	if len(inline) < pageHeader {
		return nil, v.damaged(page, "has a bucket of %d bytes", len(value))
	}
	return v.elements(page, binary.NativeEndian.Uint16(inline[8:]), inline, records)
}

// freelist checks that no page in use is free, since it would be overwritten.
func (v *verifier) freelist(id uint64) error {
	if id < 2 || id >= v.end {
		return v.damaged(id, "is no place for the list of free pages")
	}
	b, flags, err := v.read(id)
	if err != nil {
		return err
	}
	if flags != pageFreelist {
		return v.damaged(id, "is not the list of free pages (%#x)", flags)
	}
	at, count := uint64(pageHeader), uint64(binary.NativeEndian.Uint16(b[10:]))
	if count == 0xFFFF { // the number is in the first element
		count = binary.NativeEndian.Uint64(b[at:])
		at += 8
	}
	if count > (uint64(len(b))-at)/8 {
		return v.damaged(id, "has %d free pages in %d bytes", count, len(b))
	}
	free := make(map[uint64]bool, count)
	for i := range count {
		page := binary.NativeEndian.Uint64(b[at+8*i:])
		if page < 2 || page >= v.end || free[page] || v.seen[page] {
			return v.damaged(id, "lists page %d wrongly as free", page)
		}
		free[page] = true
	}
	return nil
}
