//go:build unix

package sidecar_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ringside-cache/ringside/internal/realserver"
	"github.com/ringside-cache/ringside/sidecar"
)

var update = flag.Bool("update", false, "write the answers of a real memcached into testdata/transcripts")

// A transcript is a file of testdata/transcripts: what is sent to a fresh
// memcached and what it answers. The sidecar in front of one memcached has to
// answer the same, but where the transcript says why not.
//
//	=== name       a case; names and # lines are for people
//	> line         is sent, with its line end; \r, \n, \xNN are escapes, {ab*3} is ababab
//	>> bytes       is sent without a line end
//	< line         is answered
//	< (closed)     the connection ends
//	sidecar: why   what follows is the sidecar's answer, where it differs
//
// An empty line or an answer ends a step.
type transcript struct {
	file  string
	lines []string
	steps []transcriptStep
}

type transcriptStep struct {
	at      int // index of the first line of the answer
	name    string
	send    string
	want    []string // memcached's answer
	differs bool
	differ  []string // the sidecar's, where differs is true
}

func readTranscripts(t *testing.T) (ts []*transcript) {
	t.Helper()
	files, err := filepath.Glob("testdata/transcripts/*.txt")
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
	var cur *transcriptStep
	open := false // whether a > line belongs to the current step
	for i, line := range tr.lines {
		word, rest, _ := strings.Cut(line, " ")
		switch {
		case line == "":
			open = false
		case strings.HasPrefix(line, "#"):
		case word == "===":
			name, open = rest, false
		case word == ">" || word == ">>":
			if !open {
				tr.steps = append(tr.steps, transcriptStep{name: name})
				cur, open = &tr.steps[len(tr.steps)-1], true
			}
			text, err := unescape(rest)
			if err != nil {
				return fmt.Errorf("%d: %w", i+1, err)
			}
			if cur.send += text; word == ">" {
				cur.send += "\r\n"
			}
			cur.at = i + 1
		case word == "<" && cur != nil:
			open = false
			if cur.differs {
				cur.differ = append(cur.differ, rest)
			} else {
				cur.want = append(cur.want, rest)
			}
		case word == "sidecar:" && cur != nil:
			open, cur.differs = false, true
		default:
			return fmt.Errorf("%d: what is %q?", i+1, line)
		}
	}
	return nil
}

var repeated = regexp.MustCompile(`\{([^{}]+)\*(\d+)\}`)

func unescape(s string) (string, error) {
	s = repeated.ReplaceAllStringFunc(s, func(m string) string {
		parts := repeated.FindStringSubmatch(m)
		n, _ := strconv.Atoi(parts[2])
		return strings.Repeat(parts[1], n)
	})
	return strconv.Unquote(`"` + strings.ReplaceAll(s, `"`, `\"`) + `"`)
}

// answerLines gives an answer as a transcript has it.
func answerLines(answer string) (lines []string) {
	for line := range strings.Lines(answer) {
		text, ended := strings.CutSuffix(line, "\r\n")
		shown := escape(text)
		if !ended && line != closed {
			shown += " (no line end)"
		}
		lines = append(lines, shown)
	}
	return lines
}

func escape(s string) string {
	var out strings.Builder
	for i := 0; i < len(s); {
		run := 1 // of the same byte
		for i+run < len(s) && s[i+run] == s[i] {
			run++
		}
		if run >= 20 {
			fmt.Fprintf(&out, "{%c*%d}", s[i], run)
			i += run
			continue
		}
		if s[i] == ' ' && i == len(s)-1 {
			return out.String() + `\x20` // or an editor may take it away
		}
		quoted := strconv.Quote(s[i : i+1])
		out.WriteString(strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`))
		i++
	}
	return out.String()
}

// endOfStep goes behind a step, stepEnd is the answer to it. It is no mn, since
// transcripts have some.
const (
	endOfStep = "mg end-of-step Oend\r\n"
	stepEnd   = "EN Oend\r\n"
)

// The ways in which a transcript is sent.
const (
	stepByStep = "step by step"
	atOnce     = "in one write"
	byteByByte = "byte by byte"
)

// walk sends a transcript and gives the answers to its steps. Where it is sent
// in one write, all of it up to a closed connection counts as one step.
func (tr *transcript) walk(t *testing.T, addr, way string, answerOf func(*transcriptStep) []string) (diffs []string) {
	t.Helper()
	compare := func(p *peer, st *transcriptStep, send string, want []string) (ended bool) {
		got := answerLines(p.until(stepEnd))
		if diff := cmp.Diff(want, got); diff != "" {
			diffs = append(diffs, fmt.Sprintf("%s:%d: %s: %s (-want +got):\n%s", tr.file, st.at, st.name, shorten(escape(send)), diff))
		}
		return slices.Contains(got, closed)
	}
	p := dial(t, addr)
	var send string
	var want []string
	for i := range tr.steps {
		st := &tr.steps[i]
		send += st.send
		want = append(want, answerOf(st)...)
		if way == atOnce && i < len(tr.steps)-1 && !slices.Contains(want, closed) {
			continue
		}
		text := send + endOfStep
		// A peer may answer a large value before it has read it.
		wrote := make(chan struct{})
		go func() {
			defer close(wrote)
			if way != byteByByte {
				p.send(text)
				return
			}
			for i := range len(text) {
				p.send(text[i : i+1])
			}
		}()
		ended := compare(p, st, send, want)
		<-wrote
		if ended {
			p.nc.Close()
			p = dial(t, addr)
		}
		send, want = "", nil
	}
	return diffs
}

// isLarge tells whether a transcript has too many bytes for one at a time.
func (tr *transcript) isLarge() bool {
	return slices.ContainsFunc(tr.steps, func(st transcriptStep) bool { return len(st.send) > 64<<10 })
}

// steady runs f on a fresh memcached, and again while the server's clock has
// ticked meanwhile: then the times that are left may differ.
func steady(t *testing.T, f func(mc *realserver.Server) []string) {
	t.Helper()
	for range 10 {
		mc := realserver.Memcached(t)
		before := clock(t, mc)
		diffs := f(mc)
		ticked := clock(t, mc) != before
		mc.Close()
		if ticked && len(diffs) > 0 {
			continue
		}
		for _, diff := range diffs {
			t.Error(diff)
		}
		return
	}
	t.Error("the clock of memcached ticks at each run")
}

// clock gives the seconds of a memcached's own clock.
func clock(t *testing.T, mc *realserver.Server) string {
	t.Helper()
	_, rest, _ := strings.Cut(dial(t, mc.Addr()).ask("stats\r\n"), "STAT uptime ")
	seconds, _, _ := strings.Cut(rest, "\r\n")
	return seconds
}

// TestTranscriptsAreReal holds the transcripts to a real memcached, which is
// the judge: with -update its answers are written into them.
func TestTranscriptsAreReal(t *testing.T) {
	for _, tr := range readTranscripts(t) {
		t.Run(filepath.Base(tr.file), func(t *testing.T) {
			t.Parallel()
			if *update {
				tr.rewrite(t)
				return
			}
			steady(t, func(mc *realserver.Server) []string {
				return tr.walk(t, mc.Addr(), stepByStep, func(st *transcriptStep) []string { return st.want })
			})
		})
	}
}

// TestConformance holds the sidecar to the same transcripts.
func TestConformance(t *testing.T) {
	for _, tr := range readTranscripts(t) {
		for _, way := range []string{stepByStep, atOnce, byteByByte} {
			if way == byteByByte && tr.isLarge() {
				continue
			}
			t.Run(filepath.Base(tr.file)+" "+way, func(t *testing.T) {
				t.Parallel()
				steady(t, func(mc *realserver.Server) []string {
					s := start(t, sidecar.Config{
						Client:    nodes(mc.Addr()),
						Memcached: "on",
					})
					defer s.stop(t)
					return tr.walk(t, s.addr("memcached"), way, func(st *transcriptStep) []string {
						if st.differs {
							return st.differ
						}
						return st.want
					})
				})
			})
		}
	}
}

// rewrite puts a real memcached's answers in place of those in the file.
func (tr *transcript) rewrite(t *testing.T) {
	mc := realserver.Memcached(t)
	p := dial(t, mc.Addr())
	answers := make([][]string, len(tr.steps))
	for i := range tr.steps {
		go p.send(tr.steps[i].send + endOfStep)
		answers[i] = answerLines(p.until(stepEnd))
		if slices.Contains(answers[i], closed) {
			p = dial(t, mc.Addr())
		}
	}
	lines := tr.lines
	for i := len(tr.steps) - 1; i >= 0; i-- {
		st := tr.steps[i]
		answer := make([]string, 0, len(answers[i]))
		for _, line := range answers[i] {
			answer = append(answer, strings.TrimSuffix("< "+line, " "))
		}
		lines = slices.Replace(lines, st.at, st.at+len(st.want), answer...)
	}
	if err := os.WriteFile(tr.file, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}
