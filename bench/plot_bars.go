package bench

import (
	"fmt"
	"math"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// A bar is a figure of one contender in one group. The zero bar is not drawn.
type bar struct {
	measured       bool
	mid, low, high float64
}

func figureBar(f Figure) bar {
	if !f.Measured() {
		return bar{}
	}
	low, high := f.Quartiles()
	return bar{true, f.Median(), low, high}
}

// bars are groups of bars side by side.
type bars struct {
	theme  theme
	groups []string
	names  []string // contenders
	series [][]bar  // by contender, then by group
	line   float64  // across all, 0 for none
	log    bool
}

const groupWidth = 0.8

// Plot draws the bars with their quartiles, and what each stands for over it.
func (b bars) Plot(c draw.Canvas, p *plot.Plot) {
	x, y := p.Transforms(&c)
	if b.line > 0 {
		style := draw.LineStyle{Color: b.theme.mark, Width: 1.2, Dashes: []vg.Length{4, 3}}
		c.StrokeLine2(style, c.Min.X, y(b.line), c.Max.X, y(b.line))
	}
	wide := groupWidth / float64(len(b.series))
	text := b.theme.style(textSize)
	text.XAlign, text.YAlign = draw.XCenter, draw.YBottom
	for i, series := range b.series {
		for group, one := range series {
			if !one.measured {
				continue
			}
			left := float64(group) - groupWidth/2 + wide*float64(i)
			if b.alone(group) {
				left = float64(group) - wide/2
			}
			box := vg.Rectangle{
				Min: vg.Point{X: x(left + wide*0.06), Y: y(p.Y.Min)},
				Max: vg.Point{X: x(left + wide*0.94), Y: max(y(p.Y.Min)+0.5, y(max(one.mid, p.Y.Min)))},
			}
			c.SetColor(b.theme.colours[b.names[i]])
			c.Fill(box.Path())
			mid := (box.Min.X + box.Max.X) / 2
			top := box.Max.Y
			if one.high > one.low {
				style := draw.LineStyle{Color: b.theme.text, Width: 1.2}
				c.StrokeLine2(style, mid, y(one.low), mid, y(one.high))
				c.StrokeLine2(style, mid-3, y(one.low), mid+3, y(one.low))
				c.StrokeLine2(style, mid-3, y(one.high), mid+3, y(one.high))
				top = max(top, y(one.high))
			}
			c.FillText(text, vg.Point{X: mid, Y: top + 2}, b.label(one.mid))
		}
	}
}

// label is short: bars are narrow. What the logarithmic axis is for are counts.
func (b bars) label(v float64) string {
	if v >= 10 || b.log && v == math.Trunc(v) {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.1f", v)
}

// alone tells whether a group has one bar, which stands in its middle.
func (b bars) alone(group int) bool {
	n := 0
	for _, series := range b.series {
		if series[group].measured {
			n++
		}
	}
	return n == 1
}

// DataRange leaves room over the highest for what it stands for.
func (b bars) DataRange() (xmin, xmax, ymin, ymax float64) {
	for _, series := range b.series {
		for _, one := range series {
			if one.measured {
				ymax = max(ymax, one.mid, one.high)
			}
		}
	}
	ymin, ymax = 0, ymax*1.15
	if b.log {
		ymin, ymax = 0.5, math.Pow(10, math.Log10(ymax)*1.1)
	}
	return -0.5, float64(len(b.groups)) - 0.5, ymin, ymax
}

func (b bars) plot(what string) *plot.Plot {
	p := b.theme.plot(what)
	p.Add(b)
	p.X.Min, p.X.Max, p.Y.Min, p.Y.Max = b.DataRange()
	p.X.Tick.Marker = b
	p.X.Tick.Length = 0
	p.Title.Padding = 4 // there are no marks
	p.Y.Tick.Marker = few{}
	if b.log {
		p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, powers{}
	}
	return p
}

// Ticks are the groups' names.
func (b bars) Ticks(_, _ float64) (ticks []plot.Tick) {
	for i, name := range b.groups {
		ticks = append(ticks, plot.Tick{Value: float64(i), Label: name})
	}
	return ticks
}

// throughputPicture has the ratios to gomemcache in the same round.
func throughputPicture(r *Report) []picture {
	byName := map[string]*Results{}
	for _, e := range r.Experiments {
		byName[e.Name] = e
	}
	var groups []string
	names := []string{nameRingside, nameWire}
	series := make([][]bar, len(names))
	for _, g := range []struct{ experiment, label string }{
		{"get/1", "Get\n1 caller"},
		{"get/8", "Get\n8"},
		{"get/64", "Get\n64"},
		{"get/256", "Get\n256"},
		{"multi/1", "GetMulti\n1 caller"},
		{"multi/8", "GetMulti\n8"},
		{"multi/64", "GetMulti\n64"},
	} {
		e := byName[g.experiment]
		if !figureBar(e.Ratio(nameRingside, nameGomemcache, Throughput)).measured {
			continue
		}
		groups = append(groups, g.label)
		for i, name := range names {
			series[i] = append(series[i], figureBar(e.Ratio(name, nameGomemcache, Throughput)))
		}
	}
	if len(groups) == 0 {
		return nil
	}
	return []picture{{
		name: "throughput", title: "Throughput, times gomemcache's in the same round",
		under:  "Median and quartiles of the rounds; the dashed line is gomemcache. GetMulti: 100 keys over 10 servers.",
		legend: legendOf(names), width: plotWidth, height: 300,
		panels: func(t theme) []*plot.Plot {
			return []*plot.Plot{bars{theme: t, groups: groups, names: names, series: series, line: 1}.plot("times gomemcache")}
		},
	}}
}

// loadsPicture has how often the origin was asked for one key.
func loadsPicture(r *Report) []picture {
	var groups []string
	names := []string{nameRingside, nameNaive, nameSingle}
	series := make([][]bar, len(names))
	for _, g := range []struct{ event, figure, label string }{
		{"invalidate", "loads_per_invalidation", "it is invalidated"},
		{"expire", "loads_per_expiry", "it expires"},
		{"cold", "loads", "it is not there"},
	} {
		for i := range r.Events {
			e := &r.Events[i]
			if _, ok := e.of(nameRingside, g.figure); e.Name != g.event || !ok {
				continue
			}
			groups = append(groups, g.label)
			for k, name := range names {
				v, ok := e.of(name, g.figure)
				series[k] = append(series[k], bar{ok, v, v, v})
			}
		}
	}
	if len(groups) == 0 {
		return nil
	}
	legend := []legendEntry{{nameRingside, nameRingside}, {nameNaive, "get, load, set"}, {nameSingle, "singleflight in each process"}}
	return []picture{{
		name: "stampede", title: "How often the origin is asked for one popular key when ...",
		under:  fmt.Sprintf("Mean of the events, %s; the axis is logarithmic.", processes(r.Processes)),
		legend: legend, width: plotWidth, height: 300,
		panels: func(t theme) []*plot.Plot {
			return []*plot.Plot{bars{theme: t, groups: groups, names: names, series: series, log: true}.plot("origin calls")}
		},
	}}
}
