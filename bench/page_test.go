package bench

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"
	"text/template/parse"

	"github.com/google/go-cmp/cmp"
)

// pageReport is a run of everything that measured nothing but what a test says.
func pageReport() *Report {
	r := plotReport()
	r.Reports = append(r.Reports, &Report{Scenario: "ring", Groups: ringGroups(ringSizes())}, &Report{Scenario: "sidecar", Groups: sidecarGroups()})
	groups := map[string][]Group{"client": clientGroups(), "rebalance": rebalanceGroups(), "failover": failoverGroups()}
	for _, one := range r.Reports {
		if g, ok := groups[one.Scenario]; ok {
			one.Groups = g
		}
		one.fill()
	}
	return r
}

// The page has the pictures, every figure and nothing that was not measured; a
// row below its floor is listed with its note, and no other is.
func TestWritePage(t *testing.T) {
	r := pageReport()
	set := func(what string, rounds ...float64) {
		for _, one := range r.Reports {
			for _, g := range one.Groups {
				for i := range g.Rows {
					if g.Rows[i].What == what && g.Title != twoConnsTitle {
						g.Rows[i].Figure = newFigure(rounds)
						g.Rows[i].Verdict = g.Rows[i].judge()
					}
				}
			}
		}
	}
	set("GetMulti of 100 keys over 10 nodes, 1 goroutine", 1.1, 1.1, 1.1, 1.1, 1.1)
	set("the wire limit of GetMulti, 1 goroutine", 1.5, 1.5, 1.5, 1.5, 1.5)
	set("throughput, 64 goroutines", 9, 9, 9, 9, 9)
	set("throughput, 8 goroutines", 1, 1, 1.5, 2, 2)
	var b bytes.Buffer
	if err := WritePage(r, "img", &b); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	_, behind, _ := strings.Cut(text, "## Where we are not ahead")
	behind, _, _ = strings.Cut(behind, "\n## ")
	for _, want := range []string{
		"**GetMulti of 100 keys over 10 nodes, 1 goroutine**: 1.10 (1.10-1.10), wanted at least 2.\n\nTen nodes",
		"1.50 (1.50-1.50) times gomemcache's throughput at one caller and 8.00 (8.00-8.00) at\neight, so a floor of 2 is out of reach",
		"**throughput, 8 goroutines**: 1.50 (1.00-2.00), the rounds do not agree, wanted at least 1.3.",
	} {
		if !strings.Contains(behind, want) {
			t.Errorf("it does not say %q:\n%s", want, behind)
		}
	}
	if strings.Contains(behind, "throughput, 64") || strings.Contains(behind, "256") {
		t.Errorf("it lists what is not behind:\n%s", behind)
	}
	for _, want := range []string{
		"img/rebalance-dark.svg", "img/failover-hung.svg", "img/throughput.svg", "**below the floor**",
		"| throughput, 64 goroutines | 9.00x |", "not measured",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the page has no %q", want)
		}
	}
	if strings.Contains(text, "<no value>") || strings.Contains(text, "NaN") {
		t.Errorf("the page has holes:\n%s", text)
	}
	if err := WritePage(testReport(), "img", &b); err != nil {
		t.Errorf("the page of a single scenario: %v", err)
	}
}

// Every note is on a row that is there, and so is every figure that it names.
func TestNotes(t *testing.T) {
	r := pageReport()
	p := page{r, "img"}
	for key, text := range notes() {
		_, ok := p.rowOf(key)
		for _, e := range stampedeEvents {
			ok = ok || slices.ContainsFunc(e.rows, func(row EventRow) bool { return e.name+": "+row.What == key })
		}
		if !ok {
			t.Errorf("a note on %q, which is no row", key)
		}
		tree, err := parse.Parse(key, text, "", "", map[string]any{"figure": p.figure, "below": p.below})
		if err != nil {
			t.Errorf("%s: %v", key, err)
			continue
		}
		for _, node := range tree[key].Root.Nodes {
			action, isAction := node.(*parse.ActionNode)
			if !isAction {
				continue
			}
			what := action.Pipe.Cmds[0].Args[1].(*parse.StringNode).Text
			if _, ok := p.rowOf(what); !ok {
				t.Errorf("the note on %q has a figure of %q, which is no row", key, what)
			}
		}
	}
}

// Only what is between the marks changes.
func TestReplaceExcerpt(t *testing.T) {
	in := "before\n" + readmeBegin + "old\n" + readmeEnd + "after\n"
	out, err := ReplaceExcerpt(in, pageReport(), "docs/img")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(out, "before\n"+readmeBegin) || !strings.HasSuffix(out, readmeEnd+"after\n") || strings.Contains(out, "old") {
		t.Errorf("got %s", out)
	}
	if !strings.Contains(out, "docs/img/rebalance-dark.svg") || strings.Contains(out, "| measured |") {
		t.Errorf("a picture is missing, or a figure of nothing is there: %s", out)
	}
	noisy := pageReport()
	for _, one := range noisy.Reports {
		if one.Scenario == "client" {
			one.Groups[0].Rows[0].Figure = newFigure([]float64{1, 2, 6, 9, 12})
			one.Experiments = nil
		}
	}
	if out, err = ReplaceExcerpt(in, noisy, "docs/img"); err != nil || !strings.Contains(out, "| ~ 6.00x | 2.00-9.00 |") || !strings.Contains(out, "differ too much") {
		t.Errorf("a figure that says nothing is not marked: %v, %s", err, out)
	}
	if _, err := ReplaceExcerpt("no marks", pageReport(), "x"); err == nil {
		t.Error("a text without marks")
	}
}

// docs/benchmarks.md and the README's figures are what the committed report
// gives; "make benchmarks" makes them.
func TestDocsAreMade(t *testing.T) {
	file, err := os.Open("../docs/benchmarks.json")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	r, err := ReadReport(file)
	if err != nil {
		t.Fatal(err)
	}
	var page bytes.Buffer
	if err := WritePage(r, "img", &page); err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile("../docs/benchmarks.md")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(doc), page.String()); diff != "" {
		t.Errorf("docs/benchmarks.md is another: make benchmarks\n%s", diff)
	}
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	made, err := ReplaceExcerpt(string(readme), r, "docs/img")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(readme), made); diff != "" {
		t.Errorf("README.md has other figures: make benchmarks\n%s", diff)
	}
}
