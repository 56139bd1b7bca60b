//go:build !unix

package sidecar

import "net"

func listenOwner(path string) (net.Listener, error) { return net.Listen("unix", path) }

func isTooManyFiles(error) bool { return false }

func isRefused(err error) bool { return err != nil }
