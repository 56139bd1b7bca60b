package sidecar

import (
	"context"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/ringside-cache/ringside/proto/memcached"
)

// summed are the statistics of memcached that add up over a fleet.
var summed = []string{
	"curr_items", "total_items", "bytes", "limit_maxbytes", "evictions", "expired_unfetched", "evicted_unfetched",
	"cmd_get", "cmd_set", "cmd_touch", "cmd_flush", "get_hits", "get_misses", "get_expired",
	"delete_hits", "delete_misses", "incr_hits", "incr_misses", "decr_hits", "decr_misses",
	"cas_hits", "cas_misses", "cas_badval", "touch_hits", "touch_misses",
}

// appendStats answers stats: without an argument the sums over the fleet and
// each node's state, with "settings" the limits. What memcached has beside these
// is empty, so that what collects it goes on; other arguments are an error. As
// in memcached, words behind the first do not matter.
func (m *memcachedServer) appendStats(out []byte, arg string) []byte {
	var rep memcached.Reply
	stat := func(name string, value any) {
		rep.Reset()
		rep.Kind, rep.Key, rep.Value = memcached.Stat, []byte(name), fmt.Append(nil, value)
		out = memcached.AppendReply(out, &rep)
	}
	switch word, _, _ := strings.Cut(arg, " "); word {
	case "":
		m.stats(stat)
	case "settings":
		stat("item_size_max", m.s.cfg.MaxValueBytes)
		stat("maxconns", m.s.limits().MaxConns)
	case "reset":
		return appendLine(out, "RESET")
	case "items", "slabs", "sizes", "conns", "cachedump", "extstore":
	default:
		return appendLine(out, "ERROR")
	}
	return append(out, "END\r\n"...)
}

func (m *memcachedServer) stats(stat func(string, any)) {
	s := m.s
	stat("pid", os.Getpid())
	stat("uptime", int64(time.Since(s.started).Seconds()))
	stat("time", time.Now().Unix())
	stat("version", protocolVersion)
	m.mu.Lock()
	stat("curr_connections", len(m.conns))
	m.mu.Unlock()
	ctx, cancel := context.WithTimeout(m.life, 2*time.Second)
	defer cancel()
	// A node that does not answer is missing from the sums and shows below.
	answers, _ := s.client.ServerStats(ctx, "")
	sums := make(map[string]uint64)
	for _, stats := range answers {
		for _, line := range stats {
			if n, err := strconv.ParseUint(line.Value, 10, 64); err == nil {
				if sums[line.Name] > math.MaxUint64-n {
					n = 0
				}
				sums[line.Name] += n
			}
		}
	}
	for _, name := range summed {
		if n, ok := sums[name]; ok {
			stat(name, n)
		}
	}
	nodes := s.client.Stats().Nodes
	stat("ringside_nodes", len(nodes))
	for _, n := range nodes {
		stat("ringside_node:"+n.Name+":state", n.State)
	}
}
