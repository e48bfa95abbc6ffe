package authserver

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// parseMetadata decodes a JSON object whose members of a meaning are names. A
// parser that lets the last of two equal keys win, or takes a key in another
// case, reads something else than the one in front of it; such bodies are
// refused.
func parseMetadata(body []byte, names []string, into any) error {
	if !utf8.Valid(body) {
		return invalidMetadata("the body is not UTF-8")
	}
	if err := checkKeys(body); err != nil {
		return invalidMetadata("%v", err)
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(body, &members); err != nil || members == nil {
		return invalidMetadata("the body is not a JSON object")
	}
	for name, value := range members {
		known := slices.Contains(names, name)
		if !known && slices.Contains(names, foldCase(name)) {
			return invalidMetadata("%q is written in another case", foldCase(name))
		}
		if known && string(value) == "null" {
			return invalidMetadata("%q is null", name)
		}
		if known && bytes.HasPrefix(value, []byte("[")) && hasNull(value) {
			return invalidMetadata("%q contains null", name)
		}
	}
	if err := json.Unmarshal(body, into); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) {
			return invalidMetadata("%q has the wrong type", wrong.Field)
		}
		return invalidMetadata("the body is not valid JSON")
	}
	return nil
}

func hasNull(list json.RawMessage) bool {
	var items []json.RawMessage
	if json.Unmarshal(list, &items) != nil {
		return false
	}
	return slices.ContainsFunc(items, func(item json.RawMessage) bool { return string(item) == "null" })
}

// foldCase maps the spellings of a key that encoding/json takes for one: those
// that differ in case, the long s and the Kelvin sign included.
func foldCase(key string) string { return strings.ToLower(strings.ToUpper(key)) }

const maxDepth = 32

// checkKeys reports a JSON text that is not exactly one value, nests too deep,
// or has two keys in one object that differ in nothing but case.
func checkKeys(body []byte) error {
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	type level struct {
		keys      map[string]bool // nil in an array
		expectKey bool
	}
	var stack []level
	for {
		tok, err := dec.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			return errors.New("the body is not valid JSON")
		}
		top := len(stack) - 1
		delim, isDelim := tok.(json.Delim)
		if isDelim && (delim == '}' || delim == ']') {
			stack = stack[:top]
			continue
		}
		if top >= 0 && stack[top].keys != nil {
			if stack[top].expectKey {
				key := foldCase(tok.(string))
				if stack[top].keys[key] {
					return errors.New("a key comes twice")
				}
				stack[top].keys[key] = true
				stack[top].expectKey = false
				continue
			}
			stack[top].expectKey = true
		}
		if isDelim {
			if len(stack) == maxDepth {
				return errors.New("the body nests too deep")
			}
			l := level{}
			if delim == '{' {
				l = level{keys: map[string]bool{}, expectKey: true}
			}
			stack = append(stack, l)
		}
	}
	// Two values in a row pass the loop above; Unmarshal refuses them.
	return nil
}
