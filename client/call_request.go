package client

import (
	"strconv"
	"time"

	"github.com/ringside-cache/ringside/proto/memcached"
)

// This file has how an op is written to the wire.

// appendTo appends the op's request. Keys were checked before.
func (o *op) appendTo(b []byte) []byte {
	if o.fenced != nil || o.kind == opNoop {
		return append(b, "mn\r\n"...)
	}
	switch o.kind {
	case opGet:
		b = append(append(append(b, "mg "...), o.key...), " v f c"...)
	case opGetAndTouch:
		b = append(append(append(b, "mg "...), o.key...), " v f c T"...)
		b = strconv.AppendInt(b, o.ttl(), 10)
	case opTouch:
		b = append(append(append(b, "mg "...), o.key...), " c T"...)
		b = strconv.AppendInt(b, o.ttl(), 10)
	case opSet:
		return o.appendSet(b)
	case opDelete:
		b = append(append(b, "md "...), o.key...)
		if o.hasCAS {
			b = strconv.AppendUint(append(b, " C"...), o.cas, 10)
		}
	case opLeased:
		return o.appendLeased(b)
	case opInvalidate:
		b = append(append(append(b, "md "...), o.key...), " I T"...)
		b = strconv.AppendInt(b, o.ttl(), 10)
	case opArithmetic:
		b = append(append(append(b, "ma "...), o.key...), " v D"...)
		b = strconv.AppendUint(b, o.delta, 10)
		if o.mode != 0 {
			b = append(b, " M"...)
			b = append(b, o.mode)
		}
	case opGiveBack:
		b = append(append(append(b, "md "...), o.key...), " I C"...)
		b = strconv.AppendUint(b, o.cas, 10)
		if o.exptime > 0 {
			b = strconv.AppendInt(append(b, " T"...), o.ttl(), 10)
		}
	case opMeta:
		return o.appendMeta(b)
	case opFlushAll:
		b = append(b, "flush_all"...)
		if o.exptime > 0 {
			b = strconv.AppendInt(append(b, ' '), o.exptime, 10)
		}
		return append(b, "\r\n"...)
	case opVersion:
		return append(b, "version\r\n"...)
	case opStats:
		if o.key != "" {
			return append(append(append(b, "stats "...), o.key...), "\r\n"...)
		}
		return append(b, "stats\r\n"...)
	}
	return append(o.appendOpaque(b), "\r\n"...)
}

func (o *op) appendOpaque(b []byte) []byte {
	return o.opaque.append(append(b, " O"...))
}

func (o *op) appendSet(b []byte) []byte {
	b = append(append(append(b, "ms "...), o.key...), ' ')
	b = strconv.AppendInt(b, int64(len(o.value)), 10)
	if ttl := o.ttl(); ttl != 0 {
		b = strconv.AppendInt(append(b, " T"...), ttl, 10)
	}
	if o.flags != 0 {
		b = strconv.AppendUint(append(b, " F"...), uint64(o.flags), 10)
	}
	if o.mode != 0 {
		b = append(b, " M"...)
		b = append(b, o.mode)
	}
	if o.hasCAS {
		b = strconv.AppendUint(append(b, " C"...), o.cas, 10)
	}
	if o.wantCAS {
		b = append(b, " c"...)
	}
	b = append(o.appendOpaque(b), "\r\n"...)
	return append(append(b, o.value...), "\r\n"...)
}

// appendMeta appends a caller's own meta request. Its opaque is replaced by
// ours, put back into the reply by takeMeta, and q is left out: a reply must
// come.
func (o *op) appendMeta(b []byte) []byte {
	r := o.meta
	b = append(b, r.Command.String()...)
	b = append(append(b, ' '), r.Key...)
	if r.Command == memcached.MetaSet {
		b = strconv.AppendInt(append(b, ' '), int64(len(r.Value)), 10)
	}
	hasOpaque, hasTTL := false, false
	for _, f := range r.Meta {
		switch {
		case f.Letter == 'q':
			continue
		case f.Letter == 'O':
			hasOpaque = true
			o.opaqueBack = append([]byte{}, f.Arg...)
			b = o.appendOpaque(b)
			continue
		case f.Letter == 'R' && o.capTTL != 0:
			// As in appendLeased: with it every read would win what lives no
			// longer than that on a stand-in.
			continue
		case f.Letter == 'T' || f.Letter == 'N':
			hasTTL = hasTTL || f.Letter == 'T'
			if t, err := f.Int(); err == nil && o.capTTL != 0 {
				b = append(b, ' ', f.Letter)
				b = strconv.AppendInt(b, capExptime(t, o.capTTL, time.Now()), 10)
				continue
			}
		}
		b = append(b, ' ', f.Letter)
		b = append(b, f.Arg...)
	}
	if o.capTTL != 0 && !hasTTL && r.Command == memcached.MetaSet {
		b = strconv.AppendInt(append(b, " T"...), o.capTTL, 10)
	}
	// me takes no flags; its reply names the key instead.
	if !hasOpaque && r.Command != memcached.MetaDebug {
		b = o.appendOpaque(b)
	}
	b = append(b, "\r\n"...)
	if r.Command == memcached.MetaSet {
		b = append(append(b, r.Value...), "\r\n"...)
	}
	return b
}

// appendLeased appends a leased read. N stands before t, or a fresh stub would
// have one second less. On a stand-in nothing is due: what stands there lives
// shorter than its grace.
func (o *op) appendLeased(b []byte) []byte {
	b = append(append(b, "mg "...), o.key...)
	if o.exptime > 0 {
		b = strconv.AppendInt(append(b, " N"...), o.exptime, 10)
	}
	if o.delta > 0 && o.capTTL == 0 {
		b = strconv.AppendUint(append(b, " R"...), o.delta, 10)
	}
	return append(o.appendOpaque(append(b, " v f c t"...)), "\r\n"...)
}

// stores tells whether the op has a value to store.
func (o *op) stores() bool { return o.kind == opSet || o.metaCmd == memcached.MetaSet }

// ttl is the exptime to send.
func (o *op) ttl() int64 {
	switch {
	case o.capTTL == 0:
		return o.exptime
	case o.standInTTL != 0:
		return capExptime(o.standInTTL, o.capTTL, time.Now())
	}
	return capExptime(o.exptime, o.capTTL, time.Now())
}

// capExptime bounds a memcached exptime: 0 is for ever, negative is gone at
// once, above MaxRelative is a Unix time.
func capExptime(exptime, limit int64, now time.Time) int64 {
	left := exptime
	if exptime > memcached.MaxRelative {
		left = exptime - now.Unix()
		if left <= 0 {
			return -1
		}
	}
	if exptime == 0 || left > limit {
		return limit
	}
	return exptime
}
