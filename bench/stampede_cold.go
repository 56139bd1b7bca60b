package bench

import (
	"context"
	"errors"
	"fmt"
	"time"
)

var coldEvent = stampedeEvent{
	name:  "cold",
	about: "all processes want the same missing key at once, 4 callers in each",
	rows: []EventRow{
		{What: "loads, mean of the rounds", Figure: "loads", Target: exactly(1)},
		{What: "loads, most of the rounds", Figure: "loads_most", Target: exactly(1)},
		{What: "from the end of the first load until the last has the value, ms, worst round", Figure: "behind_ms", Target: atMost(50)},
		{What: "reads that failed", Figure: "failed", Target: exactly(0)},
		{What: "rounds", Figure: "rounds"},
	},
	run: runCold,
}

const (
	coldCallers     = 4
	coldRounds      = 12
	coldRoundsNaive = 6
)

func runCold(ctx context.Context, b *stampedeBench, r *EventRun) error {
	f, err := b.fleet(ctx, r.Contender, cacheConfig{TTL: 10 * time.Minute})
	if err != nil {
		return err
	}
	defer f.close()
	keys := b.keys()
	var loads, behind []float64
	failed := 0
	for i := range b.times(r, coldRounds, coldRoundsNaive) {
		key := keys.key(i)
		spec := fetchSpec{Key: key, Start: time.Now().Add(100 * time.Millisecond).UnixNano(), Callers: coldCallers, Timeout: 5 * time.Second}
		answers, err := f.ask(ctx, func(int) request { return request{Fetch: &spec} })
		if err != nil {
			return err
		}
		calls := b.origin.of(key, time.Time{})
		if len(calls) == 0 {
			return errors.New("nobody has loaded the key")
		}
		loads = append(loads, float64(len(calls)))
		// The fill is sent after the origin's answer, so this is a little more
		// than the time since the fill.
		filled := calls[0].End
		for _, c := range calls {
			if !c.End.IsZero() && c.End.Before(filled) {
				filled = c.End
			}
		}
		last := int64(0)
		for _, a := range answers {
			for _, one := range a.Fetch {
				if one.Error != "" {
					failed++
					r.FailedReads = map[string]int{fmt.Sprintf("round %d: %s", i, one.Error): 1}
					continue
				}
				last = max(last, one.End)
			}
		}
		behind = append(behind, ms(time.Duration(last-filled.UnixNano())))
	}
	r.list("loads", loads)
	r.list("behind_ms", behind)
	r.figure("rounds", float64(len(loads)))
	r.figure("loads", mean(loads))
	r.figure("loads_most", highest(loads))
	r.figure("behind_ms", highest(behind))
	r.figure("failed", float64(failed))
	return nil
}
