package clerk

import (
	"regexp"
	"strings"
	"sync"
)

// Sets of characters.
const (
	lower     = "abcdefghijklmnopqrstuvwxyz"
	idChars   = lower + "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"
	printable = idChars + "!\"#$%&'()*+,./:;<=>?@[\\]^`{|}~"
)

// form is what an id looks like: one of the prefixes, if there are any, and
// then from least to most characters. A regular expression that counts so far
// takes long to compile, at every start of the program.
type form struct {
	prefixes    []string
	chars       string
	least, most int
}

// MatchString reports whether s has the form.
func (f form) MatchString(s string) bool {
	known := len(f.prefixes) == 0
	for _, prefix := range f.prefixes {
		if rest, ok := strings.CutPrefix(s, prefix); ok {
			s, known = rest, true
			break
		}
	}
	return known && f.least <= len(s) && len(s) <= f.most && strings.Trim(s, f.chars) == ""
}

// lazily compiles an expression when it is first needed.
func lazily(expression string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) })
}
