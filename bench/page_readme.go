package bench

import (
	"fmt"
	"strings"
)

// The part of the README that is ours is between these.
const (
	readmeBegin = "<!-- benchmarks: made by make benchmarks -->\n"
	readmeEnd   = "<!-- end of benchmarks -->\n"
)

// ReplaceExcerpt puts the report's pictures and some of its figures into a text,
// between the marks that are there for it.
func ReplaceExcerpt(text string, r *Report, images string) (string, error) {
	before, rest, ok := strings.Cut(text, readmeBegin)
	_, after, ok2 := strings.Cut(rest, readmeEnd)
	if !ok || !ok2 {
		return "", fmt.Errorf("bench: the text has no %q and %q", strings.TrimSpace(readmeBegin), strings.TrimSpace(readmeEnd))
	}
	return before + readmeBegin + excerpt(page{r, images}) + readmeEnd + after, nil
}

// excerpt has a line for what was measured, and no line for what was not.
func excerpt(p page) string {
	var b strings.Builder
	for _, name := range []string{"rebalance", "throughput"} {
		if html := p.picture(name); html != "" {
			b.WriteString(html + "\n")
		}
	}
	rows := [][]string{{"measured", "figure", "quartiles"}}
	wide := false
	for _, one := range []struct{ what, text, unit string }{
		{"throughput, 64 goroutines", "throughput with 64 goroutines, to gomemcache's", "x"},
		{"throughput, 8 goroutines", "throughput with 8 goroutines, to gomemcache's", "x"},
		{"GetMulti of 100 keys over 10 nodes, 1 goroutine", "GetMulti over ten nodes, to gomemcache's", "x"},
		{"ringside: origin calls after a server joined", "origin calls after a server joined, to those with gomemcache", "x"},
		{"killed, ringside: reads answered while it is down, of those offered", "reads answered while one of four servers is dead", ""},
		{"killed, gomemcache: reads answered while it is down, of those offered", "the same with gomemcache", ""},
	} {
		row, ok := p.rowOf(one.what)
		if !ok || !row.Figure.Measured() {
			continue
		}
		figure := row.figureString() + one.unit
		if row.Figure.Wide() {
			figure, wide = "~ "+figure, true
		}
		rows = append(rows, []string{one.text, figure, row.spreadString()})
	}
	if len(rows) > 1 {
		b.WriteString(markdownTable(rows))
	}
	if wide {
		b.WriteString("\n~ The rounds differ too much for the figure to say anything.\n")
	}
	m := p.Machine
	fmt.Fprintf(&b, "\n%s, %d cores, %s; %s. All figures, and where we are not ahead: [benchmarks](docs/benchmarks.md).\n", m.CPU, m.Cores, m.OS, p.Date.Format("2 January 2006"))
	return b.String()
}
