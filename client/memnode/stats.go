package memnode

import (
	"os"
	"strconv"

	"github.com/ringside-cache/ringside/proto/memcached"
)

// Counts is what a node has done since it started, or since `stats reset`. The
// names and the meanings are those of memcached's stats.
type Counts struct {
	CmdGet, CmdSet, CmdTouch, CmdMeta, CmdFlush uint64
	GetHits, GetMisses, GetExpired, GetFlushed  uint64
	DeleteHits, DeleteMisses                    uint64
	IncrHits, IncrMisses, DecrHits, DecrMisses  uint64
	CASHits, CASMisses, CASBadval               uint64
	TouchHits, TouchMisses                      uint64
	StoreTooLarge                               uint64
	TotalItems                                  uint64
	Evictions                                   uint64
	TotalConnections, RejectedConnections       uint64
	BytesRead, BytesWritten                     uint64
}

// Stats is a node's counts and what it holds now. All is zero while the node is
// killed or closed.
type Stats struct {
	Counts
	// Items and Bytes are what is in memory, expired items included that
	// nobody asked for. Bytes is what MaxBytes bounds.
	Items int
	Bytes int64
	// Connections is the number of open ones.
	Connections int
}

// eachCount pairs the counts with memcached's names for them, in its order.
func (c *Counts) eachCount(f func(name string, count *uint64)) {
	for _, e := range []struct {
		name  string
		count *uint64
	}{
		{"total_connections", &c.TotalConnections},
		{"rejected_connections", &c.RejectedConnections},
		{"cmd_get", &c.CmdGet},
		{"cmd_set", &c.CmdSet},
		{"cmd_flush", &c.CmdFlush},
		{"cmd_touch", &c.CmdTouch},
		{"cmd_meta", &c.CmdMeta},
		{"get_hits", &c.GetHits},
		{"get_misses", &c.GetMisses},
		{"get_expired", &c.GetExpired},
		{"get_flushed", &c.GetFlushed},
		{"delete_misses", &c.DeleteMisses},
		{"delete_hits", &c.DeleteHits},
		{"incr_misses", &c.IncrMisses},
		{"incr_hits", &c.IncrHits},
		{"decr_misses", &c.DecrMisses},
		{"decr_hits", &c.DecrHits},
		{"cas_misses", &c.CASMisses},
		{"cas_hits", &c.CASHits},
		{"cas_badval", &c.CASBadval},
		{"touch_hits", &c.TouchHits},
		{"touch_misses", &c.TouchMisses},
		{"store_too_large", &c.StoreTooLarge},
		{"bytes_read", &c.BytesRead},
		{"bytes_written", &c.BytesWritten},
		{"total_items", &c.TotalItems},
		{"evictions", &c.Evictions},
	} {
		f(e.name, e.count)
	}
}

// add sums up.
func (c *Counts) add(other *Counts) {
	var counts []*uint64
	c.eachCount(func(_ string, count *uint64) { counts = append(counts, count) })
	i := 0
	other.eachCount(func(_ string, count *uint64) {
		*counts[i] += *count
		i++
	})
}

// stats sums up the shards and the connections.
func (l *life) stats() Stats {
	var st Stats
	for i := range l.store.shards {
		sh := &l.store.shards[i]
		sh.mu.Lock()
		st.add(&sh.counts)
		sh.mu.Unlock()
	}
	st.Evictions = l.store.evictions.Load()
	st.BytesRead, st.BytesWritten = l.bytesRead.Load(), l.bytesWritten.Load()
	st.Items = l.store.length()
	st.Bytes = int64(l.store.items.WeightedSize())
	l.mu.Lock()
	st.Connections = len(l.conns)
	st.TotalConnections, st.RejectedConnections = l.accepted, l.rejected
	l.mu.Unlock()
	return st
}

// resetStats is `stats reset`.
func (l *life) resetStats() {
	for i := range l.store.shards {
		sh := &l.store.shards[i]
		sh.mu.Lock()
		sh.counts = Counts{}
		sh.mu.Unlock()
	}
	l.store.evictions.Store(0)
	l.bytesRead.Store(0)
	l.bytesWritten.Store(0)
	l.mu.Lock()
	l.accepted, l.rejected = 0, 0
	l.mu.Unlock()
}

// stat answers the stats command. Of memcached's reports on its insides there
// are none: they are empty here.
func (c *conn) stat() {
	arg := string(c.req.Arg)
	switch arg {
	case "":
		c.generalStats()
	case "settings":
		c.settings()
	case "reset":
		c.life.resetStats()
		c.line("RESET")
		return
	case "detail on", "detail off":
		c.line("OK")
		return
	case "items", "slabs", "sizes", "conns", "extstore", "detail dump":
	default:
		c.line("ERROR")
		return
	}
	c.reply(memcached.End)
}

func (c *conn) generalStats() {
	st := c.life.stats()
	now := c.life.store.clock()
	cfg := &c.life.node.cfg
	c.number("pid", int64(os.Getpid()))
	c.number("uptime", int64(now-firstSecond))
	c.number("time", int64(now)+c.life.store.epoch)
	c.text("version", version)
	c.number("pointer_size", strconv.IntSize)
	c.number("max_connections", int64(cfg.MaxConns))
	c.number("curr_connections", int64(st.Connections))
	st.eachCount(func(name string, count *uint64) { c.number(name, int64(*count)) })
	c.number("limit_maxbytes", cfg.MaxBytes)
	c.number("threads", 1)
	c.number("bytes", st.Bytes)
	c.number("curr_items", int64(st.Items))
}

func (c *conn) settings() {
	n := c.life.node
	c.number("maxbytes", n.cfg.MaxBytes)
	c.number("maxconns", int64(n.cfg.MaxConns))
	c.text("evictions", "on")
	socket := "NULL"
	if n.network == "unix" {
		socket = n.address
	}
	c.text("domain_socket", socket)
	c.text("cas_enabled", "yes")
	c.number("item_size_max", int64(n.cfg.MaxItemSize))
	c.text("flush_enabled", "yes")
}

func (c *conn) number(name string, v int64) { c.text(name, strconv.FormatInt(v, 10)) }

func (c *conn) text(name, value string) {
	c.rep.Reset()
	c.rep.Kind, c.rep.Key, c.rep.Value = memcached.Stat, []byte(name), []byte(value)
	c.send()
}
