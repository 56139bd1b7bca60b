package sidecar

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestListenerFails: a sidecar that can not serve one of its listeners any more
// ends, and says which.
func TestListenerFails(t *testing.T) {
	for _, name := range []string{listenerMemcached, listenerGRPC, listenerAdmin} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, err := Start(Config{Embedded: 1, Memcached: "127.0.0.1:0", GRPC: "127.0.0.1:0", Admin: "127.0.0.1:0"})
			if err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- s.Run(t.Context()) }()
			s.listeners[name].Close()
			select {
			case err = <-ended:
			case <-time.After(20 * time.Second):
				t.Fatal("Run does not end")
			}
			if !strings.HasPrefix(fmt.Sprint(err), name+" listener: ") {
				t.Errorf("Run = %v, want an error of the %s listener", err, name)
			}
		})
	}
}
