package authserver_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/authserver"
	"github.com/mcp-clerk/mcp-clerk/internal/store"
)

func BenchmarkVerify(b *testing.B) {
	e := newEnv(b)
	tk := e.signIn(e.register("Web", webRedirect))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := e.srv.Verify(context.Background(), tk.access); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFlow is registration, authorization, consent, callback and tokens,
// with a provider that costs next to nothing.
func BenchmarkFlow(b *testing.B) {
	e := newEnv(b)
	b.ReportAllocs()
	for b.Loop() {
		e.signIn(e.register("Web", webRedirect))
		e.clock.advance(time.Second)
	}
}

func BenchmarkRefreshMemory(b *testing.B) {
	e := newEnv(b)
	benchmarkRefresh(b, e, e.store, e.clock.Now, func() { e.clock.advance(5 * time.Minute) })
}

// BenchmarkRefreshDurable commits each rotation to disk, with 32 in flight.
func BenchmarkRefreshDurable(b *testing.B) {
	e := newEnv(b)
	disk, err := store.Open(b.Context(), "bolt:"+filepath.Join(b.TempDir(), "store.db"), store.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer disk.Close()
	e.clock.now = time.Now()
	benchmarkRefresh(b, e, disk, time.Now, func() {})
}

func benchmarkRefresh(b *testing.B, e *env, st store.Store, now func() time.Time, pause func()) {
	e.start(func(o *authserver.Options) { o.Store, o.Now = st, now })
	mux := http.NewServeMux()
	e.srv.Register(mux)
	c := e.register("Web", webRedirect)
	const workers = 32
	var families [workers]string
	for i := range families {
		families[i] = e.signIn(c).refresh
	}
	var left atomic.Int64
	left.Store(int64(b.N))
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	var limited atomic.Int64
	for i := range families {
		wg.Go(func() {
			for n := 0; left.Add(-1) >= 0; n++ {
				r := httptest.NewRequest("POST", e.issuer+"/token", strings.NewReader(c.form("grant_type", "refresh_token", "refresh_token", families[i]).Encode()))
				r.RemoteAddr = "127.0.0.1:1"
				r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
				w := httptest.NewRecorder()
				mux.ServeHTTP(w, r)
				switch w.Code {
				case http.StatusOK:
					families[i] = e.tokens(answer{w.Code, w.Header(), w.Body.Bytes()}).refresh
				case http.StatusTooManyRequests:
					limited.Add(1)
					pause()
				default:
					b.Errorf("%d %s", w.Code, w.Body)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(int64(b.N)-limited.Load())/b.Elapsed().Seconds(), "refreshes/s")
}
