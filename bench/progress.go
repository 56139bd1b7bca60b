package bench

import (
	"fmt"
	"io"
	"time"
)

// progress keeps one line of a terminal up to date.
type progress struct {
	w     io.Writer
	began time.Time // the first turn
	wrote bool
}

// newProgress gives nil, which prints nothing, for a nil w.
func newProgress(w io.Writer) *progress {
	if w == nil {
		return nil
	}
	return &progress{w: w}
}

// clearLine goes back to the line's beginning and clears it.
const clearLine = "\r\x1b[K"

func (p *progress) say(text string) {
	if p == nil {
		return
	}
	fmt.Fprintf(p.w, "%s%s", clearLine, text)
	p.wrote = true
}

func (p *progress) step(s Step) {
	if p == nil {
		return
	}
	left := ""
	if done := s.Turn - 1; done == 0 {
		p.began = time.Now()
	} else {
		each := time.Since(p.began) / time.Duration(done)
		left = fmt.Sprintf("  about %v left", (each * time.Duration(s.Turns-done)).Round(time.Second))
	}
	p.say(fmt.Sprintf("[%d/%d] %s  round %d of %d  %s%s", s.Turn, s.Turns, s.Experiment, s.Round, s.Rounds, s.Contender, left))
}

// end clears the line.
func (p *progress) end() {
	if p != nil && p.wrote {
		fmt.Fprint(p.w, clearLine)
	}
}
