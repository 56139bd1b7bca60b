package deploy

import (
	"cmp"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/ringside-cache/ringside/sidecar"
)

const operations = "../docs/operations.md"

var update = flag.Bool("update", false, "write the tables of docs/operations.md anew")

// checkTable compares what stands between <!-- NAME --> and <!-- end NAME -->
// with a table, or writes it.
func checkTable(t *testing.T, name, want string) {
	t.Helper()
	text := read(t, operations)
	begin, end := "<!-- "+name+" -->\n", "<!-- end "+name+" -->"
	i, j := strings.Index(text, begin), strings.Index(text, end)
	if i < 0 || j < i {
		t.Fatalf("there is no %s", begin)
	}
	i += len(begin)
	if diff := gocmp.Diff(want, text[i:j]); diff != "" {
		if !*update {
			t.Fatalf("go test ./deploy -update writes it anew: %s", diff)
		}
		if err := os.WriteFile(operations, []byte(text[:i]+want+text[j:]), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// cell is a text in a table.
func cell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }

// TestSettingsTable: the settings are those that there are.
func TestSettingsTable(t *testing.T) {
	full := sidecar.Settings{}.WithDefaults()
	var b strings.Builder
	b.WriteString("| setting | flag | default | changes by | what it is |\n|---|---|---|---|---|\n")
	for _, one := range full.All() {
		text, change := one.Text(), "restart"
		if text != "" {
			text = "`" + text + "`"
		}
		if one.Reloads {
			change = "**reload**"
		}
		fmt.Fprintf(&b, "| `%s` | `--%s` | %s | %s | %s |\n", one.Path, one.Flag, cell(text), change, cell(one.Help))
	}
	checkTable(t, "settings", b.String())
}

// TestMetricsTable: the metrics are those that a sidecar serves.
func TestMetricsTable(t *testing.T) {
	_, families := served(t)
	names := slices.SortedFunc(maps.Keys(families), cmp.Compare[string])
	var b strings.Builder
	b.WriteString("| metric | type | labels | what it is |\n|---|---|---|---|\n")
	for _, name := range names {
		if f := families[name]; strings.HasPrefix(name, "ringside_") {
			labels := slices.DeleteFunc(slices.Clone(f.labels), func(l string) bool { return l == "le" })
			slices.Sort(labels)
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", name, f.kind, strings.Join(labels, ", "), cell(f.help))
		}
	}
	checkTable(t, "metrics", b.String())
}

// anchors are those of the headings, as GitHub makes them.
func anchors(text string) []string {
	var list []string
	for line := range strings.Lines(text) {
		if title := strings.TrimLeft(line, "#"); title != line && strings.HasPrefix(title, " ") {
			title = strings.ToLower(strings.TrimSpace(title))
			title = regexp.MustCompile(`[^a-z0-9 _-]`).ReplaceAllString(title, "")
			list = append(list, strings.ReplaceAll(title, " ", "-"))
		}
	}
	return list
}

// TestLinks: what the page points to is there.
func TestLinks(t *testing.T) {
	text := read(t, operations)
	known := anchors(text)
	for _, m := range regexp.MustCompile(`\]\(([^)]+)\)`).FindAllStringSubmatch(text, -1) {
		target, anchor, _ := strings.Cut(m[1], "#")
		switch {
		case strings.Contains(target, "://"):
		case target == "":
			if !slices.Contains(known, anchor) {
				t.Errorf("there is no #%s", anchor)
			}
		default:
			if _, err := os.Stat(filepath.Join("../docs", target)); err != nil {
				t.Error(err)
			}
		}
	}
}
