package bench

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ringside-cache/ringside/internal/realserver"
	"github.com/ringside-cache/ringside/sidecar"
)

// serveEnv makes this test binary a sidecar.
const serveEnv = "RINGSIDE_BENCH_SERVE"

// serveSidecar is as much of "ringside serve" as the scenario uses.
func serveSidecar(args []string) error {
	var cfg sidecar.Config
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	servers := flags.String("servers", "", "")
	flags.StringVar(&cfg.Memcached, "memcached", "", "")
	flags.StringVar(&cfg.GRPC, "grpc", "", "")
	flags.StringVar(&cfg.Admin, "admin", "", "")
	flags.IntVar(&cfg.MaxConns, "max-conns", 0, "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	cfg.Client.Servers = strings.Split(*servers, ",")
	s, err := sidecar.Start(cfg)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return s.Run(ctx)
}

// needSidecars has the processes that this test starts be sidecars.
func needSidecars(t *testing.T) []string {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("the sidecar is measured on Linux only")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(serveEnv, "1")
	return []string{self}
}

func startSidecarBench(t *testing.T) *sidecarBench {
	t.Helper()
	b, err := newSidecarBench(t.Context(), needSidecars(t))
	if errors.Is(err, realserver.ErrNotInstalled) && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.close)
	b.idle = idleProxies{conns: 100, settle: 10 * time.Millisecond, fixed: 100 * time.Millisecond}
	return b
}

// Every row of the scenario is measured by an experiment that is there, on
// real processes, in windows too short to say anything else. Without nutcracker
// only what is compared with it is not.
func TestSidecarScenario(t *testing.T) {
	b := startSidecarBench(t)
	// Two rounds more, since a busy machine may cost a contender its turn.
	runner := Runner{Rounds: MinRounds + 2, Warmup: 5 * time.Millisecond, Measure: 25 * time.Millisecond}
	results, err := runner.Run(t.Context(), b.experiments())
	if err != nil {
		t.Fatal(err)
	}
	r := &Report{Groups: sidecarGroups(), Experiments: results, Versions: b.versions("test"), Setting: b.setting()}
	r.fill()
	for _, g := range r.Groups {
		for _, row := range g.Rows {
			want := row.Baseline != nameNutcracker || b.nutcracker != nil
			// The memory of so few connections is within a page.
			if row.Experiment == "idle" {
				want = want && row.Baseline == ""
			}
			if row.Figure.Measured() != want && (want || row.Experiment != "idle") {
				t.Errorf("%s: %s is measured: %v, want %v", g.Title, row.What, !want, want)
			}
		}
	}
	for _, problem := range r.Problems() {
		t.Log(problem)
	}
	if t.Failed() {
		var table bytes.Buffer
		if err := r.WriteTable(&table); err != nil {
			t.Error(err)
		}
		t.Log(table.String())
	}
}

func TestSidecarOptions(t *testing.T) {
	for name, tc := range map[string]struct {
		opts Options
		want string
	}{
		"no command":     {Options{}, "serve"},
		"too few rounds": {Options{Serve: []string{"x"}, Rounds: 4}, "rounds"},
		"no experiment":  {Options{Serve: []string{"x"}, Only: []string{"memcached/5"}}, `no experiment "memcached/5", there are memcached/50`},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Sidecar(t.Context(), tc.opts); !errors.Is(err, ErrOptions) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want %q", err, tc.want)
			}
		})
	}
}

// Where nutcracker is not installed the rest runs, and the report says why its
// rows are not measured.
func TestSidecarWithoutNutcracker(t *testing.T) {
	b := &sidecarBench{sidecar: &proxy{name: nameSidecar, server: noServer{}}, idle: idleProxiesDefault}
	for _, e := range b.experiments() {
		for _, c := range e.Contenders {
			if c.Name == nameNutcracker {
				t.Errorf("%s has it as contender", e.Name)
			}
		}
	}
	if s := b.setting(); !strings.Contains(s[len(s)-1], "not installed") {
		t.Errorf("%q", s)
	}
	r := &Report{Groups: sidecarGroups(), Experiments: []*Results{{Name: "memcached/50"}}}
	r.fill()
	if row := r.Groups[0].Rows[0]; row.Verdict != NotMeasured {
		t.Errorf("%q", row.Verdict)
	}
}

type noServer struct{}

func (noServer) Addr() string { return "127.0.0.1:1" }
func (noServer) Close()       {}

// What comes is checked: a miss, an error, or another key's value is no
// throughput, and does not hang.
func TestWireLoadWrong(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("on Linux only")
	}
	in := newCorpus(100, 100)
	p, addr := node(t, in)
	slot := Slot{Measure: 30 * time.Millisecond}
	load := func(in corpus, conns, batch int) error {
		l := wireLoad{addrs: []string{addr}, wire: newClassic(in), conns: conns, batch: batch, every: 1}
		_, err := l.Run(t.Context(), slot)
		return err
	}
	for _, tc := range []struct{ conns, batch int }{{1, 1}, {5, 1}, {5, 16}} {
		if err := load(in, tc.conns, tc.batch); err != nil {
			t.Errorf("%v: %v", tc, err)
		}
		if err := load(newCorpus(1_000_000, 100), tc.conns, tc.batch); !errors.Is(err, errWrongValue) {
			t.Errorf("%v: keys that are not there: %v", tc, err)
		}
		if err := load(newCorpus(100, 99), tc.conns, tc.batch); !errors.Is(err, errWrongValue) {
			t.Errorf("%v: values of another size: %v", tc, err)
		}
	}
	// A value that is another's is seen by the share that is looked at.
	for i, key := range in.keys {
		if err := p.set(t.Context(), key, in.value(in.keys[(i+1)%len(in.keys)])); err != nil {
			t.Fatal(err)
		}
	}
	if err := load(in, 5, 16); !errors.Is(err, errWrongValue) {
		t.Errorf("a value of another key: %v", err)
	}
	l := wireLoad{addrs: []string{"127.0.0.1:1"}, wire: newClassic(in), conns: 2, batch: 1, every: 1}
	if _, err := l.Run(t.Context(), slot); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("nobody there: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	l.addrs = []string{addr}
	if _, err := l.Run(ctx, Slot{Measure: time.Hour}); !errors.Is(err, context.Canceled) {
		t.Errorf("ended: %v", err)
	}
}

func TestClassicCheck(t *testing.T) {
	in := newClassic(newCorpus(10, 100))
	good := slices.Concat([]byte("VALUE user:profile:000000003 0 100\r\n"), in.value(in.keys[3]), []byte("\r\nEND\r\n"))
	if len(good) != in.reply || string(in.request(3)) != "get user:profile:000000003\r\n" {
		t.Fatalf("%d bytes, want %d; %q", len(good), in.reply, in.request(3))
	}
	if err := errors.Join(in.check(good, 3, false), in.check(good, 3, true)); err != nil {
		t.Error(err)
	}
	if in.check(good, 4, false) == nil {
		t.Error("another key's reply is taken")
	}
	for _, at := range []int{0, 30, 40, len(good) - 3} {
		bad := slices.Clone(good)
		bad[at] ^= 1
		if in.check(bad, 3, true) == nil {
			t.Errorf("byte %d is wrong, and nobody minds", at)
		}
	}
}

// The figures of a process are those that it has itself.
func TestProcessFigures(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("on Linux only")
	}
	for start := time.Now(); time.Since(start) < 20*time.Millisecond; {
	}
	before, _ := cpuTime()
	got, err := processCPU(os.Getpid())
	after, _ := cpuTime()
	const tick = 5 * time.Millisecond // getrusage is scaled to ticks
	if err != nil || got < before-tick || got > after+tick {
		t.Errorf("%v, %v; want %v to %v", got, err, before, after)
	}
	if n, err := processMemory(os.Getpid()); err != nil || n < 1<<20 || n > 8<<30 {
		t.Errorf("%d bytes, %v", n, err)
	}
	if _, err := processMemory(1 << 30); err == nil {
		t.Error("a process that is not there has memory")
	}
	if _, err := processCPU(1 << 28); err == nil {
		t.Error("a process that is not there has used CPU")
	}
	if err := needFiles(1 << 40); err == nil || !strings.Contains(err.Error(), "hard limit") {
		t.Errorf("%v", err)
	}
}

// A profile is one of the sidecar, and what was measured meanwhile is given.
func TestSidecarProfile(t *testing.T) {
	b := startSidecarBench(t)
	loads := b.profiled()
	var names []string
	for _, l := range loads {
		names = append(names, l.Name)
	}
	if got, want := strings.Join(names, " "), "memcached/50 memcached/50x16 memcached/1 grpc/64/unary-Get grpc/64/Get-in-a-Stream grpc/64/Get-among-others-in-a-message-of-a-Stream grpc/64/health-Check"; got != want {
		t.Errorf("loads %s, want %s", got, want)
	}
	path := filepath.Join(t.TempDir(), "profile")
	s, err := b.profile(t.Context(), loads[1], time.Second, path)
	if err != nil || s[Throughput] == 0 {
		t.Fatalf("%v, %v", s, err)
	}
	// pprof's format is gzip.
	if head, err := os.ReadFile(path); err != nil || !bytes.HasPrefix(head, []byte{0x1f, 0x8b}) {
		t.Errorf("%v, %.20q", err, head)
	}
	if err := SidecarProfile(t.Context(), Options{}, t.TempDir(), io.Discard); !errors.Is(err, ErrOptions) {
		t.Errorf("%v", err)
	}
}
