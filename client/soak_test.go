package client_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/ring"
)

var (
	soakOps  = flag.Int64("soak.ops", 100_000, "operations of TestSoak")
	soakTime = flag.Duration("soak.time", 5*time.Minute, "TestSoak ends after it, and fails where it has done fewer operations")
	soakSeed = flag.Uint64("soak.seed", 1, "what TestSoak draws from")
)

// Values are records: the key, a sequence number, the length of the whole and
// a sum over it, so that whatever is cut, mixed or another's is seen.

// appendRecord appends a record of n bytes, or as few as it takes.
func appendRecord(b []byte, key string, seq int64, n int) []byte {
	start := len(b)
	head := fmt.Sprintf("%s;%d;", key, seq)
	n = max(n, len(head)+len("123456;")+8)
	b = fmt.Appendf(b, "%s%d;", head, n)
	for len(b)-start < n-8 {
		b = append(b, head[:min(len(head), n-8-(len(b)-start))]...)
	}
	return fmt.Appendf(b, "%08x", crc32.ChecksumIEEE(b[start:]))
}

// readRecord takes a record of the key off the front of b.
func readRecord(b []byte, key string) (seq int64, rest []byte, err error) {
	word := func(from int) (string, int) {
		end := bytes.IndexByte(b[min(from, len(b)):], ';')
		if end < 0 {
			return "", len(b)
		}
		return string(b[from : from+end]), from + end + 1
	}
	name, at := word(0)
	if name != key {
		return 0, nil, fmt.Errorf("another key's: %.60q", b)
	}
	number, at := word(at)
	size, at := word(at)
	seq, err1 := strconv.ParseInt(number, 10, 64)
	n, err2 := strconv.Atoi(size)
	switch {
	case err1 != nil || err2 != nil || n < at+8:
		return 0, nil, fmt.Errorf("mixed: %.60q", b)
	case n > len(b):
		return 0, nil, fmt.Errorf("truncated: %d of %d bytes", len(b), n)
	case fmt.Sprintf("%08x", crc32.ChecksumIEEE(b[:n-8])) != string(b[n-8:n]):
		return 0, nil, fmt.Errorf("mixed: the sum of %d bytes is wrong, %.60q", n, b)
	}
	return seq, b[n:], nil
}

// A soakKey is a key that one worker writes and all read.
type soakKey struct {
	name  string
	tried atomic.Int64 // the highest sequence number that was given to a write
	acked atomic.Int64 // the last whose write was confirmed
	seen  atomic.Int64 // the last that was read

	// mu guards the sequence numbers of writes that failed: doubtful ones may
	// be carried out at any time, refused ones never.
	mu                sync.Mutex
	doubtful, refused map[int64]bool
}

func newSoakKey(name string) *soakKey {
	return &soakKey{name: name, doubtful: make(map[int64]bool), refused: make(map[int64]bool)}
}

// wrote notes the result of the write with a sequence number.
func (k *soakKey) wrote(seq int64, err error) error {
	if err == nil {
		k.acked.Store(seq)
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if client.SafeToRetry(err) || errors.Is(err, client.ErrCASConflict) || errors.Is(err, client.ErrNotStored) || errors.Is(err, client.ErrCacheMiss) {
		k.refused[seq] = true
		if k.seen.Load() == seq {
			return fmt.Errorf("carried out, although it failed with: %w", err)
		}
		return nil
	}
	k.doubtful[seq] = true
	return nil
}

// check tells what is wrong with a sequence number that was read. least was
// confirmed before the read began.
func (k *soakKey) check(seq, least int64) error {
	k.seen.Store(seq)
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.refused[seq]:
		return fmt.Errorf("carried out, although it was refused: write %d", seq)
	case seq > k.tried.Load():
		return fmt.Errorf("never written: %d", seq)
	case seq < least && !k.doubtful[seq]:
		return fmt.Errorf("stale: write %d, although %d was confirmed", seq, least)
	}
	return nil
}

// A soakCounter is a number that all workers increment by one.
type soakCounter struct {
	name        string
	tried, done atomic.Int64
	mu          sync.Mutex
	got         map[uint64]bool // results, of which no two may be equal
}

const (
	soakTimeout = 100 * time.Millisecond
	soakLate    = 2 * time.Second // past its deadline no caller may wait
)

// A soak is traffic through faultProxies and what has come of it.
type soak struct {
	proxies  []*faultProxy
	cfg      client.Config
	kept     []*soakKey // never deleted
	logs     []*soakKey // appended to
	loose    []*soakKey // deleted, added, replaced by all workers
	counters []*soakCounter

	ops, calls, hits, misses, failures, unsent atomic.Int64
	wrong, late, hung, left, lost, clients     atomic.Int64
	worst                                      atomic.Int64 // nanoseconds past a deadline
	frozen, longest                            atomic.Int64 // nanoseconds that the process did not run, in all and at a time
	mu                                         sync.Mutex   // guards report
	report                                     []string
}

// soakOver is what the traffic goes over, TLS or a node of an older version.
type soakOver struct {
	server, client *tls.Config
	version        string
}

// newSoak starts the nodes and stores what has to be there.
func newSoak(t *testing.T, seed uint64, nodes, workers int, faults []fault, over soakOver) *soak {
	t.Helper()
	s := &soak{cfg: client.Config{
		// About half of the values are large.
		ConnsPerNode: 2, LargeValue: 200, Timeout: soakTimeout, TLS: over.client,
		// An ejection is another story: its stand-ins are allowed to be stale.
		Health: ring.HealthConfig{FailureLimit: 1_000_000_000},
	}}
	for i := range nodes {
		p := newFaultProxy(t, seed+uint64(i), faults)
		p.over(over.version, over.server)
		s.proxies = append(s.proxies, p)
		s.cfg.Servers = append(s.cfg.Servers, fmt.Sprintf("node%d@%s", i, p.addr()))
	}
	for w := range workers {
		for i := range 8 {
			s.kept = append(s.kept, newSoakKey(fmt.Sprintf("kept:%d:%d", w, i)))
		}
		s.logs = append(s.logs, newSoakKey(fmt.Sprintf("log:%d", w)))
		s.loose = append(s.loose, newSoakKey(fmt.Sprintf("loose:%d", w)))
	}
	cfg := s.cfg
	cfg.Timeout = 20 * time.Second
	c, err := client.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i := range 16 {
		counter := &soakCounter{name: fmt.Sprintf("count:%d", i), got: make(map[uint64]bool)}
		s.counters = append(s.counters, counter)
		if err := c.Set(t.Context(), &client.Item{Key: counter.name, Value: []byte("0")}); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Set(t.Context(), &client.Item{Key: "word", Value: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	return s
}

// wrongf notes an answer that is wrong.
func (s *soak) wrongf(format string, args ...any) {
	s.wrong.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.report) < 30 {
		s.report = append(s.report, fmt.Sprintf(format, args...))
	}
}

// run does so many operations, with a new client every so often. Each client
// is closed in the middle of its traffic.
func (s *soak) run(t *testing.T, seed uint64, ops, perClient int64, every int64, until time.Duration) {
	t.Helper()
	for _, p := range s.proxies {
		p.every.Store(every)
	}
	end, cancel := context.WithTimeout(t.Context(), until)
	defer cancel()
	stop := make(chan struct{})
	var metronome sync.WaitGroup
	metronome.Go(func() { s.metronome(stop) })
	defer metronome.Wait()
	defer close(stop)
	workers := len(s.logs)
	spoke := time.Now()
	for end.Err() == nil && s.ops.Load() < ops {
		if time.Since(spoke) > 30*time.Second {
			spoke = time.Now()
			t.Logf("%d of %d operations, %d wrong values", s.ops.Load(), ops, s.wrong.Load())
		}
		c, err := client.New(s.cfg)
		if err != nil {
			t.Fatal(err)
		}
		s.clients.Add(1)
		enough, stopWatching := make(chan struct{}), make(chan struct{})
		goal := min(ops, s.ops.Load()+perClient)
		var once sync.Once
		var wg, watch sync.WaitGroup
		team := make([]*soakWorker, workers)
		for i := range team {
			w := &soakWorker{
				soak: s, c: c, i: i, random: rand.New(rand.NewPCG(seed+uint64(s.clients.Load()), uint64(i))),
				kept: s.kept[8*i : 8*i+8], log: s.logs[i],
			}
			team[i] = w
			wg.Go(func() {
				for !w.sawClose {
					w.step()
					if s.ops.Load() >= goal {
						once.Do(func() { close(enough) })
					}
				}
			})
		}
		watch.Go(func() { s.watch(team, stopWatching) })
		select {
		case <-enough:
		case <-end.Done():
		}
		for _, n := range c.Stats().Nodes {
			s.lost.Add(int64(n.ConnectionsLost))
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		gone := make(chan struct{})
		go func() { wg.Wait(); close(gone) }()
		select {
		case <-gone:
		case <-time.After(10 * time.Second):
			s.hung.Add(1)
			t.Errorf("callers still wait 10 s after Close:\n%s", stacks())
			return
		}
		close(stopWatching)
		watch.Wait()
		// What a context starts as it ends may outlive Close by a moment.
		for range 100 {
			if clientGoroutines() == 0 {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if n := clientGoroutines(); n > 0 {
			s.left.Add(int64(n))
			t.Errorf("%d goroutines are left after Close:\n%s", n, stacks())
			return
		}
		eventually(t, 10*time.Second, "every connection is closed", func() bool {
			n := 0
			for _, p := range s.proxies {
				n += p.connections()
			}
			return n == 0
		})
	}
}

// watch looks for callers that wait longer than they may.
func (s *soak) watch(team []*soakWorker, stop <-chan struct{}) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	suspects := make(map[*soakWorker]int64)
	for {
		select {
		case <-stop:
			return
		case now := <-tick.C:
			for _, w := range team {
				d := w.deadline.Load()
				if d == 0 || now.UnixNano()-d-w.frozenSince() < int64(soakLate) {
					delete(suspects, w)
				} else if suspects[w] != d {
					suspects[w] = d // the metronome may not have ticked yet
				} else if w.deadline.CompareAndSwap(d, 0) && s.late.Add(1) == 1 {
					s.mu.Lock()
					s.report = append(s.report, fmt.Sprintf("a caller is late:\n%s", stacks()))
					s.mu.Unlock()
				}
			}
		}
	}
}

// metronome measures for how long nothing at all ran, as where a machine has
// other things to do. A caller is not late by the client's fault then.
func (s *soak) metronome(stop <-chan struct{}) {
	const beat, normal = 10 * time.Millisecond, 100 * time.Millisecond
	tick := time.NewTicker(beat)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		now := time.Now()
		if gap := now.Sub(last); gap > normal {
			s.frozen.Add(int64(gap))
			s.longest.Store(max(s.longest.Load(), int64(gap)))
		}
		last = now
	}
}

func stacks() []byte {
	buf := make([]byte, 4<<20)
	return buf[:runtime.Stack(buf, true)]
}

// clientGoroutines counts the goroutines that are in the client's code and
// were not started by a test.
func clientGoroutines() (n int) {
	for _, stack := range bytes.Split(stacks(), []byte("\n\n")) {
		if bytes.Contains(stack, []byte("/ringside/client.")) && !bytes.Contains(stack, []byte("/ringside/client_test.")) {
			n++
		}
	}
	return n
}

func milliseconds(d *atomic.Int64) time.Duration {
	return time.Duration(d.Load()).Round(time.Millisecond)
}

func (s *soak) summary() string {
	struck, faults := struckBy(s.proxies)
	return fmt.Sprintf("%d operations in %d calls on %d clients: %d wrong values, %d callers late by 2 s, %d hung, %d goroutines left; "+
		"%d hits, %d misses, %d failures, %d more not sent; the latest %v past its deadline; "+
		"the machine stood still for %v in all, %v at a time; %d connections lost; %d faults: %s",
		s.ops.Load(), s.calls.Load(), s.clients.Load(), s.wrong.Load(), s.late.Load(), s.hung.Load(), s.left.Load(),
		s.hits.Load(), s.misses.Load(), s.failures.Load(), s.unsent.Load(), milliseconds(&s.worst),
		milliseconds(&s.frozen), milliseconds(&s.longest), s.lost.Load(), struck, faults)
}

// verify fails the test for what must not be, and where too little was tested.
func (s *soak) verify(t *testing.T, leastLost int64) {
	t.Helper()
	t.Log(s.summary())
	for _, line := range s.report {
		t.Error(line)
	}
	if wrong, late, hung, left := s.wrong.Load(), s.late.Load(), s.hung.Load(), s.left.Load(); wrong+late+hung+left > 0 {
		t.Errorf("%d wrong values, %d late, %d hung, %d goroutines left", wrong, late, hung, left)
	}
	if ops, hits, lost := s.ops.Load(), s.hits.Load(), s.lost.Load(); hits < ops/5 || lost < leastLost {
		t.Errorf("%d hits and %d lost connections in %d operations: too little to test anything", hits, lost, ops)
	}
	for _, f := range s.proxies[0].faults {
		n := int64(0)
		for _, p := range s.proxies {
			n += p.struck[f].Load()
		}
		if n == 0 && s.ops.Load() > 50_000 { // in a short form one may be missed
			t.Errorf("the fault %q never struck", faultNames[f])
		}
	}
}

// TestSoak throws all that a network and a confused server may do at many
// goroutines that lose their patience. Its long form is "make soak".
func TestSoak(t *testing.T) {
	ops := *soakOps
	if raceEnabled {
		ops = min(ops, 20_000)
	}
	s := newSoak(t, *soakSeed, 3, 64, everyFault, soakOver{})
	s.run(t, *soakSeed, ops, max(10_000, ops/50), min(max(ops/400, 100), 500), *soakTime)
	if done := s.ops.Load(); done < ops {
		t.Errorf("%d of %d operations were done in %v; what was asked for was not tested", done, ops, *soakTime)
	}
	s.verify(t, s.ops.Load()/2000)
}

// TestSoakLegacy is the same on nodes without meta commands. Replies of the
// classic protocol tell nothing of their request, so only what a network does
// is survived there.
func TestSoakLegacy(t *testing.T) {
	s := newSoak(t, *soakSeed, 2, 16, networkFaults, soakOver{version: "1.5.22"})
	s.run(t, *soakSeed, 10_000, 5_000, 100, *soakTime)
	s.verify(t, 20)
}

// TestSoakTLS is a short form over TLS, where another goroutine writes.
func TestSoakTLS(t *testing.T) {
	pool, certFile, keyFile := testCA(t, "127.0.0.1")
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	s := newSoak(t, *soakSeed, 2, 16, everyFault, soakOver{
		server: &tls.Config{Certificates: []tls.Certificate{cert}}, client: &tls.Config{RootCAs: pool},
	})
	s.run(t, *soakSeed, 10_000, 5_000, 100, *soakTime)
	s.verify(t, 20)
}

// TestSoakCanFail: a proxy that puts other values into replies is found out.
func TestSoakCanFail(t *testing.T) {
	s := newSoak(t, *soakSeed, 1, 16, []fault{faultLie}, soakOver{})
	s.run(t, *soakSeed, 5_000, 5_000, 50, *soakTime)
	if lies := s.proxies[0].struck[faultLie].Load(); lies < 20 || s.wrong.Load() < lies/10 {
		t.Errorf("%d lies were told and %d wrong values found", lies, s.wrong.Load())
	}
	if !strings.Contains(strings.Join(s.report, "\n"), "another key's") {
		t.Errorf("no other key's value was found: %q", s.report)
	}
}

// TestSoakChecks: each way for a value to be wrong is seen.
func TestSoakChecks(t *testing.T) {
	good := string(appendRecord(nil, "key:1", 7, 100))
	if len(good) != 100 {
		t.Fatalf("%d bytes, want 100: %q", len(good), good)
	}
	tests := []struct {
		name, value, want string
	}{
		{"good", good, ""},
		{"another key's", string(appendRecord(nil, "key:2", 7, 100)), "another key's"},
		{"empty", "", "another key's"},
		{"cut", good[:99], "truncated"},
		{"cut to its head", good[:13], "truncated"},
		{"one byte", strings.Replace(good, "key:1;7;key:1;7;", "key:1;7;key:2;7;", 1), "mixed"},
		{"another one behind half", good[:50] + string(appendRecord(nil, "key:2", 9, 100))[50:], "mixed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, rest, err := readRecord([]byte(tt.value), "key:1")
			if tt.want == "" && (err != nil || len(rest) > 0) || tt.want != "" && (err == nil || !strings.HasPrefix(err.Error(), tt.want)) {
				t.Errorf("%v with %d bytes left, want %q", err, len(rest), tt.want)
			}
		})
	}
	k := newSoakKey("key:1")
	k.tried.Store(5)
	k.wrote(2, client.ErrConnLost)
	k.wrote(3, client.ErrDial)
	k.wrote(4, nil)
	for seq, want := range map[int64]string{1: "stale", 2: "", 3: "carried out", 4: "", 5: "", 6: "never written"} {
		if err := k.check(seq, 4); (err == nil) != (want == "") || err != nil && !strings.HasPrefix(err.Error(), want) {
			t.Errorf("write %d: %v, want %q", seq, err, want)
		}
	}
	k.tried.Store(8)
	k.check(8, 4)
	if err := k.wrote(8, client.ErrOverloaded); err == nil {
		t.Error("a write was seen before it was refused, and nothing is said")
	}
}
