//go:build interop && unix && race

package interop

// raceFlags go into the build of the command: the race detector is to watch the sidecar, not only the
// test.
var raceFlags = []string{"-race"}
