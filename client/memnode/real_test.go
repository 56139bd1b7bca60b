//go:build unix

package memnode_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ringside-cache/ringside/internal/realserver"
)

// TestTranscriptsAreReal holds the transcripts to a real memcached, which is
// the judge: with -update its answers are written into them.
func TestTranscriptsAreReal(t *testing.T) {
	for _, tr := range readTranscripts(t) {
		t.Run(filepath.Base(tr.file), func(t *testing.T) {
			t.Parallel()
			answers := runReal(t, tr)
			if *update {
				tr.rewrite(t, answers)
				return
			}
			for _, diff := range tr.differences(answers, false) {
				t.Error(diff)
			}
		})
	}
}

// withoutThreads are options that switch memcached's background threads off.
// They hold an item now and then, which can not be counted up in place at that
// moment and gets a value without blanks behind it instead.
var withoutThreads = []string{"-o", "no_lru_crawler,no_lru_maintainer"}

// runReal gives the answers of a real server. It tries again while they are not
// what the transcript says, for its clock may tick between two requests.
func runReal(t *testing.T, tr *transcript) (answers [][]string) {
	args := withoutThreads
	if tr.threads {
		args = nil
	}
	for range 5 {
		var ticks int
		mc := realserver.Memcached(t, args...)
		s := newSubject(t, mc.Addr(), nil)
		s.tick = func(n int) {
			ticks += n
			for until := s.uptime() + n; s.uptime() < until; {
				time.Sleep(10 * time.Millisecond)
			}
		}
		before := s.uptime()
		answers = s.run(tr)
		steady := s.uptime() == before+ticks
		mc.Close()
		if steady && (*update || tr.differences(answers, false) == nil) {
			break
		}
	}
	return answers
}

// uptime reads the server's clock.
func (s *subject) uptime() int {
	before := s.cur
	s.use("clock")
	defer func() { s.cur = before }()
	var seconds int
	for _, line := range s.ask([]byte("stats\r\n")) {
		if _, err := fmt.Sscanf(line, "STAT uptime %d", &seconds); err == nil {
			return seconds
		}
	}
	s.t.Fatal("stats without uptime")
	return 0
}

// rewrite puts the answers in place of those in the file.
func (tr *transcript) rewrite(t *testing.T, answers [][]string) {
	lines := tr.lines
	for i := len(tr.steps) - 1; i >= 0; i-- {
		st := tr.steps[i]
		if st.send == nil {
			continue
		}
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
