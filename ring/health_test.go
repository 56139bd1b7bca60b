package ring

import (
	"bufio"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden transcripts anew")

// TestHealthTranscripts walks testdata/health/*.txt. A line that starts with
// "> " is a command; what follows it is what Health answered.
//
//	> nodes N [field=value ...]   start a fleet
//	> fail N | ok N               a failure, a success of node N
//	> probe N ok|fail             a probe of node N ended
//	> wait D                      time passes
//	> move N...                   a changed fleet, of these nodes; -1 is new
//	> due                         the next probe
//	> state                       every node's state
func TestHealthTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/health/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			w := healthWalker{now: time.Unix(0, 0)}
			var got strings.Builder
			for s := bufio.NewScanner(strings.NewReader(string(want))); s.Scan(); {
				line := s.Text()
				switch {
				case strings.HasPrefix(line, "> "):
					fmt.Fprintf(&got, "%s\n%s", line, w.run(t, strings.Fields(line[2:])))
				case line == "" || strings.HasPrefix(line, "#"):
					fmt.Fprintln(&got, line)
				}
			}
			if *update {
				if err := os.WriteFile(file, []byte(got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(want), got.String()); diff != "" {
				t.Errorf("transcript differs (-want +got):\n%s", diff)
			}
		})
	}
}

type healthWalker struct {
	h   *Health
	now time.Time
}

func (w *healthWalker) run(t *testing.T, args []string) string {
	node := func() int {
		n, err := strconv.Atoi(args[1])
		if err != nil {
			t.Fatalf("%v: %v", args, err)
		}
		return n
	}
	switch args[0] {
	case "nodes":
		var cfg HealthConfig
		for _, f := range args[2:] {
			field, value, _ := strings.Cut(f, "=")
			d, _ := time.ParseDuration(value)
			switch field {
			case "limit":
				cfg.FailureLimit, _ = strconv.Atoi(value)
			case "retry":
				cfg.RetryTimeout = d
			case "max":
				cfg.MaxRetryTimeout = d
			case "grow":
				cfg.GrowAfter = d
			case "flap":
				cfg.FlapWindow = d
			case "share":
				cfg.MaxEjectedShare, _ = strconv.ParseFloat(value, 64)
			default:
				t.Fatalf("unknown field %q", field)
			}
		}
		h, err := NewHealth(node(), cfg, 1)
		if err != nil {
			return err.Error() + "\n"
		}
		w.h = h
		return ""
	case "fail":
		if w.h.Failure(node(), w.now) {
			return "ejected\n"
		}
		return fmt.Sprintf("%d in a row\n", w.h.Node(node()).Failures)
	case "ok":
		w.h.Success(node())
		return ""
	case "probe":
		if w.h.Probed(node(), args[2] == "ok", w.now) {
			return "rejoined\n"
		}
		return ""
	case "move":
		from := make([]int, 0, len(args)-1)
		for _, a := range args[1:] {
			n, err := strconv.Atoi(a)
			if err != nil {
				t.Fatal(err)
			}
			from = append(from, n)
		}
		w.h = w.h.Move(from)
		return ""
	case "wait":
		d, err := time.ParseDuration(args[1])
		if err != nil {
			t.Fatal(err)
		}
		w.now = w.now.Add(d)
		return ""
	case "due":
		n, at, ok := w.h.NextProbe()
		if !ok {
			return "none\n"
		}
		s := w.h.Node(n)
		in := at.Sub(w.now)
		if in > s.Interval || in < s.Interval-s.Interval/5 {
			t.Errorf("the probe is due in %v, outside the last fifth of the interval %v", in, s.Interval)
		}
		return fmt.Sprintf("node %d in %v of %v\n", n, in.Round(time.Millisecond), s.Interval)
	case "state":
		var b strings.Builder
		for i := range w.h.nodes {
			s := w.h.Node(i)
			fmt.Fprintf(&b, "%d %v failures=%d ejections=%d\n", i, s.State, s.Failures, s.Ejections)
		}
		return b.String()
	}
	t.Fatalf("unknown command %v", args)
	return ""
}

func TestHealthConfigValidate(t *testing.T) {
	tests := []struct {
		name string
		cfg  HealthConfig
		want string
	}{
		{"limit", HealthConfig{FailureLimit: -1}, "FailureLimit is -1"},
		{"retry", HealthConfig{RetryTimeout: -time.Second}, "RetryTimeout is -1s"},
		{"max below retry", HealthConfig{RetryTimeout: 10 * time.Second, MaxRetryTimeout: time.Second}, "MaxRetryTimeout is 1s"},
		{"grow", HealthConfig{GrowAfter: -1}, "GrowAfter"},
		{"share", HealthConfig{MaxEjectedShare: 1.5}, "MaxEjectedShare is 1.5"},
		{"flap", HealthConfig{FlapWindow: -1}, "FlapWindow"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := NewHealth(3, tt.cfg, 1)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one that says %q", err, tt.want)
			}
		})
	}
	if err := (HealthConfig{}).Validate(); err != nil {
		t.Errorf("the zero config: %v", err)
	}
}

// TestMostOut: the share is of whole nodes, and rounding takes none away.
func TestMostOut(t *testing.T) {
	for percent := 1; percent <= 100; percent++ {
		h, err := NewHealth(100, HealthConfig{MaxEjectedShare: float64(percent) / 100, FailureLimit: 1}, 1)
		if err != nil {
			t.Fatal(err)
		}
		out := 0
		for i := range 100 {
			if h.Failure(i, time.Unix(0, 0)) {
				out++
			}
		}
		if out != percent {
			t.Errorf("a share of 0.%02d of 100 nodes lets %d be out", percent, out)
		}
	}
	if err := (HealthConfig{MaxEjectedShare: math.NaN()}).Validate(); err == nil {
		t.Error("a share that is no number was taken")
	}
}
