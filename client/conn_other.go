//go:build !unix

package client

func (w *rawSocket) state() (ended, quiet bool) { return false, true }
