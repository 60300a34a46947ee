package main

import (
	"bytes"
	"fmt"
	"math"
	"os"
)

// The picture's size, and the place of its plot.
const (
	width, height            = 760, 340
	left, top, right, bottom = 60, 110, 740, 300
	pictureGrants            = 500
)

// drawWaves draws the requests of each way over time into an SVG file, on a logarithmic scale.
func drawWaves(path string, run func(way, int) wave) error {
	var waves []wave
	seconds, most := 0, 1000
	for _, w := range ways {
		result := run(w, pictureGrants)
		waves = append(waves, result)
		seconds = max(seconds, len(result.seconds))
		for _, requests := range result.seconds {
			most = max(most, requests)
		}
	}
	x := func(second float64) float64 { return left + second/float64(seconds)*(right-left) }
	y := func(requests int) float64 {
		return bottom - math.Log(float64(requests))/math.Log(float64(most))*(bottom-top)
	}

	var svg bytes.Buffer
	fmt.Fprintf(&svg, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="Arial,sans-serif" font-size="13" stroke-width="2">`+"\n", width, height)
	fmt.Fprintln(&svg, `<rect width="100%" height="100%" fill="white"/>`) // also on a dark page
	text := func(x, y float64, anchor, format string, arguments ...any) {
		fmt.Fprintf(&svg, `<text x="%.1f" y="%.1f" text-anchor="%s">%s</text>`+"\n", x, y, anchor, fmt.Sprintf(format, arguments...))
	}
	line := func(x1, y1, x2, y2 float64, style string) {
		fmt.Fprintf(&svg, `<path d="M%.1f,%.1fL%.1f,%.1f" %s/>`+"\n", x1, y1, x2, y2, style)
	}
	const grid = `stroke="silver" stroke-width="0.5"`
	text(width/2, 22, "middle", "%d grants expire, and %d requests a second are allowed", pictureGrants, perSecond)
	text((left+right)/2, height-8, "middle", "seconds")
	text(left-46, top-12, "start", "requests within the second")
	for requests := 1; requests <= most; requests *= 10 {
		line(left, y(requests), right, y(requests), grid)
		text(left-6, y(requests)+4, "end", "%s", grouped(requests))
	}
	for second := 0; second <= seconds; second += 10 {
		line(x(float64(second)), top, x(float64(second)), bottom, grid)
		text(x(float64(second)), bottom+18, "middle", "%d", second)
	}
	for i, result := range waves {
		style := fmt.Sprintf(`fill="none" stroke="%s"`, []string{"crimson", "darkorange", "royalblue"}[i])
		legend := float64(44 + 18*i)
		line(right-20, legend-4, right, legend-4, style)
		text(right-28, legend, "end", "%s: %s requests, %d customers told to reconnect", ways[i].name, grouped(result.requests()), result.toldRevoked)
		move := "M"
		svg.WriteString(`<path d="`)
		for second, requests := range result.seconds {
			if requests > 0 { // on this scale there is no 0
				fmt.Fprintf(&svg, "%s%.1f,%.1f", move, x(float64(second)+0.5), y(requests))
				move = "L"
			}
		}
		fmt.Fprintf(&svg, `" %s/>`+"\n", style)
	}
	svg.WriteString("</svg>\n")
	return os.WriteFile(path, svg.Bytes(), 0o666)
}

// grouped writes a number with a comma before each three digits.
func grouped(n int) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%s,%03d", grouped(n/1000), n%1000)
}
