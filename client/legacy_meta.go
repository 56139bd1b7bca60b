package client

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/ringside-cache/ringside/proto/memcached"
)

// A meta request to a node without meta commands is carried out by the
// classic command that does the same, if there is one. That is what a ringside
// client needs which is in front of a sidecar whose nodes are old. Leases,
// times to live and everything else that classic commands do not know are
// ErrNoMeta.

// fromMeta turns a meta op into the classic one and keeps the flags that its
// reply is made from.
func (o *op) fromMeta() error {
	r := o.meta
	o.metaFlags = make([]memcached.MetaFlag, 0, len(r.Meta))
	for _, f := range r.Meta {
		o.metaFlags = append(o.metaFlags, memcached.MetaFlag{Letter: f.Letter, Arg: clone(f.Arg)})
	}
	known, does := map[memcached.Command]string{
		memcached.MetaGet: "vfcskOqT", memcached.MetaSet: "FTMCOqk", memcached.MetaDelete: "Oqk", memcached.MetaArithmetic: "DMvOqk",
	}[r.Command]
	if !does {
		return fmt.Errorf("%w: %v", ErrNoMeta, r.Command)
	}
	for _, f := range o.metaFlags {
		if strings.IndexByte(known, f.Letter) < 0 {
			return fmt.Errorf("%w: %v with flag %c", ErrNoMeta, r.Command, f.Letter)
		}
	}
	switch r.Command {
	case memcached.MetaGet:
		o.kind = opGet
		if f, ok := r.Flag('T'); ok {
			o.kind = opGetAndTouch
			return o.metaTime(f)
		}
	case memcached.MetaDelete:
		o.kind = opDelete
	case memcached.MetaArithmetic:
		return o.fromArithmetic(r)
	case memcached.MetaSet:
		return o.fromSet(r)
	}
	return nil
}

func (o *op) metaTime(f memcached.MetaFlag) (err error) {
	if o.exptime, err = f.Int(); err != nil || o.exptime > math.MaxInt32 || o.exptime < math.MinInt32 {
		return fmt.Errorf("%w: bad token in command line format", ErrClientError)
	}
	return nil
}

func (o *op) fromArithmetic(r *memcached.Request) (err error) {
	o.kind, o.delta = opArithmetic, 1
	if f, ok := r.Flag('D'); ok {
		if o.delta, err = f.Uint(); err != nil {
			return fmt.Errorf("%w: invalid numeric delta argument", ErrClientError)
		}
	}
	if f, ok := r.Flag('M'); ok {
		switch strings.ToUpper(string(f.Arg)) {
		case "I", "+":
		case "D", "-":
			o.mode = 'D'
		default:
			return fmt.Errorf("%w: invalid mode for ma M token", ErrClientError)
		}
	}
	return nil
}

func (o *op) fromSet(r *memcached.Request) error {
	o.kind, o.value = opSet, r.Value
	for _, f := range r.Meta {
		var err error
		switch f.Letter {
		case 'T':
			err = o.metaTime(f)
		case 'F':
			var n uint64
			if n, err = f.Uint(); n > math.MaxUint32 {
				err = strconv.ErrRange
			}
			o.flags = uint32(n)
		case 'C':
			o.hasCAS = true
			o.cas, err = f.Uint()
		case 'M':
			switch mode := strings.ToUpper(string(f.Arg)); mode {
			case "E", "A", "P", "R":
				o.mode = mode[0]
			case "S":
			default:
				return fmt.Errorf("%w: invalid mode for ms M token", ErrClientError)
			}
		}
		if err != nil {
			return fmt.Errorf("%w: bad token in command line format", ErrClientError)
		}
	}
	return nil
}

// toMeta makes the meta reply of an op that fromMeta turned.
func (o *op) toMeta() {
	if o.metaCmd == memcached.CommandNone {
		return
	}
	rep := &memcached.Reply{Kind: o.reply}
	switch {
	case errors.Is(o.err, ErrClientError):
		rep.Kind, rep.Message = memcached.ClientError, []byte("cannot increment or decrement non-numeric value")
		o.err, o.raw = nil, rep
		return
	case o.err != nil:
		return
	case o.reply == memcached.MetaNotFound && o.metaCmd == memcached.MetaGet:
		rep.Kind = memcached.MetaMiss
	}
	wants := func(letter byte) bool {
		return slices.ContainsFunc(o.metaFlags, func(f memcached.MetaFlag) bool { return f.Letter == letter })
	}
	switch found := o.reply == memcached.MetaValue; {
	case found && !wants('v'):
		rep.Kind = memcached.MetaOK
	case found:
		rep.Value = o.got
	case o.metaCmd == memcached.MetaArithmetic && o.reply == memcached.MetaOK && wants('v'):
		rep.Kind, rep.Value = memcached.MetaValue, strconv.AppendUint(nil, o.number, 10)
	}
	hit := o.reply == memcached.MetaValue
	for _, f := range o.metaFlags {
		switch {
		case f.Letter == 'O':
			rep.Meta = append(rep.Meta, f)
		case f.Letter == 'k':
			rep.Meta = append(rep.Meta, memcached.MetaFlag{Letter: 'k', Arg: []byte(o.key)})
		case f.Letter == 'f' && hit:
			rep.Meta = append(rep.Meta, memcached.MetaFlag{Letter: 'f', Arg: strconv.AppendUint(nil, uint64(o.gotFlags), 10)})
		case f.Letter == 'c' && hit:
			rep.Meta = append(rep.Meta, memcached.MetaFlag{Letter: 'c', Arg: strconv.AppendUint(nil, o.gotCAS, 10)})
		case f.Letter == 's' && hit:
			rep.Meta = append(rep.Meta, memcached.MetaFlag{Letter: 's', Arg: strconv.AppendInt(nil, int64(len(o.got)), 10)})
		}
	}
	o.raw = rep
}
