package bench

import (
	_ "embed"
	"fmt"
	"io"
	"strings"
	"text/template"
	"time"
)

// pageTemplate is docs/benchmarks.md without its figures.
//
//go:embed page.md.tmpl
var pageTemplate string

// A page is a report as the template and the notes see it.
type page struct {
	*Report
	images string // the directory of the pictures, from where the page is
}

// WritePage writes docs/benchmarks.md: all figures of the report, what they mean
// and where they are not what we want. images is the directory of the pictures
// that WritePlots made, relative to the page.
func WritePage(r *Report, images string, w io.Writer) error {
	p := page{r, images}
	t, err := p.template("page").Parse(pageTemplate)
	if err != nil {
		return fmt.Errorf("bench: page: %w", err)
	}
	var b strings.Builder
	if err := t.Execute(&b, p); err != nil {
		return fmt.Errorf("bench: page: %w", err)
	}
	_, err = io.WriteString(w, b.String())
	return err
}

func (p page) template(name string) *template.Template {
	return template.New(name).Funcs(template.FuncMap{
		"scenario": p.scenario,
		"figure":   p.figure,
		"behind":   p.behind,
		"below":    p.below,
		"picture":  p.picture,
		"rows":     markdownRows,
		"results":  markdownResults,
		"events":   markdownEvents,
		"moves":    markdownMoves,
		"costs":    markdownCosts,
		"date":     func(t time.Time) string { return t.Format("2 January 2006") },
		"gib":      gibibytes,
		"line":     oneLine,
		"took":     func(s float64) string { return seconds(s).Round(time.Second).String() },
	})
}

// gibibytes makes "24684096 kB" readable.
func gibibytes(memory string) string {
	var kb float64
	if _, err := fmt.Sscanf(memory, "%f kB", &kb); err != nil {
		return memory
	}
	return fmt.Sprintf("%.0f GiB", kb/(1<<20))
}

// scenario is a report by its name; nil where it was not run.
func (p page) scenario(name string) *Report {
	for _, r := range p.Each() {
		if r.Scenario == name {
			return r
		}
	}
	return nil
}

// rowOf finds a row by what it says, in all scenarios.
func (p page) rowOf(what string) (Row, bool) {
	for _, r := range p.Each() {
		for _, g := range r.Groups {
			for _, row := range g.Rows {
				if row.What == what {
					return row, true
				}
			}
		}
	}
	return Row{}, false
}

// figure prints a row's figure with its quartiles, for prose. A test sees to it
// that the rows are there; where their scenario was not run they are not.
func (p page) figure(what string) string {
	row, ok := p.rowOf(what)
	if !ok || !row.Figure.Measured() {
		return "(not measured)"
	}
	return fmt.Sprintf("%s (%s)", row.figureString(), row.spreadString())
}

// below tells whether a row's figure was measured and is below a bound.
func (p page) below(what string, bound float64) bool {
	row, _ := p.rowOf(what)
	return row.Figure.Measured() && row.Figure.Median() < bound
}

// figureString is the figure with its unit, or as a plain ratio.
func (row *Row) figureString() string {
	if row.Baseline != "" || !row.Figure.Measured() {
		return row.Figure.String()
	}
	return valueString(row.Figure.Median(), row.Quantity)
}

// spreadString are the quartiles with their unit, or as plain ratios.
func (row *Row) spreadString() string {
	if row.Baseline != "" || !row.Figure.Measured() || row.Figure.exact {
		return row.Figure.spreadString()
	}
	low, high := row.Figure.Quartiles()
	return valueString(low, row.Quantity) + "-" + valueString(high, row.Quantity)
}

// A shortfall is something that is not as we want it.
type shortfall struct{ What, Is, Want string }

// shortfalls are those with the same note on why.
type shortfalls struct {
	Note  string
	Items []shortfall
}

// behind lists every row below its floor, every one on which the rounds do not
// agree, and every event whose target was missed. Nobody chooses them.
func (p page) behind() (list []shortfalls, err error) {
	add := func(key, is, want string) {
		note, noteErr := p.note(key)
		if noteErr != nil {
			err = noteErr
		}
		item := shortfall{key, is, want}
		for i := range list {
			if note != "" && list[i].Note == note {
				list[i].Items = append(list[i].Items, item)
				return
			}
		}
		list = append(list, shortfalls{note, []shortfall{item}})
	}
	for _, r := range p.Each() {
		for _, g := range r.Groups {
			if g.Title == twoConnsTitle {
				continue // no default; the table shows it
			}
			for _, row := range g.Rows {
				if row.Verdict != BelowFloor && row.Verdict != Unclear {
					continue
				}
				bound := "at least "
				if row.LessIsBetter {
					bound = "at most "
				}
				is := fmt.Sprintf("%s (%s)", row.figureString(), row.spreadString())
				if row.Verdict == Unclear {
					is += ", the rounds do not agree"
				}
				add(row.What, is, bound+boundString(row.Floor))
			}
		}
		for _, e := range r.Events {
			for _, row := range e.Rows {
				if row.Verdict == TargetMissed {
					v, _ := e.of(nameRingside, row.Figure)
					add(e.Name+": "+row.What, eventNumber(v), row.Target.String())
				}
			}
		}
	}
	return list, err
}

// note gives the prose on a row, with the figures that it speaks of.
func (p page) note(key string) (string, error) {
	text, ok := notes()[key]
	if !ok {
		return "", nil
	}
	t, err := p.template(key).Parse(text)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	err = t.Execute(&b, p)
	return b.String(), err
}

// picture is the HTML of a picture in both themes; empty where there is none.
func (p page) picture(name string) string {
	for _, one := range pictures(p.Report) {
		if one.name == name {
			return pictureHTML(p.images, one)
		}
	}
	return ""
}

func pictureHTML(dir string, p picture) string {
	path := strings.TrimSuffix(dir, "/") + "/" + p.name
	return fmt.Sprintf(`<picture>
  <source media="(prefers-color-scheme: dark)" srcset="%s-dark.svg">
  <img src="%s.svg" width="800" alt="%s">
</picture>
`, path, path, p.title)
}
