package bench

import (
	"bytes"
	"errors"
	"fmt"
	"image/color"
	"os"
	"path/filepath"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgsvg"
)

// A picture is something to be drawn, in any theme.
type picture struct {
	name          string // of its files
	title, under  string
	width, height vg.Length
	legend        []legendEntry
	// panels are from top to bottom, and share their x axis.
	panels func(t theme) []*plot.Plot
}

// A legendEntry is what a contender's colour stands for.
type legendEntry struct{ contender, label string }

func legendOf(contenders []string) (list []legendEntry) {
	for _, c := range contenders {
		list = append(list, legendEntry{c, c})
	}
	return list
}

// WritePlots draws what a report has pictures of into a directory, each as
// NAME.svg and NAME.png, and as NAME-dark.svg and NAME-dark.png. What was not
// measured has no picture.
func WritePlots(r *Report, dir string) error {
	var errs []error
	for _, p := range pictures(r) {
		for _, t := range []theme{light(), dark()} {
			errs = append(errs, p.write(t, dir))
		}
	}
	return errors.Join(errs...)
}

// pictures are those that the report has the figures for.
func pictures(r *Report) (list []picture) {
	for _, one := range r.Each() {
		switch one.Scenario {
		case "client":
			list = append(list, throughputPicture(one)...)
		case "stampede":
			list = append(list, loadsPicture(one)...)
		case "rebalance":
			list = append(list, rebalancePicture(one)...)
		case "failover":
			list = append(list, failoverPictures(one)...)
		}
	}
	return list
}

// A theme is a set of colours. Those of the contenders are told apart by people
// who are colour-blind (after Okabe and Ito), and stand out from the background.
type theme struct {
	suffix                 string
	back, text, grid, mark color.NRGBA
	colours                map[string]color.NRGBA // by contender
}

func light() theme {
	return theme{
		back: rgb(0xffffff), text: rgb(0x1f2328), grid: rgb(0xd8dee4), mark: rgb(0x59636e),
		colours: contenderColours(rgb(0x0060a8), rgb(0xc84c00), rgb(0x007a5a), rgb(0x8a3ffc)),
	}
}

func dark() theme {
	return theme{
		suffix: "-dark",
		back:   rgb(0x0d1117), text: rgb(0xf0f6fc), grid: rgb(0x30363d), mark: rgb(0x9198a1),
		colours: contenderColours(rgb(0x58b0ff), rgb(0xff9a4d), rgb(0x3fd6a4), rgb(0xc99bff)),
	}
}

// contenderColours gives a contender the same colour in all pictures.
func contenderColours(own, first, second, more color.NRGBA) map[string]color.NRGBA {
	return map[string]color.NRGBA{
		nameRingside:         own,
		nameGomemcache:       first,
		nameNaive:            first,
		namePylibmc:          second,
		nameSingle:           second,
		nameWire:             more,
		nameRingsideStampede: more,
	}
}

func rgb(x uint32) color.NRGBA {
	return color.NRGBA{R: uint8(x >> 16), G: uint8(x >> 8), B: uint8(x), A: 0xff}
}

func (t theme) faint(name string) color.NRGBA {
	c := t.colours[name]
	c.A = 0x38
	return c
}

// The sizes are in points of which a picture is plotWidth wide; at 800 pixels a
// point is about one and a third of them.
const (
	plotWidth  = 600
	titleSize  = 13
	textSize   = 10.5
	plotMargin = 10
	// headPadding is between a panel and its heading: a line for the marks.
	headPadding = 17
	// plotDPI makes a PNG of 1,200 pixels, half as many again as it is shown
	// with, for screens that are finer.
	plotDPI = 144
)

func sans(size vg.Length) font.Font {
	return font.Font{Typeface: "Liberation", Variant: "Sans", Size: size}
}

func (t theme) style(size vg.Length) draw.TextStyle {
	return draw.TextStyle{Color: t.text, Font: sans(size), Handler: plot.DefaultTextHandler}
}

// plot gives an empty plot in the theme's colours.
func (t theme) plot(y string) *plot.Plot {
	p := plot.New()
	p.BackgroundColor = color.Transparent
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		axis.Color, axis.Tick.Color = t.grid, t.grid
		axis.Label.TextStyle.Font, axis.Label.TextStyle.Color = sans(textSize), t.text
		axis.Tick.Label.Font, axis.Tick.Label.Color = sans(textSize), t.text
		axis.Padding = 0
		axis.LineStyle.Width, axis.Tick.LineStyle.Width = 0.7, 0.7
	}
	// What the axis shows stands over it, where it can be read without turning
	// one's head and takes no width. A title would stand in the middle, so it
	// only keeps the place.
	p.Title.Text = " "
	p.Title.Padding = headPadding
	p.Title.TextStyle.Font = sans(textSize)
	p.Add(heading{t, y})
	p.X.Tick.Length, p.Y.Tick.Length = 3, 3
	return p
}

// A heading says what a panel shows, over its left end.
type heading struct {
	theme theme
	text  string
}

func (h heading) Plot(c draw.Canvas, p *plot.Plot) {
	style := h.theme.style(textSize)
	style.YAlign = draw.YBottom
	c.FillText(style, vg.Point{X: c.Min.X, Y: c.Max.Y + p.Title.Padding}, h.text)
}

func (p picture) write(t theme, dir string) error {
	path := filepath.Join(dir, p.name+t.suffix)
	image := vgimg.NewWith(vgimg.UseWH(p.width, p.height), vgimg.UseDPI(plotDPI), vgimg.UseBackgroundColor(t.back))
	p.draw(t, draw.New(image))
	vector := vgsvg.New(p.width, p.height)
	p.draw(t, draw.New(vector))
	var png, svg bytes.Buffer
	if _, err := (vgimg.PngCanvas{Canvas: image}).WriteTo(&png); err != nil {
		return fmt.Errorf("bench: plot: %w", err)
	}
	if _, err := vector.WriteTo(&svg); err != nil {
		return fmt.Errorf("bench: plot: %w", err)
	}
	// Where the font is not installed, one of the same widths.
	text := bytes.ReplaceAll(svg.Bytes(), []byte("font-family:Liberation Sans;"), []byte("font-family:'Liberation Sans',Arial,Helvetica,sans-serif;"))
	return errors.Join(
		os.WriteFile(path+".png", png.Bytes(), 0o644),
		os.WriteFile(path+".svg", text, 0o644))
}

// draw puts the title and the legend over the panels.
func (p picture) draw(t theme, c draw.Canvas) {
	c.SetColor(t.back)
	c.Fill(c.Rectangle.Path())
	c = draw.Crop(c, plotMargin, -plotMargin, plotMargin, -plotMargin)
	top := c.Max.Y
	title := t.style(titleSize)
	title.Font.Weight = 3 // bold, as golang.org/x/image/font counts
	title.YAlign = draw.YTop
	c.FillText(title, vg.Point{X: c.Min.X, Y: top}, p.title)
	top -= titleSize * 1.6
	if p.under != "" {
		small := t.style(textSize)
		small.Color, small.YAlign = t.mark, draw.YTop
		c.FillText(small, vg.Point{X: c.Min.X, Y: top}, p.under)
		top -= textSize * 1.7
	}
	p.drawLegend(t, &c, top)
	top -= textSize * 2.2
	c = draw.Crop(c, 0, 0, 0, top-c.Max.Y)

	panels := p.panels(t)
	rows := make([][]*plot.Plot, len(panels))
	for i, one := range panels {
		rows[i] = []*plot.Plot{one}
	}
	tiles := draw.Tiles{Rows: len(rows), Cols: 1, PadY: 10}
	for i, row := range plot.Align(rows, tiles, c) {
		rows[i][0].Draw(row[0])
	}
}

func (p picture) drawLegend(t theme, c *draw.Canvas, top vg.Length) {
	x := c.Min.X
	style := t.style(textSize)
	style.YAlign = draw.YTop
	for _, one := range p.legend {
		const side = textSize * 0.85
		box := vg.Rectangle{Min: vg.Point{X: x, Y: top - side - 1.5}, Max: vg.Point{X: x + side, Y: top - 1.5}}
		c.SetColor(t.colours[one.contender])
		c.Fill(box.Path())
		c.FillText(style, vg.Point{X: x + side + 4, Y: top}, one.label)
		x += side + 4 + style.Width(one.label) + 18
	}
}
