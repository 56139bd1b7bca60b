package bench

import (
	"fmt"
	"slices"
	"strings"
)

// markdownTable makes a table; the first row is its head.
func markdownTable(rows [][]string) string {
	var b strings.Builder
	for i, row := range rows {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(row, " | "))
		if i == 0 {
			b.WriteString(strings.Repeat("|---", len(row)) + "|\n")
		}
	}
	return b.String()
}

// markdownRows is the table of a group.
func markdownRows(g Group) string {
	rows := [][]string{{"what", "figure", "quartiles", "floor", "target", "result", "measured"}}
	for _, row := range g.Rows {
		figure := row.figureString()
		if row.Baseline != "" && row.Figure.Measured() {
			figure += "x"
		}
		spread := row.spreadString()
		if row.Figure.Wide() {
			spread = "~ " + spread
		}
		result := resultString(row)
		if row.Verdict == BelowFloor {
			result = "**" + result + "**"
		}
		rows = append(rows, []string{row.What, figure, spread, boundString(row.Floor), boundString(row.Target), result, row.measuredString()})
	}
	return markdownTable(rows)
}

// markdownResults is the table of an experiment's contenders.
func markdownResults(r *Results) string {
	head := []string{"contender"}
	var used []column
	for _, c := range columns() {
		if r.any(func(name string) bool { return r.Figure(name, c.quantity).Measured() }) {
			used = append(used, c)
			head = append(head, c.head)
		}
	}
	rows := [][]string{head}
	for _, name := range r.Contenders {
		row := []string{name}
		for _, c := range used {
			text := quantityString(r.Figure(name, c.quantity), c.quantity)
			if !r.measured(name) {
				text = "not measured"
			}
			row = append(row, text)
		}
		rows = append(rows, row)
	}
	return markdownTable(rows)
}

// markdownEvents is one table for each event.
func markdownEvents(r *Report) string {
	var b strings.Builder
	for i := range r.Events {
		e := &r.Events[i]
		if len(e.Runs) == 0 {
			fmt.Fprintf(&b, "**%s**: not measured.\n\n", e.Name)
			continue
		}
		rows := [][]string{append([]string{"what"}, append(e.contenders(), "target", "result")...)}
		for _, row := range e.Rows {
			line := []string{row.What}
			for _, name := range e.contenders() {
				text := "-"
				if v, ok := e.of(name, row.Figure); ok {
					text = eventNumber(v)
				}
				line = append(line, text)
			}
			result := string(row.Verdict)
			switch row.Verdict {
			case NoClaim:
				result = "-"
			case TargetMissed:
				result = "**" + result + "**"
			}
			rows = append(rows, append(line, row.Target.String(), result))
		}
		fmt.Fprintf(&b, "**%s**: %s.\n\n%s\n", e.Name, e.About, markdownTable(rows))
	}
	return b.String()
}

// ringTable has the contenders of ring over the sizes.
func ringTable(r *Report, prefix string, cell func(e *Results, contender string) string) string {
	var sizes []*Results
	var names []string
	head := []string{"nodes"}
	for _, e := range r.Experiments {
		size, ok := strings.CutPrefix(e.Name, prefix+"/")
		if !ok {
			continue
		}
		sizes, head = append(sizes, e), append(head, size)
		for _, c := range e.Contenders {
			if !slices.Contains(names, c) {
				names = append(names, c)
			}
		}
	}
	rows := [][]string{head}
	for _, name := range names {
		row := []string{name}
		for _, e := range sizes {
			row = append(row, cell(e, name))
		}
		rows = append(rows, row)
	}
	return markdownTable(rows)
}

// markdownMoves has the keys that move when a node joins, or leaves, and those
// of them that had no reason to.
func markdownMoves(r *Report, all, needless Quantity) string {
	return ringTable(r, "moves", func(e *Results, name string) string {
		text := quantityString(e.Figure(name, all), all)
		if f := e.Figure(name, needless); f.Measured() && f.Median() > 0 {
			text += ", needless " + quantityString(f, needless)
		}
		return text
	})
}

func markdownCosts(r *Report, q Quantity) string {
	prefix := "cost"
	if q == LargestShare || q == SmallestShare {
		prefix = "moves"
	}
	return ringTable(r, prefix, func(e *Results, name string) string { return quantityString(e.Figure(name, q), q) })
}
