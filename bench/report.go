package bench

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"time"
)

// Schema is the version of the JSON form of a Report. It changes when a field
// changes its meaning or goes away, not when one is added.
const Schema = "ringside-bench/1"

// A Report is what a scenario measured.
type Report struct {
	Schema   string    `json:"schema"`
	Scenario string    `json:"scenario"`
	Date     time.Time `json:"date"`
	// Took is how long it ran, in seconds.
	Took     float64  `json:"took_seconds"`
	Machine  Machine  `json:"machine"`
	Versions Versions `json:"versions"`
	// Setting says what was done, a sentence each.
	Setting []string `json:"setting"`
	// Rounds were run, with windows of so many seconds.
	Rounds        int     `json:"rounds"`
	WindowSeconds float64 `json:"window_seconds"`
	// Incomplete says why something is missing, empty if nothing is.
	Incomplete string `json:"incomplete,omitempty"`
	// Groups are the tables of rows.
	Groups []Group `json:"groups,omitempty"`
	// Experiments are the raw rounds.
	Experiments []*Results `json:"experiments,omitempty"`

	// What follows is of stampede, whose events are too long for rounds.

	// Processes read through the cache.
	Processes int `json:"processes,omitempty"`
	// Capacity is how many reads a second the fleet did in a closed loop, 0 if
	// that was not measured. Rate is what the open loop offers.
	Capacity float64 `json:"capacity_reads_per_second,omitempty"`
	Rate     float64 `json:"offered_reads_per_second,omitempty"`
	Events   []Event `json:"events,omitempty"`

	// Reports are those of the scenarios that All ran. It has nothing else but
	// the date, the machine and the versions.
	Reports []*Report `json:"reports,omitempty"`
}

// Each gives the reports of the single scenarios: those of All, or the report
// itself.
func (r *Report) Each() []*Report {
	if len(r.Reports) > 0 {
		return r.Reports
	}
	return []*Report{r}
}

// A Group is a table of rows that belong together.
type Group struct {
	Title string `json:"title"`
	Rows  []Row  `json:"rows"`
}

// fill computes every row from the experiments.
func (r *Report) fill() {
	byName := make(map[string]*Results, len(r.Experiments))
	for _, e := range r.Experiments {
		byName[e.Name] = e
	}
	for _, g := range r.Groups {
		for i := range g.Rows {
			g.Rows[i].fill(byName[g.Rows[i].Experiment])
		}
	}
	for i := range r.Events {
		r.Events[i].judge()
	}
}

// Problems lists what went wrong on the way, a line each.
func (r *Report) Problems() []string {
	var list []string
	if r.Incomplete != "" {
		list = append(list, "incomplete: "+r.Incomplete)
	}
	for _, e := range r.Experiments {
		if e.Error != "" {
			list = append(list, fmt.Sprintf("%s: %s", e.Name, e.Error))
		}
		for i, round := range e.Rounds {
			for _, c := range round.Order {
				if msg := round.Errors[c]; msg != "" {
					list = append(list, fmt.Sprintf("%s, %s, round %d: %s", e.Name, c, i+1, msg))
				}
			}
		}
	}
	for _, e := range r.Events {
		for _, run := range e.Runs {
			if run.Error != "" {
				list = append(list, fmt.Sprintf("%s, %s: %s", e.Name, run.Contender, run.Error))
			}
		}
	}
	for _, one := range r.Reports {
		for _, problem := range one.Problems() {
			list = append(list, one.Scenario+": "+problem)
		}
	}
	return list
}

// WriteJSON writes the report with everything that was measured.
func (r *Report) WriteJSON(w io.Writer) error {
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	_, err = w.Write(append(numberLists().ReplaceAllFunc(b, oneLineList), '\n'))
	return err
}

// numberLists finds lists of numbers, which are to stand on a line: with a line
// for each number a series is longer than all the rest. A text in JSON has no
// line break, so none is taken for a list.
func numberLists() *regexp.Regexp { return regexp.MustCompile(`\[\n[-+.0-9eE,\s]+\]`) }

func oneLineList(b []byte) []byte { return bytes.Join(bytes.Fields(b), nil) }

// ReadReport reads what WriteJSON wrote.
func ReadReport(rd io.Reader) (*Report, error) {
	var r Report
	if err := json.NewDecoder(rd).Decode(&r); err != nil {
		return nil, fmt.Errorf("bench: report: %w", err)
	}
	if r.Schema != Schema {
		return nil, fmt.Errorf("bench: report: schema %q, want %q", r.Schema, Schema)
	}
	return &r, nil
}
