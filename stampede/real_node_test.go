package stampede_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/internal/realserver"
	"github.com/ringside-cache/ringside/ring"
	"github.com/ringside-cache/ringside/stampede"
)

// These tests are of leases when their node dies, restarts, or is stood in for.

func TestLeasesAndNodes(t *testing.T) {
	t.Parallel()
	together(t, map[string]func(*testing.T){
		"stand-in":                 standIn,
		"no failover":              noFailover,
		"restart":                  restart,
		"restart that keeps items": restartThatKeeps,
	})
}

// A pair are two nodes and a client that takes one for dead soon.
type pair struct {
	owner, other *realserver.Server
	client       *client.Client
	key          string // of the owner
}

func newPair(t *testing.T, failover client.Failover) *pair {
	t.Helper()
	p := &pair{owner: realserver.Memcached(t), other: realserver.Memcached(t)}
	c, err := client.New(client.Config{
		Servers: []string{"owner@" + p.owner.Addr(), "other@" + p.other.Addr()}, Failover: failover, Timeout: 5 * time.Second,
		// It stays out for the rest of the test.
		Health: ring.HealthConfig{RetryTimeout: time.Hour, MaxRetryTimeout: time.Hour},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	p.client = c
	for i := 0; p.key == ""; i++ {
		key := fmt.Sprint("key:", i)
		e, err := c.Explain(key)
		if err != nil {
			t.Fatal(err)
		}
		if e.Owner == "owner" {
			p.key = key
		}
	}
	return p
}

func (p *pair) eject(t *testing.T) {
	t.Helper()
	p.owner.Kill()
	eventually(t, 20*time.Second, "the owner is ejected", func() bool {
		p.client.Get(t.Context(), p.key)
		for _, n := range p.client.Stats().Nodes {
			if n.Name == "owner" {
				return n.Ejections == 1
			}
		}
		return false
	})
}

// begin has a load hang until the channel is closed, and gives what it brought
// to its caller.
func begin(t *testing.T, c *stampede.Cache, key string, release <-chan struct{}) (result chan string) {
	t.Helper()
	result = make(chan string, 1)
	loading := make(chan struct{})
	go func() {
		b, err := c.Fetch(t.Context(), key, func(context.Context, string) ([]byte, error) {
			close(loading)
			<-release
			return []byte("late"), nil
		})
		result <- fmt.Sprint(string(b), " ", err)
	}()
	<-loading
	return result
}

// The owner is killed. The fill of its lease is not sent to the stand-in, which
// has leases of its own and values that are not due at birth; and who changes
// something is told that the owner does not know.
func standIn(t *testing.T) {
	p := newPair(t, client.FailoverNext)
	c, o := newCache(t, p.client, stampede.Config{TTL: time.Minute, Grace: time.Hour}), &origin{}
	release := make(chan struct{})
	result := begin(t, c, p.key, release)
	p.eject(t)
	close(release)
	if got := <-result; got != "late <nil>" {
		t.Errorf("the caller of the owner's lease got %s", got)
	}
	if s := c.Stats(); s.Refused[stampede.RefusedUnbound] != 1 || s.Fills != 0 {
		t.Errorf("stats %+v", s)
	}
	if r := read(t, p.client, stampede.Read{Key: p.key}); r.Found || !r.StandIn {
		t.Errorf("the stand-in has %+v", r)
	}
	began := time.Now()
	for range 20 {
		if b, err := c.Fetch(t.Context(), p.key, o.load); string(b) != p.key+"/1" || err != nil {
			t.Errorf("%q, %v after %v", b, err, time.Since(began))
		}
	}
	if r := read(t, p.client, stampede.Read{Key: p.key}); r.Left > 10*time.Second || r.Left < 0 {
		t.Errorf("the stand-in keeps it for %v", r.Left)
	}
	if s := c.Stats(); s.StaleHits != 0 || s.Wins != 2 {
		t.Errorf("a value of the stand-in is due at birth: %+v", s)
	}
	// Changes are made on the stand-in, and said to be no more than that.
	if err := c.Invalidate(t.Context(), p.key); !errors.Is(err, stampede.ErrOwnerDown) {
		t.Errorf("Invalidate: %v", err)
	}
	if b, err := c.Fetch(t.Context(), p.key, o.load, stampede.Fresh()); string(b) != p.key+"/2" || err != nil {
		t.Errorf("after Invalidate: %q, %v", b, err)
	}
	if b, err := c.Refresh(t.Context(), p.key, o.load); string(b) != p.key+"/3" || !errors.Is(err, stampede.ErrOwnerDown) {
		t.Errorf("Refresh: %q, %v", b, err)
	}
	if b, err := c.Fetch(t.Context(), p.key, o.load); string(b) != p.key+"/3" || err != nil {
		t.Errorf("after Refresh: %q, %v", b, err)
	}
	if err := c.Delete(t.Context(), p.key); !errors.Is(err, stampede.ErrOwnerDown) {
		t.Errorf("Delete: %v", err)
	}
	if b, err := c.Fetch(t.Context(), p.key, o.load); string(b) != p.key+"/4" || err != nil {
		t.Errorf("after Delete: %q, %v", b, err)
	}
}

// The same for a client that does without stand-ins.
func noFailover(t *testing.T) {
	p := newPair(t, client.FailoverNone)
	c, o := newCache(t, p.client, stampede.Config{MaxLoads: 2}), &origin{}
	release := make(chan struct{})
	result := begin(t, c, p.key, release)
	p.eject(t)
	if _, err := p.client.Get(t.Context(), p.key); !errors.Is(err, client.ErrNodeDown) {
		t.Fatalf("Get: %v", err)
	}
	close(release)
	if got := <-result; got != "late <nil>" {
		t.Errorf("the caller of the owner's lease got %s", got)
	}
	if s := c.Stats(); s.Refused[stampede.RefusedUnbound]+s.Refused[stampede.RefusedError] != 1 || s.Fills != 0 {
		t.Errorf("stats %+v", s)
	}
	for i := range 3 { // loads, and stores nothing
		if b, err := c.Fetch(t.Context(), p.key, o.load); string(b) != fmt.Sprint(p.key, "/", i+1) || err != nil {
			t.Errorf("%q, %v", b, err)
		}
	}
	for what, change := range map[string]func(context.Context, string) error{"Invalidate": c.Invalidate, "Delete": c.Delete} {
		if err := change(t.Context(), p.key); !errors.Is(err, stampede.ErrOwnerDown) || !errors.Is(err, client.ErrNodeDown) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if b, err := c.Refresh(t.Context(), p.key, o.load); len(b) != 0 || !errors.Is(err, stampede.ErrOwnerDown) || !errors.Is(err, client.ErrNodeDown) {
		t.Errorf("Refresh: %q, %v", b, err)
	}
	// The other node has nothing of it.
	other := newPatientClient(t, p.other.Addr())
	if r := read(t, other, stampede.Read{Key: p.key}); r.Found {
		t.Errorf("the other node has %+v", r)
	}
	// Loads are bounded as ever.
	a, b := make(chan struct{}), make(chan struct{})
	defer close(a)
	defer close(b)
	begin(t, c, p.key, a)
	for i := 0; ; i++ {
		key := fmt.Sprint("another:", i)
		if e, err := p.client.Explain(key); err == nil && e.Owner == "owner" {
			begin(t, c, key, b)
			break
		}
	}
	for i := 0; ; i++ {
		key := fmt.Sprint("third:", i)
		if e, err := p.client.Explain(key); err == nil && e.Owner == "owner" {
			if _, err := c.Fetch(t.Context(), key, o.load); !errors.Is(err, stampede.ErrOriginBusy) {
				t.Errorf("a third load at a time: %v", err)
			}
			break
		}
	}
}

// raw sends a request by hand and gives the first line of the answer.
func raw(t *testing.T, addr, request string) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return line
}

// again waits until the client has connected to a server that was restarted.
func again(t *testing.T, c *client.Client, key string) {
	t.Helper()
	eventually(t, 20*time.Second, "the client has connected again", func() bool {
		return c.ReadLeased(t.Context(), []stampede.Read{{Key: key}})[0].Err == nil
	})
}

// The server is restarted, and counts its CAS ids from the same number on. A
// new lease has the id of the old one, and the old one's fill is refused all
// the same.
func restart(t *testing.T) {
	server := realserver.Memcached(t)
	holder, other := newPatientClient(t, server.Addr()), newPatientClient(t, server.Addr())
	a := newCache(t, holder, stampede.Config{Lease: time.Minute})
	release := make(chan struct{})
	result := begin(t, a, "k", release)
	stub := read(t, other, stampede.Read{Key: "k"}).Lease
	before := []stampede.Lease{stub, win(t, holder, "second")}
	server.Kill()
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	again(t, other, "k")
	// The same is done in the same order.
	now := []stampede.Lease{win(t, other, "k"), win(t, other, "second")}
	for i := range now {
		if now[i].CAS != before[i].CAS || now[i].Generation == before[i].Generation {
			t.Fatalf("the id of before does not repeat, so that this shows nothing: %+v, %+v", before[i], now[i])
		}
	}
	if line := raw(t, server.Addr(), fmt.Sprintf("ms second 4 C%d\r\nlate\r\n", before[1].CAS)); line != "HD\r\n" {
		t.Fatalf("memcached refuses a late fill by itself, so that this shows nothing: %q", line)
	}
	again(t, holder, "k")
	close(release)
	if got := <-result; got != "late <nil>" {
		t.Errorf("the caller of before got %s", got)
	}
	if s := a.Stats(); s.Refused[stampede.RefusedUnbound] != 1 || s.Fills != 0 {
		t.Errorf("stats %+v", s)
	}
	if r := read(t, other, stampede.Read{Key: "k"}); len(r.Value) != 0 || !r.Taken || r.Lease != now[0] {
		t.Errorf("the new lease has become %+v", r)
	}
	fill := stampede.Write{Lease: now[0], Value: []byte("v"), Flags: 0x52534401, TTL: time.Minute}
	if r := other.WriteLeased(t.Context(), []stampede.Write{fill})[0]; r.Err != nil {
		t.Errorf("the fill of the new lease: %v", r.Err)
	}
}

// With -e FILE a memcached that ends by SIGUSR1 has its items again after a
// restart: values, stubs and win tokens with their CAS ids. The holders of
// before are refused, and others take over.
func restartThatKeeps(t *testing.T) {
	server := realserver.Memcached(t, "-e", filepath.Join(t.TempDir(), "memory"), "-m", "64")
	holder, other := newPatientClient(t, server.Addr()), newPatientClient(t, server.Addr())
	a := newCache(t, holder, stampede.Config{Lease: 50 * time.Second})
	b := newCache(t, other, stampede.Config{Lease: 2 * time.Second})
	o := &origin{}
	for _, key := range []string{"fresh", "stale"} {
		if _, err := a.Fetch(t.Context(), key, o.load); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Invalidate(t.Context(), "stale"); err != nil {
		t.Fatal(err)
	}
	release := make(chan struct{})
	result := begin(t, a, "stub", release)
	token := win(t, holder, "stale")
	keys := []string{"fresh", "stale", "stub"}
	var before []stampede.Reply
	for _, key := range keys {
		before = append(before, read(t, other, stampede.Read{Key: key}))
	}
	if !before[1].Taken || !before[1].Stale || !before[2].Taken {
		t.Fatalf("before: %+v", before)
	}
	if err := server.Terminate(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	again(t, other, "fresh")
	again(t, holder, "fresh")
	for i, key := range keys {
		was, is := before[i], read(t, other, stampede.Read{Key: key})
		if is.Lease.CAS != was.Lease.CAS || string(is.Value) != string(was.Value) || is.Taken != was.Taken || is.Stale != was.Stale || !is.Found {
			t.Errorf("%s has not survived: %+v, before %+v", key, is, was)
		}
	}
	// The ids are the same and no other has changed the items.
	close(release)
	if got := <-result; got != "late <nil>" {
		t.Errorf("the caller of before got %s", got)
	}
	if s := a.Stats(); s.Refused[stampede.RefusedUnbound] != 1 {
		t.Errorf("stats %+v", s)
	}
	wantRefused(t, holder, token, stampede.ErrUnbound)
	// Taken over in the end: the stub is waited for, the value is served.
	calls := o.calls.Load()
	if v, err := b.Fetch(t.Context(), "fresh", o.load); string(v) != "fresh/1" || err != nil {
		t.Errorf("fresh: %q, %v", v, err)
	}
	if v, err := b.Fetch(t.Context(), "stale", o.load); string(v) != "stale/2" || err != nil {
		t.Errorf("stale: %q, %v", v, err)
	}
	if v, err := b.Fetch(t.Context(), "stub", o.load); string(v) != fmt.Sprint("stub/", calls+1) || err != nil {
		t.Errorf("stub: %q, %v", v, err)
	}
	eventually(t, 20*time.Second, "the stale value is replaced", func() bool {
		v, err := b.Fetch(t.Context(), "stale", o.load)
		return err == nil && string(v) == fmt.Sprint("stale/", calls+2)
	})
	if s := b.Stats(); s.Takeovers != 2 || s.Loads != 2 {
		t.Errorf("stats %+v", s)
	}
}
