package memnode_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/ringside-cache/ringside/client/memnode"
)

// TestMain proves that Close ends every goroutine.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConfigValidate(t *testing.T) {
	if err := (memnode.Config{}).Validate(); err != nil {
		t.Error("the zero value:", err)
	}
	if err := (memnode.Config{MaxBytes: 1 << 20}).Validate(); err != nil {
		t.Error("a MaxBytes below twice the default MaxItemSize:", err)
	}
	err := memnode.Config{Addr: "nowhere", MaxBytes: 1 << 20, MaxItemSize: 1<<31 - 1, MaxConns: -1}.Validate()
	for _, field := range []string{"Addr", "MaxItemSize", "MaxBytes", "MaxConns"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%v does not speak of %s", err, field)
		}
	}
	for _, cfg := range []memnode.Config{{Addr: "unix:"}, {MaxBytes: -1}, {MaxItemSize: 1}} {
		if n, err := memnode.Start(cfg); err == nil {
			n.Close()
			t.Errorf("%+v starts", cfg)
		}
	}
}

func TestCloseAndKill(t *testing.T) {
	node := start(t, memnode.Config{})
	p := dial(t, node.Addr())
	p.say(t, "ms a 1 c\r\nx\r\nms b 1 c\r\nx\r\n")
	p.want(t, "HD c1\r\nHD c2\r\n")
	addr := node.Addr()

	node.Kill()
	p.wantEnd(t, io.EOF)
	if nc, err := net.Dial("tcp", addr); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a killed node is connected to: %v, %v", nc, err)
	}
	if st := node.Stats(); st != (memnode.Stats{}) || node.Items() != 0 {
		t.Errorf("a killed node has %+v", st)
	}
	node.Kill()

	for range 2 { // after Kill, and instead of it
		if err := node.Restart(); err != nil {
			t.Fatal(err)
		}
		if node.Addr() != addr {
			t.Errorf("restarted on %s, was on %s", node.Addr(), addr)
		}
		p = dial(t, addr)
		p.say(t, "mg a\r\nms b 1 c\r\nx\r\n")
		p.want(t, "EN\r\nHD c1\r\n")
	}
	for range 2 {
		if err := node.Close(); err != nil {
			t.Fatal(err)
		}
	}
	p.wantEnd(t, io.EOF)
	if err := node.Restart(); !errors.Is(err, memnode.ErrClosed) {
		t.Errorf("Restart after Close: %v", err)
	}
}

func TestStopAndResume(t *testing.T) {
	node := start(t, memnode.Config{})
	before := dial(t, node.Addr())
	before.say(t, "mn\r\n")
	before.want(t, "MN\r\n")

	node.Stop()
	node.Stop()
	after := dial(t, node.Addr()) // is accepted
	before.say(t, "set a 0 0 1\r\nx\r\n")
	after.say(t, "mn\r\n")
	before.wantSilence(t)
	after.wantSilence(t)
	if node.Items() != 0 {
		t.Error("a stopped node has stored an item")
	}
	node.Resume()
	node.Resume()
	before.want(t, "STORED\r\n")
	after.want(t, "MN\r\n")

	node.Stop()
	after.say(t, "mn\r\n")
	node.Kill()
	if reply, err := io.ReadAll(after.r); len(reply) > 0 { // with a reset if the request was not read
		t.Errorf("got %q, %v", reply, err)
	}
	if err := node.Restart(); err != nil {
		t.Fatal(err)
	}
	after = dial(t, node.Addr())
	after.say(t, "mn\r\n")
	after.want(t, "MN\r\n") // a restarted node runs
	node.Stop()
}

func TestCloseIdle(t *testing.T) {
	node := start(t, memnode.Config{})
	stall := node.Inject(memnode.Stall())
	busy := dial(t, node.Addr())
	busy.say(t, "mn\r\n")
	<-stall.Hit()
	half := dial(t, node.Addr())
	half.say(t, "version\r\nset a 0 0 5\r\nab")
	half.want(t, "VERSION 1.6.18\r\n")
	idle := dial(t, node.Addr())
	idle.say(t, "mn\r\n")
	idle.want(t, "MN\r\n")

	// The connection becomes idle a moment after its reply has come.
	closed := 0
	for closed == 0 {
		closed += node.CloseIdle()
	}
	if closed != 1 {
		t.Errorf("%d connections were idle, want 1", closed)
	}
	idle.wantEnd(t, io.EOF)
	stall.Release()
	busy.want(t, "MN\r\n")
	half.say(t, "cde\r\n")
	half.want(t, "STORED\r\n")
	node.Kill()
	if node.CloseIdle() != 0 {
		t.Error("a killed node had idle connections")
	}
}

func TestMaxConns(t *testing.T) {
	node := start(t, memnode.Config{MaxConns: 2})
	for range 2 {
		p := dial(t, node.Addr())
		p.say(t, "mn\r\n")
		p.want(t, "MN\r\n")
	}
	p := dial(t, node.Addr())
	p.want(t, "ERROR Too many open connections\r\n")
	p.wantEnd(t, io.EOF)
	if st := node.Stats(); st.RejectedConnections != 1 || st.Connections != 2 {
		t.Errorf("%d connections, %d rejected; want 2 and 1", st.Connections, st.RejectedConnections)
	}
}

func TestUnixSocket(t *testing.T) {
	dir, err := os.MkdirTemp("", "memnode") // t.TempDir can be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")

	// A socket that its process did not remove.
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	ln.Close()

	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := memnode.Start(memnode.Config{Addr: "unix:" + file}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a node starts on a file: %v, %v", n, err)
	}
	if b, err := os.ReadFile(file); string(b) != "precious" {
		t.Errorf("the file is %q, %v", b, err)
	}

	node := start(t, memnode.Config{Addr: "unix:" + path})
	if node.Addr() != "unix:"+path {
		t.Errorf("Addr is %s", node.Addr())
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket is %v, %v; want mode 0600", info, err)
	}
	if n, err := memnode.Start(memnode.Config{Addr: "unix:" + path}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a second node starts on the socket: %v, %v", n, err)
	}
	if err := node.Restart(); err != nil {
		t.Fatal(err)
	}
	node.Inject(memnode.Reset(), memnode.Nth(2))
	p := dial(t, node.Addr())
	p.say(t, "mn\r\n")
	p.want(t, "MN\r\n")
	p.say(t, "mn\r\n")
	p.wantEnd(t, io.EOF)
	node.Close()
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Close leaves the socket: %v", err)
	}
}

func TestAddrIsTaken(t *testing.T) {
	node := start(t, memnode.Config{})
	if n, err := memnode.Start(memnode.Config{Addr: node.Addr()}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a second node starts on the address: %v, %v", n, err)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	const most = 1 << 20
	node := start(t, memnode.Config{MaxBytes: most})
	p := dial(t, node.Addr())
	value := strings.Repeat("v", 1000)
	for round := range 20 {
		var batch strings.Builder
		for i := range 500 {
			fmt.Fprintf(&batch, "set k%d.%d 0 0 1000 noreply\r\n%s\r\n", round, i, value)
		}
		p.say(t, batch.String()+"mn\r\n")
		p.want(t, "MN\r\n")
		if st := node.Stats(); st.Bytes > most {
			t.Fatalf("%d bytes after %d items, MaxBytes is %d", st.Bytes, st.TotalItems, most)
		}
	}
	st := node.Stats()
	if st.Evictions < 8000 || st.Items < 700 || st.Items != node.Items() || st.TotalItems != 10_000 {
		t.Errorf("%d items, %d evicted of %d; want about 900 items", st.Items, st.Evictions, st.TotalItems)
	}
}

func TestStats(t *testing.T) {
	var clock fakeClock
	node := start(t, memnode.Config{MaxBytes: 8 << 20, MaxItemSize: 2 << 20, MaxConns: 7, Now: clock.now})
	p := dial(t, node.Addr())
	p.say(t, "set a 0 1 1\r\nx\r\nget a\r\nget b\r\n")
	p.want(t, "STORED\r\nVALUE a 0 1\r\nx\r\nEND\r\nEND\r\n")
	st := node.Stats()
	if st.CmdGet != 2 || st.GetHits != 1 || st.GetMisses != 1 || st.CmdSet != 1 || st.Items != 1 || st.Connections != 1 ||
		st.BytesRead != 30 || st.BytesWritten != 34 {
		t.Errorf("%+v", st)
	}
	clock.seconds.Add(2)
	for request, lines := range map[string][]string{
		"stats\r\n": {
			"STAT version 1.6.18", "STAT uptime 2", "STAT time 1700000002", "STAT max_connections 7", "STAT curr_connections 1",
			"STAT total_connections 1", "STAT limit_maxbytes 8388608", "STAT cmd_get 2", "STAT curr_items 1", "END",
		},
		"stats settings\r\n": {"STAT maxbytes 8388608", "STAT item_size_max 2097152", "STAT maxconns 7", "END"},
		"stats items\r\n":    {"END"},
		"stats slabs\r\n":    {"END"},
	} {
		s := &subject{t: t, cur: p}
		answer := strings.Join(s.ask([]byte(request)), "\n") + "\n"
		for _, line := range lines {
			if !strings.Contains(answer, line+"\n") {
				t.Errorf("%q has no line %q:\n%s", request, line, answer)
			}
		}
	}
	p.say(t, "stats reset\r\nget a\r\n")
	p.want(t, "RESET\r\nEND\r\n")
	if st := node.Stats(); st.CmdGet != 1 || st.GetHits != 0 || st.GetExpired != 1 || st.TotalConnections != 0 {
		t.Errorf("after a reset: %+v", st)
	}
}

// Operations on a key are atomic, from whatever connections they come.
func TestAtomicity(t *testing.T) {
	const clients, rounds = 16, 200
	node := start(t, memnode.Config{})
	var mu sync.Mutex
	won := map[string]int{} // by request
	var wg sync.WaitGroup
	for range clients {
		p := dial(t, node.Addr())
		wg.Go(func() {
			for i := range rounds {
				for _, request := range []string{
					fmt.Sprintf("add add%d 0 0 1\r\nx\r\n", i),
					fmt.Sprintf("mg lease%d N30\r\n", i),
					"ma counter N0 J1 v\r\n",
				} {
					if _, err := io.WriteString(p.nc, request); err != nil {
						t.Error(err)
						return
					}
					reply, err := p.r.ReadString('\n')
					if err != nil {
						t.Error(err)
						return
					}
					if strings.HasPrefix(reply, "VA") {
						if request, err = p.r.ReadString('\n'); err != nil {
							t.Error(err)
							return
						}
					}
					if reply == "STORED\r\n" || reply == "HD W\r\n" || strings.HasPrefix(reply, "VA") {
						mu.Lock()
						won[request]++
						mu.Unlock()
					}
				}
			}
		})
	}
	wg.Wait()
	if len(won) != 2*rounds+clients*rounds {
		t.Errorf("%d different wins, want %d", len(won), 2*rounds+clients*rounds)
	}
	for request, n := range won {
		if n != 1 {
			t.Errorf("%q was won %d times", request, n)
		}
	}
}
