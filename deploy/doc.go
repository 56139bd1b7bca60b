// Package deploy has what runs the sidecar on hosts and in clusters (systemd,
// Kubernetes, a container image), and what watches it (Grafana, Prometheus).
//
// There is no code in it, only tests: that the files are accepted by what reads
// them, that every metric they name is one that a sidecar serves, and that
// docs/operations.md says the same as the program.
package deploy
