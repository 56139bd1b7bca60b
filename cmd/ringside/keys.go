package main

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/ringside-cache/ringside/proto/memcached"
)

func checkKey(key string) error {
	if err := memcached.CheckKey(key); err != nil {
		return fmt.Errorf("malformed key: %w", err)
	}
	return nil
}

// checkKeys names the malformed ones among keys that were typed, so that
// nothing is done by half.
func checkKeys(keys []string) error {
	var problems []error
	for _, key := range keys {
		if err := checkKey(key); err != nil {
			problems = append(problems, fmt.Errorf("key %.60q: %w", key, err))
		}
	}
	if problems == nil {
		return nil
	}
	return &usageError{errors.Join(problems...)}
}

// scanLF splits at line feeds only, so that a carriage return stays part of
// the key and is refused rather than dropped.
func scanLF(data []byte, atEOF bool) (advance int, token []byte, err error) {
	if i := bytes.IndexByte(data, '\n'); i >= 0 {
		return i + 1, data[:i], nil
	}
	if atEOF && len(data) > 0 {
		return len(data), data, nil
	}
	return 0, nil, nil
}
