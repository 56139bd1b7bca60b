package sidecar

import (
	"strings"
	"testing"

	"github.com/ringside-cache/ringside/proto/memcached"
)

// An exchange that is done holds nothing of what it was made from: what it
// pointed to is a buffer of a connection that may be idle for long.
func TestExchangeLetsGo(t *testing.T) {
	var x exchange
	x.limit, x.most = 1000, 1000
	text := []byte("get a b c\r\nset k 0 0 3\r\nabc\r\nmg k v O1\r\n" + strings.Repeat("get k\r\n", 200))
	for rest := text; len(rest) > 0; {
		req := x.nextRequest()
		n, err := memcached.ParseRequest(rest, req, 1000)
		if err != nil {
			t.Fatal(err)
		}
		if !x.add(req) {
			t.Fatal("not complete")
		}
		rest = rest[n:]
	}
	x.reset(0)
	for _, req := range x.requests {
		if req.Key != nil || req.Value != nil || req.Arg != nil {
			t.Errorf("%+v", req)
		}
		for _, key := range req.Keys[:cap(req.Keys)] {
			if key != nil {
				t.Errorf("a key %q", key)
			}
		}
		for _, f := range req.Meta[:cap(req.Meta)] {
			if f.Arg != nil {
				t.Errorf("a flag %c%s", f.Letter, f.Arg)
			}
		}
	}
	x.trim()
	if x.requests != nil || x.steps != nil {
		t.Errorf("%d requests are kept", len(x.requests))
	}
}
