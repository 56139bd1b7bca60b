package client

// Eject has a node fail until it is ejected, as it would if dials failed.
func (c *Client) Eject(i int) {
	n := c.fleet.Load().nodes[i]
	for range 100 {
		if n.out.Load() {
			return
		}
		c.nodeFailed(n, ErrDial)
	}
	panic("the config does not let the node be ejected")
}

// Disconnect breaks the connections of a node.
func (c *Client) Disconnect(i int) { c.fleet.Load().nodes[i].disconnect(errIdleClosed) }

// RenewEpoch begins an epoch of a node without meta commands, as if it might
// have been restarted.
func (c *Client) RenewEpoch(i int) {
	l := c.fleet.Load().nodes[i].legacy.Load()
	l.renew(l.epoch.Load())
}
