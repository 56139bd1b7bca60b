package memnode

import "github.com/ringside-cache/ringside/proto/memcached"

const (
	tooLarge   = "SERVER_ERROR object too large for cache"
	notNumeric = "CLIENT_ERROR cannot increment or decrement non-numeric value"
)

// do carries out the request and appends its reply.
func (c *conn) do() {
	switch c.req.Command {
	case memcached.MetaGet:
		c.metaGet()
	case memcached.MetaSet:
		c.metaSet()
	case memcached.MetaDelete:
		c.metaDelete()
	case memcached.MetaArithmetic:
		c.metaArithmetic()
	case memcached.MetaNoop:
		c.reply(memcached.MetaNoopEnd)
	case memcached.MetaDebug:
		c.metaDebug()
	case memcached.Get, memcached.Gets, memcached.Gat, memcached.Gats:
		c.retrieve()
	case memcached.Set, memcached.Add, memcached.Replace, memcached.Append, memcached.Prepend, memcached.CompareAndSwap:
		c.write()
	case memcached.Delete:
		c.delete()
	case memcached.Incr, memcached.Decr:
		c.arithmetic()
	case memcached.Touch:
		c.touch()
	case memcached.FlushAll:
		c.life.store.flush(c.req.Exptime)
		c.answer(memcached.OK)
	case memcached.Version:
		c.line("VERSION " + version)
	case memcached.Verbosity:
		c.answer(memcached.OK)
	case memcached.Stats:
		c.stat()
	case memcached.Quit:
		c.hangUp()
	}
	c.spill()
}

// retrieve is get, gets, gat and gats.
func (c *conn) retrieve() {
	cmd := c.req.Command
	withCAS := cmd == memcached.Gets || cmd == memcached.Gats
	withTouch := cmd == memcached.Gat || cmd == memcached.Gats
	for _, key := range c.req.Keys {
		sl := c.life.store.lock(key)
		it := sl.get()
		sl.countGet(it != nil, withTouch)
		if it != nil {
			sl.touch(it)
			if withTouch {
				it.exptime = sl.deadline(c.req.Exptime, sl.now)
			}
			c.rep.Reset()
			c.rep.Kind, c.rep.Key, c.rep.Value = memcached.Value, key, it.value()
			c.rep.Flags, c.rep.CAS, c.rep.HasCAS = it.clientFlags, it.cas, withCAS
			// Under the lock: the value may change in place.
			c.send()
		}
		sl.unlock()
		c.spill()
	}
	c.reply(memcached.End)
}

// countGet counts a read, or a touch, as memcached does: one that does both is
// a touch.
func (sl *slot) countGet(hit, touch bool) {
	n := sl.counts()
	switch {
	case touch && hit:
		n.CmdTouch++
		n.TouchHits++
	case touch:
		n.CmdTouch++
		n.TouchMisses++
	case hit:
		n.CmdGet++
		n.GetHits++
	default:
		n.CmdGet++
		n.GetMisses++
	}
}

// write is set, add, replace, append, prepend and cas.
func (c *conn) write() {
	r := &c.req
	w := write{mode: classicMode(r.Command), key: r.Key, value: r.Value, clientFlags: r.Flags}
	if w.mode == modeCAS {
		w.cas = r.CAS
	}
	if !c.life.store.fits(len(r.Key), len(r.Value), r.Flags) {
		c.refuseValue()
		return
	}
	sl := c.life.store.lock(r.Key)
	w.exptime = sl.deadline(r.Exptime, sl.now)
	sl.counts().CmdSet++
	kind, _ := sl.apply(&w)
	sl.unlock()
	c.answer(kind)
}

func classicMode(cmd memcached.Command) mode {
	switch cmd {
	case memcached.Add:
		return modeAdd
	case memcached.Replace:
		return modeReplace
	case memcached.Append:
		return modeAppend
	case memcached.Prepend:
		return modePrepend
	case memcached.CompareAndSwap:
		return modeCAS
	}
	return modeSet
}

// refuseValue answers a write whose item is too large. What stands under the
// key goes too, as in memcached: better no value than an old one.
func (c *conn) refuseValue() {
	key, remove := c.req.Key, c.req.Command == memcached.Set
	if c.req.Command == memcached.MetaSet {
		m, _, complaint := c.parseMetaSet()
		if complaint != "" {
			c.line(complaint)
			return
		}
		key, remove = m.key, true
	}
	sl := c.life.store.lock(key)
	sl.counts().StoreTooLarge++
	if remove && sl.get() != nil {
		sl.unlink()
	}
	sl.unlock()
	c.complain(tooLarge)
}

func (c *conn) delete() {
	sl := c.life.store.lock(c.req.Key)
	kind := memcached.NotFound
	if sl.get() != nil {
		sl.unlink()
		sl.counts().DeleteHits++
		kind = memcached.Deleted
	} else {
		sl.counts().DeleteMisses++
	}
	sl.unlock()
	c.answer(kind)
}

func (c *conn) arithmetic() {
	sl := c.life.store.lock(c.req.Key)
	incr := c.req.Command == memcached.Incr
	_, number, outcome := sl.addDelta(incr, c.req.Delta, 0)
	if outcome == sumMissing {
		sl.countMiss(incr)
	}
	sl.unlock()
	switch {
	case outcome == sumNotNumber:
		c.complain(notNumeric)
	case outcome == sumMissing:
		c.answer(memcached.NotFound)
	case !c.req.NoReply:
		c.rep.Reset()
		c.rep.Kind, c.rep.Number = memcached.Number, number
		c.send()
	}
}

func (c *conn) touch() {
	sl := c.life.store.lock(c.req.Key)
	it := sl.get()
	sl.countGet(it != nil, true)
	kind := memcached.NotFound
	if it != nil {
		sl.touch(it)
		it.exptime = sl.deadline(c.req.Exptime, sl.now)
		kind = memcached.Touched
	}
	sl.unlock()
	c.answer(kind)
}
