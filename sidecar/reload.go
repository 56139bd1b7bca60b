package sidecar

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// errRestart is a change that a running sidecar can not make.
var errRestart = errors.New("can not change while the sidecar runs: restart it")

// Apply gives a running sidecar new settings: all of them or, with an error,
// none. Connections to nodes that stay are kept. A change of a setting that
// does not reload is an error which names it.
func (s *Sidecar) Apply(next *Settings) error {
	s.applying.Lock()
	defer s.applying.Unlock()
	full := next.WithDefaults()
	if err := full.Validate(); err != nil {
		return err
	}
	var fixed []string
	servers := false
	for _, one := range s.settings.changes(&full) {
		if one.Path == "nodes.dial_timeout" && full.Client.DialTimeout == full.Client.Timeout &&
			s.settings.Client.DialTimeout == s.settings.Client.Timeout {
			continue // it is what it is by the other
		}
		if one.Path == "servers" && (s.settings.Client.LooksUp() || full.Client.LooksUp()) {
			// The client would go on to follow what it was started with.
			fixed = append(fixed, "servers that are looked up")
			continue
		}
		if !one.Reloads {
			fixed = append(fixed, one.Path)
		}
		servers = servers || one.Path == "servers"
	}
	if len(fixed) > 0 {
		return fmt.Errorf("%s %w", strings.Join(fixed, ", "), errRestart)
	}
	level, err := full.level()
	if err != nil {
		return err
	}
	if servers {
		if err := s.client.SetServers(full.Client.Servers); err != nil {
			return err
		}
	}
	if s.cfg.Level != nil {
		s.cfg.Level.Set(level)
	}
	limits := full.Config
	s.live.Store(&limits)
	s.clients.most.Store(int64(limits.MaxConns))
	s.settings = full
	return nil
}

// limits are the settings that may change while the sidecar runs.
func (s *Sidecar) limits() *Config { return s.live.Load() }

// A Reloader keeps a sidecar's settings as a file has them.
type Reloader struct {
	// File is read, and Read makes settings of it.
	File string
	Read func(text []byte) (*Settings, error)
	// Now asks to read it at once, as SIGHUP does; it may be nil.
	Now <-chan os.Signal
}

// Follow reads the file every Settings.ReloadEvery until ctx ends, and applies
// what has changed. The content is compared, and not the file's time: the link
// that Kubernetes swaps has the old one's. What can not be read or applied is
// logged and counted, and the settings stay as they are.
func (s *Sidecar) Follow(ctx context.Context, r Reloader, applied []byte) {
	s.applying.Lock()
	every := s.settings.ReloadEvery
	s.applying.Unlock()
	tick := time.NewTicker(every)
	defer tick.Stop()
	last := sha256.Sum256(applied)
	inUse := last
	s.metrics.reloaded(true)
	lastErr := ""
	for {
		asked := false
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-r.Now:
			asked = true
		}
		text, err := os.ReadFile(r.File)
		sum := sha256.Sum256(text)
		if err == nil && sum == last && !asked {
			if lastErr != "" && sum == inUse { // it was gone, and is back
				s.metrics.reloaded(true)
				lastErr = ""
			}
			continue
		}
		if err == nil {
			// A bad file is said once, and not every few seconds.
			last = sum
			var next *Settings
			if next, err = r.Read(text); err == nil {
				err = s.Apply(next)
			}
		} else if err.Error() == lastErr && !asked {
			continue
		}
		s.metrics.reloaded(err == nil)
		if err != nil {
			lastErr = err.Error()
			for problem := range strings.SplitSeq(lastErr, "\n") {
				s.log.Error("config not reloaded, the old one stays", "file", r.File, "problem", problem)
			}
			continue
		}
		lastErr, inUse = "", sum
		s.log.Info("config reloaded", "file", r.File, "servers", len(s.client.Servers()))
	}
}
