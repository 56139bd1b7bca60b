//go:build !unix

package sidecar

func isTooManyFiles(error) bool { return false }

func isRefused(err error) bool { return err != nil }
