package client

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ringside-cache/ringside/ring"
)

// Resolver looks names up. *net.Resolver is one.
type Resolver interface {
	LookupHost(ctx context.Context, host string) (addrs []string, err error)
	LookupSRV(ctx context.Context, service, proto, name string) (cname string, addrs []*net.SRV, err error)
}

var _ Resolver = (*net.Resolver)(nil)

// A source is an entry of Config.Servers that stands for many.
type source struct {
	entry string
	look  func(ctx context.Context) ([]string, error)
}

// LooksUp tells whether some of the servers have to be looked up. Then
// SetServers does not last: the next look-up goes by those.
func (c Config) LooksUp() bool {
	_, sources, err := c.splitSources()
	return err == nil && len(sources) > 0
}

// splitSources separates what is a server from what has to be looked up.
func (c Config) splitSources() (static []string, sources []source, err error) {
	var problems []error
	for _, entry := range c.Servers {
		switch {
		case strings.HasPrefix(entry, "dns+"):
			host, port, err := net.SplitHostPort(strings.TrimPrefix(entry, "dns+"))
			if err != nil || host == "" || port == "" {
				problems = append(problems, fmt.Errorf("server %q: dns+ is followed by host:port", entry))
				continue
			}
			sources = append(sources, source{entry, func(ctx context.Context) ([]string, error) { return c.lookupHost(ctx, host, port) }})
		case strings.HasPrefix(entry, "dnssrv+"):
			name := strings.TrimPrefix(entry, "dnssrv+")
			if name == "" {
				problems = append(problems, fmt.Errorf("server %q: dnssrv+ is followed by a name", entry))
				continue
			}
			sources = append(sources, source{entry, func(ctx context.Context) ([]string, error) { return c.lookupSRV(ctx, name) }})
		case strings.HasPrefix(entry, "file:"):
			path := strings.TrimPrefix(entry, "file:")
			if path == "" {
				problems = append(problems, fmt.Errorf("server %q: file: is followed by a path", entry))
				continue
			}
			sources = append(sources, source{entry, func(context.Context) ([]string, error) { return readServers(path) }})
		default:
			static = append(static, entry)
		}
	}
	return static, sources, errors.Join(problems...)
}

func (c Config) resolver() Resolver {
	if c.Resolver != nil {
		return c.Resolver
	}
	return net.DefaultResolver
}

func (c Config) lookupHost(ctx context.Context, host, port string) ([]string, error) {
	addrs, err := c.resolver().LookupHost(ctx, host)
	list := make([]string, len(addrs)) // the resolver's own slice is its own
	for i, addr := range addrs {
		list[i] = net.JoinHostPort(addr, port)
	}
	return list, err
}

func (c Config) lookupSRV(ctx context.Context, name string) ([]string, error) {
	_, records, err := c.resolver().LookupSRV(ctx, "", "", name)
	var list []string
	for _, r := range records {
		list = append(list, net.JoinHostPort(strings.TrimSuffix(r.Target, "."), strconv.Itoa(int(r.Port))))
	}
	return list, err
}

// readServers reads one server a line; empty lines and what follows # do not
// count.
func readServers(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parseServers(f, path)
}

func parseServers(r io.Reader, path string) ([]string, error) {
	var list []string
	s := bufio.NewScanner(r)
	for line := 1; s.Scan(); line++ {
		text, _, _ := strings.Cut(s.Text(), "#")
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		if _, err := ring.ParseNode(text); err != nil {
			return nil, fmt.Errorf("%s: line %d: %w", path, line, err)
		}
		list = append(list, text)
	}
	return list, s.Err()
}

// discovery keeps the last good answer of each source.
type discovery struct {
	static  []string
	sources []source
	last    [][]string
	// check tells what is wrong with a whole list.
	check func(servers []string) error
}

// refresh asks every source and gives the whole list of servers. A source
// that fails, answers with nothing, or with what makes no ring together with the
// rest, keeps its last good answer.
func (d *discovery) refresh(ctx context.Context) (servers []string, err error) {
	var problems []error
	answers := slices.Clone(d.last)
	var changed []int
	for i, s := range d.sources {
		answer, err := s.look(ctx)
		switch {
		case err != nil:
			problems = append(problems, fmt.Errorf("server %q: %w", s.entry, err))
		case len(answer) == 0:
			problems = append(problems, fmt.Errorf("server %q: the answer is empty", s.entry))
		default:
			// The order of an answer may change from one to the next.
			slices.Sort(answer)
			answers[i] = slices.Compact(answer)
			if !slices.Equal(answers[i], d.last[i]) {
				changed = append(changed, i)
			}
		}
	}
	if len(changed) > 0 {
		if wrong := d.checked(answers); wrong == nil {
			d.last = answers
		} else if len(changed) == len(d.sources) && d.last[0] == nil {
			problems = append(problems, wrong) // New's, and there is nothing to keep
		} else {
			problems = append(problems, d.keepGood(answers, changed)...)
		}
	}
	return d.merged(d.last), errors.Join(problems...)
}

// keepGood takes those of the changed answers that make a ring with the others'
// last ones. It goes round until there are no more: a server that moves from
// one answer to another can come only when it has left.
func (d *discovery) keepGood(answers [][]string, changed []int) (problems []error) {
	for again := true; again; {
		again = false
		problems = nil
		changed = slices.DeleteFunc(changed, func(i int) bool {
			next := slices.Clone(d.last)
			next[i] = answers[i]
			if err := d.checked(next); err != nil {
				problems = append(problems, fmt.Errorf("server %q: its answer is not used: %w", d.sources[i].entry, err))
				return false
			}
			d.last, again = next, true
			return true
		})
	}
	return problems
}

func (d *discovery) checked(answers [][]string) error { return d.check(d.merged(answers)) }

// merged is the whole list. Of two entries for an address the first counts, a
// static one before one that was looked up.
func (d *discovery) merged(answers [][]string) []string {
	servers := slices.Concat(d.static, slices.Concat(answers...))
	seen := make(map[string]bool, len(servers))
	return slices.DeleteFunc(servers, func(server string) bool {
		n, err := ring.ParseNode(server)
		if err != nil {
			return false // reported where the ring is built
		}
		twice := seen[n.Address] && !slices.Contains(d.static, server)
		seen[n.Address] = true
		return twice
	})
}

// brake bounds what a look-up changes: nodes that leave, join, or get another
// address or weight have at most a third of the ring, by weight, and are one at
// least. The rest is for the next look-ups, so that a broken answer can neither
// empty the ring nor swap or flood it before somebody is told.
func brake(current, next []ring.Node) []ring.Node {
	now := make(map[string]ring.Node, len(current)) // by name
	total := 0
	for _, n := range current {
		now[n.Name] = n
		total += n.Weight
	}
	var changes, joins, leaves []ring.Node
	coming := make(map[string]bool, len(next))
	for _, n := range next {
		coming[n.Name] = true
		switch old, is := now[n.Name]; {
		case !is:
			joins = append(joins, n)
		case old != n:
			changes = append(changes, n)
		}
	}
	for _, n := range current {
		if !coming[n.Name] {
			leaves = append(leaves, ring.Node{Name: n.Name})
		}
	}
	// One joins as one leaves, or the ring would double or vanish on the way
	// to a fleet that is all new.
	for i := range max(len(joins), len(leaves)) {
		if i < len(joins) {
			changes = append(changes, joins[i])
		}
		if i < len(leaves) {
			changes = append(changes, leaves[i])
		}
	}
	moved := 0
	for i, n := range changes {
		removed, cost, grows := replacedBy(now, n)
		if (moved+cost)*3 > total+grows && i > 0 {
			break
		}
		moved, total = moved+cost, total+grows
		for _, name := range removed {
			delete(now, name)
		}
		if n.Address != "" {
			now[n.Name] = n
		}
	}
	// In the order asked for, which counts in some dialects, then who stays for now.
	result := make([]ring.Node, 0, len(now))
	for _, n := range slices.Concat(next, current) {
		if n, is := now[n.Name]; is {
			result = append(result, n)
			delete(now, n.Name)
		}
	}
	return result
}

// replacedBy tells which nodes go when n comes, or leaves where it has no
// address: those of its name or its address. cost is the weight that gets
// another owner, grows what is added to the ring.
func replacedBy(now map[string]ring.Node, n ring.Node) (removed []string, cost, grows int) {
	old, was := now[n.Name]
	for _, m := range now {
		if m.Name == n.Name || m.Address == n.Address {
			removed = append(removed, m.Name)
			cost += m.Weight
		}
	}
	switch {
	case !was:
		return removed, cost + n.Weight, n.Weight
	case old.Address == n.Address:
		cost = max(old.Weight-n.Weight, n.Weight-old.Weight)
	}
	return removed, cost, max(0, n.Weight-old.Weight)
}

// discover refreshes the fleet until the client is closed.
func (c *Client) discover(d *discovery) {
	for {
		// Not in step with the rest of the fleet's clients.
		every := c.cfg.DiscoverEvery
		timer := time.NewTimer(every - rand.N(every/5+1))
		select {
		case <-timer.C:
		case <-c.life.Done():
			timer.Stop()
			return
		}
		ctx, cancel := context.WithTimeout(c.life, discoverTimeout)
		servers, err := d.refresh(ctx)
		cancel()
		if c.life.Err() != nil {
			return
		}
		joined, leaving, changeErr := c.follow(servers)
		err = errors.Join(err, changeErr)
		if hook := c.cfg.Hooks.Discovered; hook != nil && (err != nil || len(joined)+len(leaving) > 0) {
			hook(joined, leaving, err)
		}
	}
}

const discoverTimeout = 5 * time.Second

// follow changes the fleet to what was discovered, within the brake.
func (c *Client) follow(servers []string) (joined, left []string, err error) {
	next, err := ring.ParseNodes(servers)
	if err != nil {
		return nil, nil, err
	}
	current := c.fleet.Load().ring.Nodes()
	next = brake(current, next)
	for _, n := range next {
		if !slices.Contains(current, n) {
			joined = append(joined, n.String())
		}
	}
	for _, n := range current {
		if !slices.Contains(next, n) {
			left = append(left, n.String())
		}
	}
	if len(joined)+len(left) == 0 {
		return nil, nil, nil
	}
	r, err := ring.New(next, c.cfg.Dialect)
	if err != nil {
		return nil, nil, err
	}
	c.change(r)
	return joined, left, nil
}
