//go:build !unix

package bench

import "errors"

func startMemcacheds(int, ...string) ([]server, error) {
	return nil, errors.New("servers can be started on unix systems only")
}
