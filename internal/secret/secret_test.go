package secret_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/mcp-clerk/mcp-clerk/internal/secret"
)

func TestASecretShowsItselfOnlyToReveal(t *testing.T) {
	const canary = "canary-4711"
	s := secret.String(canary)
	if s.Reveal() != canary {
		t.Fatal("Reveal lost the secret")
	}
	type config struct {
		Key  secret.String
		Keys []secret.String
	}
	c := config{s, []secret.String{s}}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "key", s, "config", c)
	encoded, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"v": fmt.Sprintf("%v", c), "+v": fmt.Sprintf("%+v", &c), "#v": fmt.Sprintf("%#v", c), "s": fmt.Sprintf("%s", s), "q": fmt.Sprintf("%q", s),
		"error": fmt.Errorf("with %v", s).Error(), "json": string(encoded), "d": fmt.Sprintf("%d", s), "x": fmt.Sprintf("%x", s), "log": log.String(),
	} {
		if strings.Contains(text, canary) {
			t.Errorf("%s shows the secret: %s", name, text)
		}
		if !strings.Contains(text, "redacted") {
			t.Errorf("%s does not say that something was left out: %s", name, text)
		}
	}
}

func TestAnEmptySecretIsSeenToBeEmpty(t *testing.T) {
	if got := fmt.Sprint(secret.String("")); got != "" {
		t.Errorf("got %q", got)
	}
}
