package client_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/internal/realserver"
	"github.com/ringside-cache/ringside/stampede"
)

// TestEnvelopeOnMetaNode: where one client takes a node for a proxy, or wrote
// before an upgrade, another that sees the meta commands must neither serve the
// envelope as a value nor be kept from filling the key.
func TestEnvelopeOnMetaNode(t *testing.T) {
	test := func(t *testing.T, addr string) {
		ctx := t.Context()
		before := newClient(t, healthy(makeOld(t, addr, versionOf("1.4.39"))))
		after := newClient(t, healthy(addr))
		ask := stampede.Read{Lease: time.Minute, Grace: time.Minute}
		for _, tt := range []struct {
			name string
			put  func(l leaser)
		}{
			{"a value", func(l leaser) {
				won := l.is(l.read(ask), "", "W")
				l.write(stampede.Write{Kind: stampede.Fill, Lease: won.Lease, Value: []byte("in it"), Flags: testFlags, TTL: time.Hour, Grace: time.Hour}, nil)
			}},
			{"a stub", func(l leaser) { l.is(l.read(ask), "", "W") }},
			{"a void one", func(l leaser) {
				won := l.is(l.read(ask), "", "W")
				l.write(stampede.Write{Kind: stampede.Remove, Lease: won.Lease}, nil)
			}},
		} {
			t.Run(tt.name, func(t *testing.T) {
				key := strings.ReplaceAll(tt.name, " ", "-")
				old, l := leaser{t, before, key}, leaser{t, after, key}
				tt.put(old)
				if item, err := after.Get(ctx, l.key); !errors.Is(err, client.ErrCacheMiss) {
					t.Errorf("a plain get: %+v, %v", item, err)
				}
				if v, _, err := after.GetInto(ctx, l.key, nil); !errors.Is(err, client.ErrCacheMiss) {
					t.Errorf("a plain get: %q, %v", v, err)
				}
				if items, err := after.GetMulti(ctx, []string{l.key, "gone"}); len(items) != 0 || err != nil {
					t.Errorf("a multi-get: %v, %v", items, err)
				}
				won := l.is(l.read(ask), "", "W")
				l.is(l.read(ask), "", "Z")
				l.write(stampede.Write{Kind: stampede.Fill, Lease: won.Lease, Value: []byte("new"), Flags: testFlags, TTL: time.Hour, Grace: time.Hour}, nil)
				l.is(l.read(ask), "new", "")

				// The same for many, and for one that was invalidated.
				tt.put(leaser{t, before, "many"})
				l.key = "many"
				l.write(stampede.Write{Kind: stampede.Invalidate, Key: l.key, TTL: time.Minute}, nil)
				replies := after.ReadLeased(ctx, []stampede.Read{{Key: "none"}, {Key: l.key, Lease: time.Minute}})
				l.is(replies[0], "", "-")
				l.is(replies[1], "", "W")
				after.Delete(ctx, l.key) //nolint:errcheck // for the next
			})
		}
	}
	t.Run("memcached", func(t *testing.T) { test(t, realserver.Memcached(t).Addr()) })
	t.Run("memnode", func(t *testing.T) { test(t, newMemnode(t).Addr()) })
}
