package main

import (
	"bytes"
	"fmt"
	"image/color"
	"os"

	"golang.org/x/image/colornames"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
)

// drawWaves draws the requests of each way over time into an SVG file.
func drawWaves(path string, n int) error {
	plot.DefaultFont = font.Font{Typeface: "Liberation", Variant: "Sans"}
	p := plot.New()
	p.BackgroundColor = color.White // also on a dark page
	p.Title.Text = fmt.Sprintf("%d grants expire, and %d requests a second are allowed", n, perSecond)
	p.Title.Padding = vg.Points(8)
	p.X.Label.Text = "seconds"
	p.Y.Label.Text = "requests within the second"
	p.Y.Scale = plot.LogScale{}
	p.Y.Tick.Marker = plot.ConstantTicks{{Value: 1, Label: "1"}, {Value: 10, Label: "10"}, {Value: 100, Label: "100"}, {Value: 1000, Label: "1,000"}}
	p.Add(plotter.NewGrid())
	p.Legend.Top = true
	p.Legend.Padding = vg.Points(2)

	colors := []color.Color{colornames.Crimson, colornames.Darkorange, colornames.Royalblue}
	for i, w := range ways {
		result, err := runWave(w, n)
		if err != nil {
			return err
		}
		var points plotter.XYs
		for second, requests := range result.Seconds {
			if requests > 0 { // on this scale there is no 0
				points = append(points, plotter.XY{X: float64(second) + 0.5, Y: float64(requests)})
			}
		}
		line, err := plotter.NewLine(points)
		if err != nil {
			return err
		}
		line.Color, line.Width = colors[i], vg.Points(2)
		p.Add(line)
		p.Legend.Add(fmt.Sprintf("%s: %s requests, %d customers told to reconnect", w.name, grouped(result.Requests), result.ToldRevoked), line)
	}
	p.X.Min, p.Y.Min = 0, 1

	picture, err := p.WriterTo(20*vg.Centimeter, 9*vg.Centimeter, "svg")
	if err != nil {
		return err
	}
	var svg bytes.Buffer
	if _, err := picture.WriteTo(&svg); err != nil {
		return err
	}
	const family = "font-family:Liberation Sans"
	withOthers := bytes.ReplaceAll(svg.Bytes(), []byte(family), []byte(family+",Arial,sans-serif")) // few readers have that font
	return os.WriteFile(path, withOthers, 0o666)
}

// grouped writes a number with a comma before each three digits.
func grouped(n int) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%s,%03d", grouped(n/1000), n%1000)
}
