package bench

import (
	"flag"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

var soakTime = flag.Duration("sidecar.soak", 0, "how long TestSidecarSoak loads the sidecar and looks whether its memory grows; 0 is too short for a verdict")

// With a time, as make soak-sidecar gives one, the memory must stay flat.
// Without it only the load and the looks are tried.
func TestSidecarSoak(t *testing.T) {
	if *soakTime > 0 {
		if _, err := SidecarSoak(t.Context(), needSidecars(t), *soakTime, testWriter{t}); err != nil {
			t.Fatal(err)
		}
		return
	}
	b := startSidecarBench(t)
	samples, err := b.soak(t.Context(), 500*time.Millisecond, io.Discard)
	if err != nil || len(samples) == 0 {
		t.Fatalf("%d samples, %v", len(samples), err)
	}
	for _, s := range samples {
		if s.Resident < 1<<20 || s.Live < 100<<10 || s.Live > s.Resident {
			t.Errorf("%v", s)
		}
	}
}

// testWriter logs as it comes, so that a soak is not silent for minutes.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSuffix(string(b), "\n"))
	return len(b), nil
}

// Memory that grows is seen through the noise, and noise is no growth.
func TestJudgeGrowth(t *testing.T) {
	const mib = 1 << 20
	series := func(value func(minute float64) float64) (list []SoakSample) {
		noise := rand.New(rand.NewPCG(1, 2))
		for at := 10 * time.Second; at <= 10*time.Minute; at += 10 * time.Second {
			v := value(at.Minutes()) + (noise.Float64()-0.5)*4*mib
			list = append(list, SoakSample{At: at, Resident: v, Live: 10 * mib})
		}
		return list
	}
	for name, tc := range map[string]struct {
		value func(minute float64) float64
		want  string
	}{
		"flat":           {func(float64) float64 { return 40 * mib }, ""},
		"shrinks":        {func(m float64) float64 { return (60 - 2*m) * mib }, ""},
		"only at first":  {func(m float64) float64 { return (20 + 10*min(m, 2)) * mib }, ""},
		"a MiB a minute": {func(m float64) float64 { return (40 + m) * mib }, "it grew: resident"},
		"late":           {func(m float64) float64 { return (40 + 3*max(0, m-6)) * mib }, "it grew: resident"},
	} {
		t.Run(name, func(t *testing.T) {
			err := judgeGrowth(series(tc.value), soakWarmup, io.Discard)
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("%v, want %q", err, tc.want)
			}
		})
	}
	if err := judgeGrowth(series(func(float64) float64 { return mib })[:15], soakWarmup, io.Discard); err == nil {
		t.Error("a verdict over three looks")
	}
}

func TestParseLive(t *testing.T) {
	got, err := parseLive("heap profile: 1: 2\n# runtime.MemStats\n# HeapAlloc = 3000\n# HeapSys = 9000\n# Stack = 500 / 700\n")
	if err != nil || got != 3500 {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := parseLive("# HeapAlloc = 3000\n"); err == nil {
		t.Error("half of it is enough")
	}
}
