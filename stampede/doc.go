// Package stampede decides when a cached value is loaded, by whom, and what
// everybody else gets meanwhile.
//
// When a popular key expires or is invalidated, every process that reads it
// would load it from the origin at once: the stampede. Here one caller in the
// whole fleet wins the lease of the key and loads; the others are served the
// previous value, or wait for the fill where there is none. The leases are
// memcached's own win tokens, fenced by CAS ids, so that a hit costs one round
// trip and no further service is needed.
//
//	cache, err := stampede.New(c, stampede.Config{TTL: 5 * time.Minute, Grace: time.Hour})
//	b, err := cache.Fetch(ctx, "user:42", load) // one load in the whole fleet
//	err = cache.Invalidate(ctx, "user:42")      // readers keep an answer, one refills
//	b, err = cache.Refresh(ctx, "user:42", load) // after a write is committed
//
// What is promised: a load that began before an invalidation which the key's
// owner acknowledged never lands on the owner after it.
//
// The package knows no memcached, only a Store; client.Client is one. A Cache
// is safe for concurrent use. It starts goroutines for loads and refills, and
// Close ends them.
package stampede
