package bench

import (
	"encoding/json"
	"fmt"
	"io"
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
	Groups []Group `json:"groups"`
	// Experiments are the raw rounds.
	Experiments []*Results `json:"experiments"`
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
	return list
}

// WriteJSON writes the report with everything that was measured.
func (r *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", " ")
	return e.Encode(r)
}

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
