package bench

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"
)

// pylibmcWorker is a client of its own process, since libmemcached is not Go's.
//
//go:embed pylibmc_worker.py
var pylibmcWorker string

// python is Debian's: its packages are not those of another python3 in PATH.
const python = "/usr/bin/python3"

const namePylibmc = "libmemcached (pylibmc)"

// pylibmcBehaviors is libmemcached's consistent hashing with the failover that
// does best here, and ringside's timeouts: a server that fails once is taken out
// and asked again after dead_timeout seconds. What is recommended most often,
// remove_failed 1 with a retry_timeout, took nothing out within 6 s as tried with
// libmemcached 1.0.18, with or without auto_eject: every read of the dead server
// failed. With failure_limit 2 it took 1 s.
func pylibmcBehaviors() map[string]any {
	return map[string]any{
		"ketama_weighted": true,
		"tcp_nodelay":     true,
		"auto_eject":      true,
		"failure_limit":   1,
		"retry_timeout":   1,
		"dead_timeout":    2,
		"connect_timeout": 500,    // ms
		"_poll_timeout":   500,    // ms
		"send_timeout":    500000, // us
		"receive_timeout": 500000, // us
	}
}

func pylibmcSetting() string {
	return "pylibmc has ketama_weighted, auto_eject, failure_limit 1, retry_timeout 1, dead_timeout 2 (seconds) and 500 ms for connecting, sending, receiving and polling; a client for each thread."
}

// pylibmcVersion gives the versions, and ErrNotInstalled's reason otherwise.
func pylibmcVersion(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, python, "-c",
		"import pylibmc; print('pylibmc', pylibmc.__version__, 'with libmemcached', pylibmc.libmemcached_version)").Output()
	if err != nil {
		return "", fmt.Errorf("%s has no pylibmc (Debian: python3-pylibmc): %w", python, err)
	}
	return strings.TrimSpace(string(out)), nil
}

// A pylibmcProcess is a worker that has filled the cache and waits.
type pylibmcProcess struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	lines  *bufio.Reader
	stderr tail
}

type pylibmcSetup struct {
	Servers   []string       `json:"servers"`
	Behaviors map[string]any `json:"behaviors"`
	Prefix    string         `json:"prefix"`
	Keys      int            `json:"keys"`
	Value     int            `json:"value"`
	Callers   int            `json:"callers"`
	Rate      float64        `json:"rate"`
	Seconds   float64        `json:"seconds"`
}

func startPylibmc(ctx context.Context, setup pylibmcSetup) (*pylibmcProcess, error) {
	p := &pylibmcProcess{cmd: exec.CommandContext(ctx, python, "-c", pylibmcWorker)}
	p.cmd.Stderr = &p.stderr
	stdin, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	p.stdin, p.lines = stdin, bufio.NewReader(stdout)
	line, err := json.Marshal(setup)
	if err == nil {
		_, err = stdin.Write(append(line, '\n'))
	}
	if err == nil {
		var said string
		if said, err = p.lines.ReadString('\n'); err == nil && said != "ready\n" {
			err = fmt.Errorf("it says %q", said)
		}
	}
	if err != nil {
		return nil, p.ended(err)
	}
	return p, nil
}

// run gives what the worker did.
func (p *pylibmcProcess) run(context.Context) ([]tick, error) {
	if _, err := io.WriteString(p.stdin, "go\n"); err != nil {
		return nil, p.ended(err)
	}
	line, err := p.lines.ReadBytes('\n')
	if err != nil {
		return nil, p.ended(err)
	}
	var raw [][3]int64
	if err := json.NewDecoder(bytes.NewReader(line)).Decode(&raw); err != nil {
		return nil, p.ended(err)
	}
	ticks := make([]tick, len(raw))
	for i, r := range raw {
		ticks[i] = tick{time.Duration(r[0]) * time.Microsecond, time.Duration(r[1]) * time.Microsecond, outcome(r[2])}
	}
	return ticks, nil
}

// ended kills the process and tells what it had to say.
func (p *pylibmcProcess) ended(err error) error {
	p.close()
	return errors.Join(fmt.Errorf("pylibmc worker: %w", err), errors.New(p.stderr.String()))
}

func (p *pylibmcProcess) close() {
	p.stdin.Close()
	_ = p.cmd.Process.Kill() // it has said what it had to say
	_ = p.cmd.Wait()
}
