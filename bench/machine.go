package bench

import (
	"bufio"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
)

// Machine is where a report was made. It names no host. A field that can not
// be told on this system is empty.
type Machine struct {
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Memory string `json:"memory"`
	OS     string `json:"os"`
	Kernel string `json:"kernel"`
	Arch   string `json:"arch"`
	// Load is the load average of the last minute when the run began: what
	// else the machine had to do.
	Load string `json:"load_average"`
}

// Versions are those of the programs and libraries that were measured.
type Versions struct {
	Ringside   string `json:"ringside"`
	Go         string `json:"go"`
	Memcached  string `json:"memcached"`
	Gomemcache string `json:"gomemcache"`
	// Libmemcached is pylibmc's version and that of what it wraps, where they
	// were measured.
	Libmemcached string `json:"libmemcached,omitempty"`
}

// String lists them on a line.
func (v Versions) String() string {
	list := []string{"ringside " + v.Ringside}
	for _, one := range []struct{ name, version string }{
		{"memcached ", v.Memcached},
		{"gomemcache ", v.Gomemcache},
		{"", v.Libmemcached},
		{"", v.Go},
	} {
		if one.version != "" {
			list = append(list, one.name+one.version)
		}
	}
	return strings.Join(list, ", ")
}

func thisMachine() Machine {
	m := Machine{
		CPU:    lineValue("/proc/cpuinfo", "model name", ":"),
		Memory: lineValue("/proc/meminfo", "MemTotal", ":"),
		Cores:  runtime.NumCPU(),
		OS:     strings.Trim(lineValue("/etc/os-release", "PRETTY_NAME", "="), `"`),
		Kernel: firstWord("/proc/sys/kernel/osrelease"),
		Arch:   runtime.GOARCH,
		Load:   firstWord("/proc/loadavg"),
	}
	if m.OS == "" {
		m.OS = runtime.GOOS
	}
	return m
}

// lineValue gives what stands behind a name in a file of "name: value" lines.
func lineValue(path, name, sep string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		key, value, ok := strings.Cut(lines.Text(), sep)
		if ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func firstWord(path string) string {
	b, err := os.ReadFile(path)
	if words := strings.Fields(string(b)); err == nil && len(words) > 0 {
		return words[0]
	}
	return ""
}

// moduleVersion is the version of a module that this program was built with.
func moduleVersion(path string) string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, dep := range info.Deps {
		if dep.Path == path {
			return dep.Version
		}
	}
	return "unknown"
}

func goVersion() string { return runtime.Version() }

// ownVersion is the given version with the commit that it was built from,
// where the build has that.
func ownVersion(version string) string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return version
	}
	var commit, changed string
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			commit = s.Value[:min(12, len(s.Value))]
		case s.Key == "vcs.modified" && s.Value == "true":
			changed = ", changed"
		}
	}
	if commit == "" {
		return version
	}
	return strings.TrimSpace(version + " (" + commit + changed + ")")
}
