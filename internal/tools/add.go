package tools

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"

	"github.com/mark3labs/mcp-go/mcp"
)

const addInput = `{
  "type": "object",
  "properties": {
    "a": {"type": "number", "description": "The first number"},
    "b": {"type": "number", "description": "The second number"}
  },
  "required": ["a", "b"],
  "additionalProperties": false
}`

const addOutput = `{
  "type": "object",
  "properties": {
    "sum": {"type": "number", "description": "a + b, exact"}
  },
  "required": ["sum"],
  "additionalProperties": false
}`

// maxNumberLength bounds the literal of one number. The longest a float64
// prints to has 327 characters; exact arithmetic on more is work for nobody.
const maxNumberLength = 400

// maxFloat is the largest number a reader that uses IEEE 754 doubles holds.
var maxFloat = new(big.Rat).SetFloat64(math.MaxFloat64)

// Add returns the tool that adds two numbers: {a, b} -> {"sum": …}, as
// structured content, and the sum alone as text. The arithmetic is decimal and
// exact, so integers beyond 2^53 keep their digits and 0.1 + 0.2 is 0.3.
func Add() (mcp.Tool, Handler) {
	tool := mcp.Tool{
		Name:            "add",
		Title:           "Add two numbers",
		Description:     "Adds two numbers and returns their exact sum.",
		RawInputSchema:  json.RawMessage(addInput),
		RawOutputSchema: json.RawMessage(addOutput),
		Annotations:     hints("Add two numbers", true, false),
	}
	return tool, func(_ context.Context, req mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		args, err := parseArguments(req, "a", "b")
		if err != nil {
			return refuse("%v", err), nil
		}
		if a, ok := args.small("a"); ok {
			if b, ok := args.small("b"); ok {
				return sumResult(strconv.FormatInt(a+b, 10)), nil
			}
		}
		a, err := args.number("a")
		if err != nil {
			return refuse("%v", err), nil
		}
		b, err := args.number("b")
		if err != nil {
			return refuse("%v", err), nil
		}
		total := new(big.Rat).Add(a, b)
		if new(big.Rat).Abs(total).Cmp(maxFloat) > 0 {
			return refuse("the sum is beyond what a JSON number can carry to most readers (about 1.8e308)"), nil
		}
		// Both terms are finite decimals, so their sum is one, too.
		digits, _ := total.FloatPrec()
		return sumResult(total.FloatString(digits)), nil
	}
}

func sumResult(text string) *mcp.CallToolResult {
	return &mcp.CallToolResult{
		Content:              []mcp.Content{mcp.NewTextContent(text)},
		RawStructuredContent: json.RawMessage(`{"sum":` + text + `}`),
	}
}

// small reads an integer that needs no exact arithmetic.
func (a arguments) small(name string) (int64, bool) {
	raw := a.get(name)
	if len(raw) == 0 || len(raw) > 18 {
		return 0, false
	}
	n, err := strconv.ParseInt(string(raw), 10, 64)
	return n, err == nil
}

// number reads a finite JSON number exactly.
func (a arguments) number(name string) (*big.Rat, error) {
	if !a.given(name) {
		return nil, fmt.Errorf("argument %q is missing: it must be a number", name)
	}
	raw := bytes.TrimSpace(a.get(name))
	if len(raw) > maxNumberLength {
		return nil, fmt.Errorf("argument %q is too long: at most %d characters", name, maxNumberLength)
	}
	// The first byte tells a number from every other JSON value.
	if c := raw[0]; c != '-' && (c < '0' || c > '9') {
		return nil, fmt.Errorf("argument %q must be a number", name)
	}
	// The range is checked before the exact value is built: neither
	// 1e999999999 nor 1e-900000 may be expanded.
	near, err := json.Number(raw).Float64()
	if err != nil {
		return nil, fmt.Errorf("argument %q must be a finite number", name)
	}
	mantissa, _, _ := strings.Cut(strings.ToLower(string(raw)), "e")
	if near == 0 && strings.ContainsAny(mantissa, "123456789") {
		return nil, fmt.Errorf("argument %q is too close to zero for a JSON number", name)
	}
	exact, ok := new(big.Rat).SetString(string(raw))
	if !ok {
		return nil, fmt.Errorf("argument %q must be a finite number", name)
	}
	return exact, nil
}
