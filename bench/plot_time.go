package bench

import (
	"fmt"
	"math"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// A timePanel is a quantity over the time of a turn.
type timePanel struct {
	what string
	// value computes it from the step of one round; false where there is none.
	value func(at func(Quantity) float64, step float64) (float64, bool)
	log   bool
}

// curve is the median of the rounds in each step, and their quartiles.
type curve struct{ mid, low, high plotter.XYs }

// curve is empty where there are fewer rounds than make a figure.
func (r *Results) curve(contender string, panel timePanel) (c curve) {
	var rounds []map[Quantity][]float64
	steps := 0
	for _, round := range r.Rounds {
		if s := round.Series[contender]; s != nil {
			rounds = append(rounds, s)
			for _, values := range s {
				steps = len(values)
			}
		}
	}
	for i := range steps {
		var values []float64
		for _, s := range rounds {
			at := func(q Quantity) float64 {
				if i < len(s[q]) {
					return s[q][i]
				}
				return math.NaN()
			}
			if v, ok := panel.value(at, r.StepSeconds); ok && !math.IsNaN(v) {
				values = append(values, v)
			}
		}
		f := newFigure(values)
		if !f.Measured() {
			continue
		}
		x := (float64(i) + 0.5) * r.StepSeconds
		low, high := f.Quartiles()
		c.mid = append(c.mid, plotter.XY{X: x, Y: f.Median()})
		c.low = append(c.low, plotter.XY{X: x, Y: low})
		c.high = append(c.high, plotter.XY{X: x, Y: high})
	}
	return c
}

// parts are the stretches without a gap: over what was not measured there goes
// no line.
func (c curve) parts(gap float64) (list []curve) {
	from := 0
	for i := 1; i <= len(c.mid); i++ {
		if i == len(c.mid) || c.mid[i].X-c.mid[i-1].X > gap {
			list = append(list, curve{c.mid[from:i], c.low[from:i], c.high[from:i]})
			from = i
		}
	}
	return list
}

func (c curve) draw(p *plot.Plot, t theme, name string) {
	back := slices.Clone(c.low)
	slices.Reverse(back)
	// The points are there and are numbers, which is all that can be wrong.
	if band, err := plotter.NewPolygon(append(slices.Clone(c.high), back...)); err == nil && len(c.mid) > 1 {
		band.Color, band.LineStyle.Width = t.faint(name), 0
		p.Add(band)
	}
	if line, err := plotter.NewLine(c.mid); err == nil && len(c.mid) > 1 {
		line.Color, line.Width = t.colours[name], 1.6
		p.Add(line)
	}
}

func (r *Results) panel(t theme, panel timePanel, contenders []string, first, last bool) *plot.Plot {
	p := t.plot(panel.what)
	if !first {
		p.Title.Padding = headPadding - textSize - 2 // no line for the marks
	}
	grid := plotter.NewGrid()
	grid.Horizontal.Color, grid.Vertical.Color = t.grid, t.grid
	grid.Vertical.Width = 0
	p.Add(grid)
	most := 0.0
	for _, name := range contenders {
		c := r.curve(name, panel)
		if len(c.mid) < 2 {
			continue
		}
		for _, part := range c.parts(r.StepSeconds * 1.5) {
			part.draw(p, t, name)
		}
		for _, one := range c.high {
			most = max(most, one.Y)
		}
	}
	p.Y.Min, p.Y.Max = 0, max(1, most*1.06)
	if panel.log {
		p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, powers{}
		p.Y.Min, p.Y.Max = 0.1, math.Pow(10, math.Ceil(math.Log10(max(1, most*1.01))))
	} else {
		p.Y.Tick.Marker = few{}
	}
	p.X.Min, p.X.Max = 0, timelineSteps*r.StepSeconds
	p.X.Tick.Marker = few{}
	if last {
		p.X.Label.Text = "seconds"
	}
	for _, m := range r.Marks {
		p.Add(markLine{t, m, first})
	}
	return p
}

// powers are ticks at the powers of ten.
type powers struct{}

func (powers) Ticks(low, high float64) (ticks []plot.Tick) {
	for v := math.Pow(10, math.Floor(math.Log10(low))); v <= high*1.001; v *= 10 {
		ticks = append(ticks, plot.Tick{Value: v, Label: fmt.Sprintf("%g", v)})
	}
	return ticks
}

// few are some ticks with short labels.
type few struct{}

func (few) Ticks(low, high float64) (ticks []plot.Tick) {
	step := math.Pow(10, math.Floor(math.Log10(high/2)))
	for _, more := range []float64{1, 2, 2.5, 5, 10} {
		if high/(step*more) <= 5 {
			step *= more
			break
		}
	}
	for v := 0.0; v <= high; v += step {
		ticks = append(ticks, plot.Tick{Value: v, Label: fmt.Sprintf("%g", v)})
	}
	return ticks
}

// markLine is a moment at which something happens.
type markLine struct {
	theme    theme
	mark     Mark
	labelled bool
}

func (m markLine) Plot(c draw.Canvas, p *plot.Plot) {
	x, _ := p.Transforms(&c)
	at := x(m.mark.AtSeconds)
	line := draw.LineStyle{Color: m.theme.mark, Width: 1, Dashes: []vg.Length{3, 3}}
	c.StrokeLine2(line, at, c.Min.Y, at, c.Max.Y)
	if !m.labelled {
		return
	}
	style := m.theme.style(textSize)
	style.Color, style.YAlign, style.XAlign = m.theme.mark, draw.YBottom, draw.XCenter
	// Between the panel and its heading, so that no curve crosses it.
	c.FillText(style, vg.Point{X: at, Y: c.Max.Y + 2}, m.mark.What)
}

// enoughReads are what a step must have for its ratio to be more than chance.
const enoughReads = 10

func ratioOf(q, of Quantity, scale float64) func(func(Quantity) float64, float64) (float64, bool) {
	return func(at func(Quantity) float64, _ float64) (float64, bool) {
		return scale * at(q) / at(of), at(of) >= enoughReads
	}
}

func perSecondOf(q Quantity) func(func(Quantity) float64, float64) (float64, bool) {
	return func(at func(Quantity) float64, step float64) (float64, bool) { return at(q) / step, step > 0 }
}

// timePicture draws panels under each other; nothing where no contender has a
// series.
func (r *Results) timePicture(name, title, under string, panels []timePanel) []picture {
	var contenders []string
	for _, c := range r.Contenders {
		if len(r.curve(c, panels[0]).mid) > 1 {
			contenders = append(contenders, c)
		}
	}
	if len(contenders) == 0 {
		return nil
	}
	return []picture{{
		name: name, title: title, under: under, legend: legendOf(contenders),
		width: plotWidth, height: vg.Length(90 + 120*len(panels)),
		panels: func(t theme) (list []*plot.Plot) {
			for i, one := range panels {
				list = append(list, r.panel(t, one, contenders, i == 0, i == len(panels)-1))
			}
			return list
		},
	}}
}

const seriesNote = "Median of the rounds, the band is their quartiles."

func rebalancePicture(r *Report) (list []picture) {
	for _, e := range r.Experiments {
		list = append(list, e.timePicture("rebalance", "A server joins four, then another leaves", seriesNote, []timePanel{
			{what: "hit ratio, %", value: ratioOf(ReadsHit, ReadsDone, 100)},
			{what: "origin calls a second", value: perSecondOf(OriginCalls)},
		})...)
	}
	return list
}

func failoverPictures(r *Report) (list []picture) {
	titles := map[string]string{
		"killed": "One of four servers is killed, and started again",
		"hung":   "One of four servers hangs, and goes on",
	}
	for _, e := range r.Experiments {
		list = append(list, e.timePicture("failover-"+e.Name, titles[e.Name], seriesNote, []timePanel{
			{what: "reads that failed a second", value: perSecondOf(ReadsFailed)},
			{what: "reads answered a second", value: func(at func(Quantity) float64, step float64) (float64, bool) {
				return (at(ReadsDone) - at(ReadsFailed)) / step, step > 0
			}},
			{what: "99th percentile of a read, ms", log: true, value: func(at func(Quantity) float64, _ float64) (float64, bool) {
				return max(0.1, at(LatencyP99)), at(ReadsDone) > 0
			}},
			{what: "hit ratio of the reads, %", value: ratioOf(ReadsHit, ReadsDone, 100)},
		})...)
	}
	return list
}
