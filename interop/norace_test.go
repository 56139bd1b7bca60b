//go:build interop && unix && !race

package interop

var raceFlags []string
