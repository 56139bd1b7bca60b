package client

import "time"

// Hooks tell what happens to the nodes. Each may be nil. They are called
// without a lock held, from the goroutine in which it happened.
type Hooks struct {
	// Dialled: an attempt to connect ended, with an error or without.
	Dialled func(node string, took time.Duration, err error)
	// Failed: something happened that counts against the node's health.
	Failed func(node string, err error)
	// Ejected: the node is out.
	Ejected func(node string)
	// Probed: a probe of an ejected node ended, with an error or without.
	Probed func(node string, took time.Duration, err error)
	// Rejoined: the node is back.
	Rejoined func(node string)
	// Discovered: a look-up of Config.Servers changed the fleet, or failed.
	Discovered func(joined, left []string, err error)
}
