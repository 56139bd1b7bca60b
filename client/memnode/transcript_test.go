package memnode_test

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringside-cache/ringside/client/memnode"
)

var update = flag.Bool("update", false, "write the answers of the real memcached into testdata/*.txt")

// A transcript is a file of testdata: what is sent to a fresh server and what
// it answers.
//
//	=== name       a case; names and # lines are for people
//	> line         is sent, with its line end; \r, \n, \xNN are escapes, {ab*3} is ababab
//	>> bytes       is sent without a line end
//	< line         is answered
//	< (closed)     the connection ends
//	memnode: why   the answer of a memnode, where it differs on purpose
//	conn NAME      goes on with another connection
//	tick N         N seconds pass
//	threads        memcached runs with its background threads
//	counts         the lines of stats that count what was done
//
// Lines that are sent in a row go in one write. An empty line ends a step that
// has no answer.
type transcript struct {
	file    string
	lines   []string
	steps   []step
	threads bool
}

type step struct {
	at      int // index of the first line of the answer
	name    string
	send    []byte
	conn    string   // of conn NAME
	ticks   int      // of tick N
	counts  bool     // of counts
	want    []string // the real server's answer
	differ  []string // memnode's, where differs is true
	differs bool
}

func readTranscripts(t *testing.T) (ts []*transcript) {
	t.Helper()
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no transcripts", err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		tr := &transcript{file: file, lines: strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")}
		if err := tr.parse(); err != nil {
			t.Fatalf("%s:%v", file, err)
		}
		ts = append(ts, tr)
	}
	return ts
}

func (tr *transcript) parse() error {
	var name string
	var cur *step
	answered := true
	for i, line := range tr.lines {
		word, rest, _ := strings.Cut(line, " ")
		switch {
		case line == "":
			answered = true
		case strings.HasPrefix(line, "#"):
		case word == "===":
			name = rest
		case word == "counts":
			tr.steps = append(tr.steps, step{name: name, send: []byte("stats\r\n"), counts: true, at: i + 1})
			cur, answered = &tr.steps[len(tr.steps)-1], true
		case word == ">" || word == ">>":
			if answered {
				tr.steps = append(tr.steps, step{name: name})
				cur = &tr.steps[len(tr.steps)-1]
				answered = false
			}
			b, err := unescape(rest)
			if err != nil {
				return fmt.Errorf("%d: %w", i+1, err)
			}
			if cur.send = append(cur.send, b...); word == ">" {
				cur.send = append(cur.send, "\r\n"...)
			}
			cur.at = i + 1
		case word == "<" && cur != nil:
			answered = true
			if cur.differs {
				cur.differ = append(cur.differ, rest)
			} else {
				cur.want = append(cur.want, rest)
			}
		case word == "memnode:" && cur != nil:
			answered, cur.differs = true, true
		case word == "threads":
			tr.threads = true
		case word == "conn":
			tr.steps = append(tr.steps, step{name: name, conn: rest})
			cur, answered = nil, true
		case word == "tick":
			n, err := strconv.Atoi(rest)
			if err != nil {
				return fmt.Errorf("%d: %w", i+1, err)
			}
			tr.steps = append(tr.steps, step{name: name, ticks: n})
			cur, answered = nil, true
		default:
			return fmt.Errorf("%d: what is %q?", i+1, line)
		}
	}
	return nil
}

var repeated = regexp.MustCompile(`\{([^{}]+)\*(\d+)\}`)

func unescape(s string) ([]byte, error) {
	s = repeated.ReplaceAllStringFunc(s, func(m string) string {
		parts := repeated.FindStringSubmatch(m)
		n, _ := strconv.Atoi(parts[2])
		return strings.Repeat(parts[1], n)
	})
	text, err := strconv.Unquote(`"` + strings.ReplaceAll(s, `"`, `\"`) + `"`)
	return []byte(text), err
}

// escape is for answers. It shortens what repeats.
func escape(b []byte) string {
	var out strings.Builder
	for i := 0; i < len(b); {
		run := 1 // of the same byte
		for i+run < len(b) && b[i+run] == b[i] {
			run++
		}
		if run >= 20 {
			fmt.Fprintf(&out, "{%c*%d}", b[i], run)
			i += run
			continue
		}
		if b[i] == ' ' && i == len(b)-1 {
			return out.String() + `\x20` // or an editor may take it away
		}
		quoted := strconv.Quote(string(b[i : i+1]))
		out.WriteString(strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`))
		i++
	}
	return out.String()
}

// A subject is a server that a transcript runs against.
type subject struct {
	t     *testing.T
	addr  string
	conns map[string]*peer
	cur   *peer
	tick  func(n int)
}

// peer is one raw connection.
type peer struct {
	nc net.Conn
	r  *bufio.Reader
}

func dial(t testing.TB, addr string) *peer {
	t.Helper()
	network := "tcp"
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		network, addr = "unix", path
	}
	nc, err := net.DialTimeout(network, addr, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	if err := nc.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return &peer{nc: nc, r: bufio.NewReader(nc)}
}

func newSubject(t *testing.T, addr string, tick func(int)) *subject {
	s := &subject{t: t, addr: addr, conns: map[string]*peer{}, tick: tick}
	s.use("")
	return s
}

func (s *subject) use(name string) {
	if s.conns[name] == nil {
		s.conns[name] = dial(s.t, s.addr)
	}
	s.cur = s.conns[name]
}

// ask sends a step with an mn behind it, and gives the lines before the MN.
func (s *subject) ask(send []byte) (answer []string) {
	s.t.Helper()
	// A server may answer a large value before it has read it, and close.
	go func(nc net.Conn) { _, _ = nc.Write(append(bytes.Clone(send), "mn\r\n"...)) }(s.cur.nc)
	for {
		line, err := s.cur.r.ReadBytes('\n')
		if len(line) > 0 && string(line) != "MN\r\n" {
			text, ended := bytes.CutSuffix(line, []byte("\r\n"))
			shown := escape(text)
			if !ended {
				shown += " (no line end)"
			}
			answer = append(answer, shown)
		}
		switch {
		case string(line) == "MN\r\n":
			return answer
		case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
			s.redial()
			return append(answer, "(closed)")
		case err != nil:
			s.t.Errorf("no MN behind %q: %v, so far %q", shorten(send), err, answer)
			s.redial()
			return append(answer, "(no answer)")
		}
	}
}

func (s *subject) redial() {
	for name, p := range s.conns {
		if p == s.cur {
			p.nc.Close()
			delete(s.conns, name)
			s.use(name)
			return
		}
	}
}

func shorten(b []byte) string { return escape(b[:min(len(b), 300)]) }

var counted = regexp.MustCompile(`^STAT (cmd_|get_hits|get_misses|delete_|incr_|decr_|cas_|touch_|store_too_large|total_items|evictions)`)

// run gives the answers to the steps, in order.
func (s *subject) run(tr *transcript) (answers [][]string) {
	for _, st := range tr.steps {
		var answer []string
		switch {
		case st.ticks > 0:
			s.tick(st.ticks)
		case st.send == nil:
			s.use(st.conn)
		default:
			answer = s.ask(st.send)
			if st.counts {
				answer = slices.DeleteFunc(answer, func(line string) bool { return !counted.MatchString(line) })
				slices.Sort(answer)
			}
		}
		answers = append(answers, answer)
	}
	return answers
}

// differences says where the answers are not those of the transcript.
func (tr *transcript) differences(answers [][]string, memnode bool) (diffs []string) {
	for i, st := range tr.steps {
		want := st.want
		if memnode && st.differs {
			want = st.differ
		}
		if diff := cmp.Diff(want, answers[i]); diff != "" {
			diffs = append(diffs, fmt.Sprintf("%s:%d: %s: %s (-want +got):\n%s", tr.file, st.at, st.name, shorten(st.send), diff))
		}
	}
	return diffs
}

// fakeClock is a memnode's clock that a test moves.
type fakeClock struct{ seconds atomic.Int64 }

func (c *fakeClock) now() time.Time { return time.Unix(1_700_000_000+c.seconds.Load(), 0) }

// TestTranscripts holds a node to the answers that a real memcached gave.
func TestTranscripts(t *testing.T) {
	for _, tr := range readTranscripts(t) {
		t.Run(filepath.Base(tr.file), func(t *testing.T) {
			var clock fakeClock
			node := start(t, memnode.Config{Now: clock.now})
			s := newSubject(t, node.Addr(), func(n int) { clock.seconds.Add(int64(n)) })
			for _, diff := range tr.differences(s.run(tr), true) {
				t.Error(diff)
			}
		})
	}
}

func start(t testing.TB, cfg memnode.Config) *memnode.Node {
	t.Helper()
	node, err := memnode.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { node.Close() })
	return node
}
