package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"slices"
)

// The log is where a commit of the embedded store becomes durable: one frame at
// the end of one of two files, PATH.log0 and PATH.log1, and one sync. What is in
// it goes into the store file later (checkpoint.go); the two files take turns.
//
// A frame is a header, then for each change the lengths of key and value, key
// and value. It counts if its checksum is right and it is of the generation that
// the store file names, or the one after it. Anything else is the end: what a
// crash tore, or what an earlier generation left in a file that is written over.
// Frames are numbered; the store file names the first of its generation.
const (
	frameMagic  = 0x6c636d01 // "\x01mcl"
	frameHeader = 4 + 4 + 4 + generationSize + 8
	changeSize  = 2 + 4
	removed     = 1<<32 - 1 // in place of a value's length

	// logStep is what a log file grows by, in zeros that later frames are
	// written over: a sync is faster where the size stays.
	logStep = 256 << 10
)

// generation tells the frames that belong to the state of a store file from all
// others: which log, made when the store was opened or backed up, and which turn
// of its two files.
type generation struct {
	log  [16]byte
	turn uint64
}

const generationSize = 16 + 8

func (g generation) append(b []byte) []byte {
	return binary.BigEndian.AppendUint64(append(b, g.log[:]...), g.turn)
}

// position is where a log begins: what the store file says of it.
type position struct {
	generation
	number uint64 // of the first frame
}

func (p position) encode() []byte {
	return binary.BigEndian.AppendUint64(p.append(nil), p.number)
}

func decodePosition(b []byte) (p position, err error) {
	if len(b) != generationSize+8 {
		return p, fmt.Errorf("%w: the log is named by %d bytes", errDamaged, len(b))
	}
	copy(p.log[:], b)
	p.turn, p.number = binary.BigEndian.Uint64(b[16:]), binary.BigEndian.Uint64(b[generationSize:])
	return p, nil
}

// logPath is the file of the even or the odd turns.
func logPath(path string, turn uint64) string {
	if turn%2 == 0 {
		return path + ".log0"
	}
	return path + ".log1"
}

// logFile is one of the two files, open for writing frames of one generation.
type logFile struct {
	*os.File
	sync func(*os.File) error // makes what was written durable
	end  int64                // of the frames
	size int64                // of the file
}

// createLog makes an empty log file in the place of any that is there.
func createLog(path string, sync func(*os.File) error) (*logFile, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	l := &logFile{File: f, sync: sync}
	if err := errors.Join(l.grow(logStep), f.Sync()); err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(path))
	}
	return l, nil
}

// reset has the next frame written at the beginning. A file that has grown far
// beyond keep gives the disk back what it took.
func (l *logFile) reset(keep int64) {
	l.end = 0
	keep = max(keep, logStep)
	if l.size > 2*keep && l.Truncate(keep) == nil {
		l.size = keep
	}
}

// write adds a frame and returns when it is durable. After an error nobody knows
// whether it is on the disk.
func (l *logFile) write(frame []byte) error {
	if err := l.grow(l.end + int64(len(frame))); err != nil {
		return err
	}
	if _, err := l.WriteAt(frame, l.end); err != nil {
		return err
	}
	if err := l.sync(l.File); err != nil {
		return err
	}
	l.end += int64(len(frame))
	return nil
}

// grow makes the file at least n bytes long.
func (l *logFile) grow(n int64) error {
	for l.size < n {
		// Whole steps, so that a write cut short is tried again.
		if _, err := l.WriteAt(zeros[:], l.size); err != nil {
			return err
		}
		l.size += logStep
	}
	return nil
}

var zeros [logStep]byte

// appendFrame encodes the changes of a commit, in any order: there is one a key.
func appendFrame(b []byte, g generation, number uint64, changes map[string][]byte) []byte {
	start := len(b)
	b = binary.BigEndian.AppendUint32(b, frameMagic)
	b = append(b, make([]byte, 8)...) // checksum, length
	b = g.append(b)
	b = binary.BigEndian.AppendUint64(b, number)
	for key, value := range changes {
		b = binary.BigEndian.AppendUint16(b, uint16(len(key)))
		if value == nil {
			b = binary.BigEndian.AppendUint32(b, removed)
		} else {
			b = binary.BigEndian.AppendUint32(b, uint32(len(value)))
		}
		b = append(append(b, key...), value...)
	}
	frame := b[start:]
	binary.BigEndian.PutUint32(frame[8:], uint32(len(frame)))
	binary.BigEndian.PutUint32(frame[4:], crc32.Checksum(frame[8:], crcTable))
	return b
}

// frame is what appendFrame encodes.
type frame struct {
	generation generation
	number     uint64
	changes    []byte
}

// readFrame reads the frame that b starts with; ok is false where none does.
func readFrame(b []byte) (f frame, size int, ok bool) {
	if len(b) < frameHeader || binary.BigEndian.Uint32(b) != frameMagic {
		return frame{}, 0, false
	}
	size = int(binary.BigEndian.Uint32(b[8:]))
	if size < frameHeader || size > len(b) || crc32.Checksum(b[8:size], crcTable) != binary.BigEndian.Uint32(b[4:]) {
		return frame{}, 0, false
	}
	copy(f.generation.log[:], b[12:])
	f.generation.turn = binary.BigEndian.Uint64(b[28:])
	f.number = binary.BigEndian.Uint64(b[36:])
	f.changes = b[frameHeader:size]
	return f, size, true
}

// apply puts the frame's changes on top of others.
func (f frame) apply(changes map[string][]byte) error {
	b := f.changes
	for len(b) > 0 {
		if len(b) < changeSize {
			return fmt.Errorf("%w: a change of %d bytes", errDamaged, len(b))
		}
		keySize, valueSize := int(binary.BigEndian.Uint16(b)), int64(binary.BigEndian.Uint32(b[2:]))
		b = b[changeSize:]
		gone := valueSize == removed
		if gone {
			valueSize = 0
		}
		if int64(len(b)) < int64(keySize)+valueSize || keySize == 0 {
			return fmt.Errorf("%w: a change beyond its frame", errDamaged)
		}
		key, value := string(b[:keySize]), b[keySize:keySize+int(valueSize)]
		b = b[keySize+int(valueSize):]
		if gone {
			changes[key] = nil
			continue
		}
		if _, err := decodeRecord(key, value); err != nil {
			return err
		}
		changes[key] = slices.Clone(value)
	}
	return nil
}

// readLog returns the changes, nil for a removal, that the log from a position
// on has on top of the store file. The end of a log may be torn; frames that are
// missing before others are damage.
func readLog(path string, from position) (map[string][]byte, error) {
	changes := make(map[string][]byte)
	base := from.generation
	for range 2 {
		name := logPath(path, from.turn)
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		// A crash while it grew leaves a part of a step, of zeros.
		if step := b[len(b)/logStep*logStep:]; len(b) < logStep || !bytes.Equal(step, zeros[:len(step)]) {
			return nil, fmt.Errorf("%q: %w: it is cut off at %d bytes", name, errDamaged, len(b))
		}
		for {
			f, size, ok := readFrame(b)
			if !ok || f.generation != from.generation {
				break
			}
			if f.number != from.number {
				return nil, fmt.Errorf("%q: %w: frame %d is where %d belongs", name, errDamaged, f.number, from.number)
			}
			if err := f.apply(changes); err != nil {
				return nil, fmt.Errorf("%q: %w", name, err)
			}
			from.number++
			b = b[size:]
		}
		if f, ok := findFrame(b, base); ok {
			return nil, fmt.Errorf("%q: %w: frame %d of turn %d comes without frame %d of turn %d",
				name, errDamaged, f.number, f.generation.turn, from.number, from.turn)
		}
		from.turn++
	}
	return changes, nil
}

// findFrame looks anywhere in b for a whole frame of the same log, and of the same
// turn or a later one.
func findFrame(b []byte, g generation) (frame, bool) {
	const before = frameHeader - generationSize - 8 // the log's name in a frame
	for from := before; ; from++ {
		i := bytes.Index(b[min(from, len(b)):], g.log[:])
		if i < 0 {
			return frame{}, false
		}
		from += i
		if f, _, ok := readFrame(b[from-before:]); ok && f.generation.turn >= g.turn {
			return f, true
		}
	}
}
