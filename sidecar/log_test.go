package sidecar_test

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/ringside-cache/ringside/client"
	ringsidev1 "github.com/ringside-cache/ringside/proto/ringside/v1"
	"github.com/ringside-cache/ringside/ring"
	"github.com/ringside-cache/ringside/sidecar"
)

// TestLogHasNoKeys: whatever happens to requests, at every level.
func TestLogHasNoKeys(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"text", "json"} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			log := &syncBuffer{}
			opts := &slog.HandlerOptions{Level: slog.LevelDebug - 10}
			var h slog.Handler = slog.NewTextHandler(log, opts)
			if format == "json" {
				h = slog.NewJSONHandler(log, opts)
			}
			s := startPair(t, sidecar.Config{
				Client:    client.Config{Health: ring.HealthConfig{FailureLimit: 1, RetryTimeout: time.Hour}},
				Memcached: "on", GRPC: "on", Admin: "on", Logger: slog.New(h),
			})
			p := dial(t, s.addr("memcached"))
			live, dead := s.key(t, "live", 0), s.key(t, "dead", 0)
			session := func() {
				for _, key := range []string{live, dead} {
					p.ask(fmt.Sprintf("set %s 0 0 1\r\n1\r\nget %s\r\nincr %s x\r\nmg %s v\r\ndelete %s\r\nset %s\x01 0 0 1\r\n1\r\n%s\r\n",
						key, key, key, key, key, key, key))
					p.ask("get __ringside__.explain(" + key + ")\r\n")
					c, ctx := cacheOf(t, s.running), within(t)
					c.Get(ctx, &ringsidev1.GetRequest{Key: []byte(key)})
					c.Get(ctx, &ringsidev1.GetRequest{Key: []byte(key + " ")})
					c.Lease(ctx, &ringsidev1.LeaseRequest{Key: []byte(key)})
					c.GetMulti(ctx, &ringsidev1.GetMultiRequest{Keys: [][]byte{[]byte(key), []byte(key + "\n")}})
					fetch(t, s.running, "GET", "/api/explain?key="+key)
					fetch(t, s.running, "GET", "/api/explain?key="+key+"%0a")
				}
			}
			session()
			eject(t, s)
			session()
			other := dial(t, s.addr("memcached"))
			other.send("set " + live + " 0 0 10\r\nhalf")
			other.nc.Close()
			s.stop(t)
			got := log.String()
			if !strings.Contains(got, "node ejected") || !strings.Contains(got, "draining") {
				t.Errorf("the log is %q", shorten(got))
			}
			if i := strings.Index(got, secret); i >= 0 {
				t.Errorf("a key is in the log: …%s", shorten(got[max(0, i-100):]))
			}
		})
	}
}
