package memnode

import (
	"fmt"
	"strconv"

	"github.com/ringside-cache/ringside/proto/memcached"
)

func appendUint(b []byte, v uint64) []byte { return strconv.AppendUint(b, v, 10) }

// begin prepares a meta reply.
func (c *conn) begin(kind memcached.ReplyKind) {
	c.rep.Reset()
	c.rep.Kind = kind
	c.args = c.args[:0]
}

func (c *conn) metaGet() {
	if len(c.req.Meta)+2 > maxMetaWords {
		c.line(tooManyMg)
		return
	}
	m, complaint := c.parseFlags()
	if complaint != "" {
		c.line(complaint)
		return
	}
	sl := c.life.store.lock(m.key)
	defer sl.unlock()
	it := sl.get()
	created := it == nil && m.vivify
	if created {
		it = newItem(m.key, 0, 0)
		sl.link(it)
	}
	if it == nil {
		sl.countGet(false, false)
		c.metaMiss(&m)
		return
	}
	if !m.noBump && !m.lateBump {
		sl.touch(it)
	}
	c.begin(memcached.MetaOK)
	if m.value {
		c.rep.Kind, c.rep.Value = memcached.MetaValue, it.value()
	}
	won, ok := c.itemFlags(&sl, it, &m, created)
	if !ok {
		c.line(opaqueTooLong)
		return
	}
	sl.countGet(true, m.newTTL)
	// Z and X speak of the item as it was, W of what this request made of it.
	if it.bits&leased != 0 {
		c.flag('Z')
	}
	if it.bits&stale != 0 {
		c.flag('X')
		won = won || it.bits&leased == 0
	}
	if won {
		c.flag('W')
		it.bits |= leased
	}
	c.send()
	if !m.noBump && m.lateBump {
		sl.touch(it)
	}
}

func (c *conn) metaMiss(m *metaFlags) {
	c.begin(memcached.MetaMiss)
	for _, f := range c.req.Meta {
		if !c.echo(f, m.key, m.binaryKey) {
			c.line(opaqueTooLong)
			return
		}
	}
	if !m.quiet {
		c.send()
	}
}

// itemFlags appends what the request's flags ask for, in their order, which
// matters: a T changes what a t behind it shows. It tells whether the request
// has won the lease by N or R, and whether the opaque was short enough.
func (c *conn) itemFlags(sl *slot, it *item, m *metaFlags, created bool) (won, ok bool) {
	for _, f := range c.req.Meta {
		switch f.Letter {
		case 'T':
			it.exptime = sl.deadline(m.exptime, sl.now)
		case 'N':
			if created {
				it.exptime = sl.deadline(m.vivifyTTL, sl.now)
				won = true
			}
		case 'R':
			if it.bits&leased == 0 && !created && it.exptime != 0 && it.exptime < sl.deadline(m.recache, sl.now) {
				won = true
			}
		case 's':
			c.flagUint('s', uint64(len(it.value())))
		case 't':
			c.flagTTL(it, sl.now)
		case 'c':
			c.flagUint('c', it.cas)
		case 'f':
			c.flagUint('f', uint64(it.clientFlags))
		case 'l':
			c.flagUint('l', uint64(sl.now-it.time))
		case 'h':
			c.flagUint('h', uint64(it.bits&fetched))
		default:
			if !c.echo(f, it.key(), it.bits&binaryKey != 0) {
				return false, false
			}
		}
	}
	return won, true
}

// parseMetaSet reads an ms. Its complaints come in memcached's order.
func (c *conn) parseMetaSet() (m metaFlags, as mode, complaint string) {
	if len(c.req.Meta)+3 > maxMetaWords {
		return m, 0, tooManyFlags
	}
	if m, complaint = c.parseFlags(); complaint != "" {
		return m, 0, complaint
	}
	switch m.mode {
	case 0, 'S':
		as = modeSet
	case 'E':
		as = modeAdd
	case 'A':
		as = modeAppend
	case 'P':
		as = modePrepend
	case 'R':
		as = modeReplace
	default:
		return m, 0, "CLIENT_ERROR invalid mode for ms M token"
	}
	if m.hasCAS && (as == modeSet || as == modeReplace) {
		as = modeCAS
	}
	for _, f := range c.req.Meta {
		if f.Letter == 'O' && len(f.Arg) > maxOpaque {
			return m, 0, opaqueTooLong
		}
	}
	return m, as, ""
}

func (c *conn) metaSet() {
	m, as, complaint := c.parseMetaSet()
	if complaint != "" {
		c.line(complaint)
		return
	}
	if !c.life.store.fits(len(m.key), len(c.req.Value), m.clientFlags) {
		c.refuseValue()
		return
	}
	w := write{
		mode: as, key: m.key, value: c.req.Value, clientFlags: m.clientFlags,
		cas: m.cas, allowStale: m.stale, binaryKey: m.binaryKey,
	}
	sl := c.life.store.lock(m.key)
	w.exptime = sl.deadline(m.exptime, sl.now)
	sl.counts().CmdSet++
	kind, cas := sl.apply(&w)
	sl.unlock()
	if kind == memcached.Stored && m.quiet {
		return
	}
	c.begin(metaKind(kind))
	for _, f := range c.req.Meta {
		if f.Letter == 'c' {
			c.flagUint('c', cas)
			continue
		}
		c.echo(f, m.key, m.binaryKey)
	}
	c.send()
}

func metaKind(kind memcached.ReplyKind) memcached.ReplyKind {
	switch kind {
	case memcached.Stored:
		return memcached.MetaOK
	case memcached.Exists:
		return memcached.MetaExists
	case memcached.NotFound:
		return memcached.MetaNotFound
	}
	return memcached.MetaNotStored
}

func (c *conn) metaDelete() {
	if len(c.req.Meta)+2 > maxMetaWords {
		c.line(tooManyFlags)
		return
	}
	m, complaint := c.parseFlags()
	if complaint != "" {
		c.line(flagBad)
		return
	}
	c.begin(memcached.MetaOK)
	for _, f := range c.req.Meta {
		if !c.echo(f, m.key, m.binaryKey) {
			c.line(opaqueTooLong)
			return
		}
	}
	sl := c.life.store.lock(m.key)
	c.rep.Kind = sl.remove(&m)
	sl.unlock()
	if !m.quiet || c.rep.Kind != memcached.MetaOK {
		c.send()
	}
}

// remove deletes the item, or marks it stale.
func (sl *slot) remove(m *metaFlags) memcached.ReplyKind {
	it := sl.get()
	switch {
	case it == nil:
		sl.counts().DeleteMisses++
		return memcached.MetaNotFound
	case m.hasCAS && m.cas != it.cas:
		sl.counts().DeleteMisses++
		return memcached.MetaExists
	case m.stale:
		if m.newTTL {
			it.exptime = sl.deadline(m.exptime, sl.now)
		}
		// The lease is free again, and the new CAS id fences off whoever
		// holds the old one.
		it.bits = it.bits&^leased | stale
		it.cas = sl.lastCAS.Add(1)
	default:
		sl.unlink()
		sl.counts().DeleteHits++
	}
	return memcached.MetaOK
}

func (c *conn) metaArithmetic() {
	if len(c.req.Meta)+2 > maxMetaWords {
		c.line(tooManyFlags)
		return
	}
	m, complaint := c.parseFlags()
	if complaint != "" {
		c.line(flagBad)
		return
	}
	incr := true
	switch m.mode {
	case 0, 'I', '+':
	case 'D', '-':
		incr = false
	default:
		c.line("CLIENT_ERROR invalid mode for ma M token")
		return
	}
	sl := c.life.store.lock(m.key)
	defer sl.unlock()
	it, number, outcome := sl.addDelta(incr, m.delta, m.cas)
	quiet := m.quiet && outcome == sumDone
	created := false
	switch {
	case outcome == sumNotNumber:
		c.line(notNumeric)
		return
	case outcome == sumMissing && m.vivify:
		number, created = m.initial, true
		var digits [20]byte
		it = newItem(m.key, 0, 0, appendUint(digits[:0], number))
		sl.link(it)
	case outcome == sumMissing:
		sl.countMiss(incr)
	}
	if !c.sumReply(&sl, it, &m, number, outcome, created) {
		c.line(opaqueTooLong)
		return
	}
	if !quiet {
		c.send()
	}
}

// sumReply prepares the reply of an ma, whose flags count in their order. It
// gives false when the opaque is too long.
func (c *conn) sumReply(sl *slot, it *item, m *metaFlags, number uint64, outcome sum, created bool) bool {
	switch {
	case it != nil && m.value:
		c.begin(memcached.MetaValue)
		c.args = appendUint(c.args, number)
		c.rep.Value = c.args
	case it != nil:
		c.begin(memcached.MetaOK)
	case outcome == sumExists:
		c.begin(memcached.MetaExists)
	default:
		c.begin(memcached.MetaNotFound)
	}
	for _, f := range c.req.Meta {
		switch {
		case it == nil || f.Letter == 'O' || f.Letter == 'k':
			if !c.echo(f, m.key, m.binaryKey) {
				return false
			}
		case f.Letter == 'c':
			c.flagUint('c', it.cas)
		case f.Letter == 't':
			c.flagTTL(it, sl.now)
		case f.Letter == 'T':
			it.exptime = sl.deadline(m.exptime, sl.now)
		case f.Letter == 'N' && created:
			it.exptime = sl.deadline(m.vivifyTTL, sl.now)
		}
	}
	return true
}

// metaDebug is me, for people: it need not be fast.
func (c *conn) metaDebug() {
	key := c.req.Key
	if len(c.req.Meta) > 0 && c.req.Meta[0].Letter == 'b' && len(c.req.Meta[0].Arg) == 0 {
		if key = c.decodeKey(key); key == nil {
			c.line(badFormat)
			return
		}
	}
	sl := c.life.store.lock(key)
	defer sl.unlock()
	sl.counts().CmdMeta++
	it := sl.get()
	if it == nil {
		c.reply(memcached.MetaMiss)
		return
	}
	c.begin(memcached.MetaInfo)
	c.flagKey(it.key(), it.bits&binaryKey != 0)
	c.rep.Key, c.rep.Meta = c.rep.Meta[0].Arg, c.rep.Meta[:0]
	exp := int64(-1)
	if it.exptime != 0 {
		exp = int64(int32(sl.now - it.exptime))
	}
	wasFetched := "no"
	if it.bits&fetched != 0 {
		wasFetched = "yes"
	}
	c.rep.Message = fmt.Appendf(nil, "exp=%d la=%d cas=%d fetch=%s cls=%d size=%d",
		exp, sl.now-it.time, it.cas, wasFetched, slabClass(it.size()), it.size())
	c.send()
}
