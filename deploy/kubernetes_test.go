package deploy

import (
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/ringside-cache/ringside/sidecar"
)

// A manifest is one document of deploy/kubernetes.
type manifest struct {
	file string
	doc  any
}

// at gives what stands at a path such as "spec.ports.0.port", nil where there
// is nothing.
func at(v any, path string) any {
	for name := range strings.SplitSeq(path, ".") {
		switch m := v.(type) {
		case map[string]any:
			v = m[name]
		case []any:
			var i int
			if _, err := fmt.Sscan(name, &i); err != nil || i >= len(m) {
				return nil
			}
			v = m[i]
		default:
			return nil
		}
	}
	return v
}

func (m *manifest) text(path string) string { return fmt.Sprint(at(m.doc, path)) }

func list(v any) []any {
	l, _ := v.([]any)
	return l
}

// manifests parses the documents of every file; a key that is there twice is an
// error.
func manifests(t *testing.T) []manifest {
	t.Helper()
	files, err := filepath.Glob("kubernetes/*.yaml")
	if err != nil || len(files) < 5 {
		t.Fatalf("%v, %v", files, err)
	}
	var all []manifest
	for _, file := range files {
		d := yaml.NewDecoder(strings.NewReader(read(t, file)), yaml.Strict())
		for {
			var doc any
			err := d.Decode(&doc)
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			m := manifest{file, doc}
			for _, path := range []string{"apiVersion", "kind", "metadata.name"} {
				if at(doc, path) == nil {
					t.Errorf("%s: no %s", file, path)
				}
			}
			all = append(all, m)
		}
	}
	return all
}

// config gives the settings of the ConfigMap, as the sidecar reads them.
func config(t *testing.T, all []manifest) sidecar.Settings {
	t.Helper()
	for _, m := range all {
		if m.text("kind") != "ConfigMap" {
			continue
		}
		data, _ := at(m.doc, "data").(map[string]any)
		text, ok := data["ringside.yaml"].(string)
		if !ok || len(data) != 1 {
			t.Fatalf("the ConfigMap has %v", data)
		}
		set, err := sidecar.ParseSettings("ringside.yaml", []byte(text), nil)
		if err != nil {
			t.Fatal(err)
		}
		return set.WithDefaults()
	}
	t.Fatal("no ConfigMap")
	return sidecar.Settings{}
}

// A pod is a pod's spec, and the container of it that is the sidecar.
type pod struct {
	manifest
	spec, sidecar any
}

// sidecars are the pods with a sidecar.
func sidecars(all []manifest) []pod {
	var pods []pod
	for _, m := range all {
		spec := at(m.doc, "spec.template.spec")
		for _, path := range []string{"initContainers", "containers"} {
			for _, c := range list(at(spec, path)) {
				if at(c, "name") == "ringside" {
					pods = append(pods, pod{m, spec, c})
				}
			}
		}
	}
	return pods
}

// TestKubernetes: the manifests fit to the config and to each other.
func TestKubernetes(t *testing.T) {
	all := manifests(t)
	set := config(t, all)
	_, port, _ := strings.Cut(set.Admin, ":")
	socket, ok := strings.CutPrefix(set.Memcached, "unix:/run/ringside/")
	if !ok || port == "" {
		t.Fatalf("memcached is on %q, admin on %q", set.Memcached, set.Admin)
	}
	pods := sidecars(all)
	if len(pods) != 2 {
		t.Fatalf("%d pods have a sidecar", len(pods))
	}
	for _, p := range pods {
		t.Run(p.text("kind"), func(t *testing.T) {
			want := func(v any, path string, value any) {
				t.Helper()
				if got := at(v, path); fmt.Sprint(got) != fmt.Sprint(value) {
					t.Errorf("%s is %v, want %v", path, got, value)
				}
			}
			want(p.sidecar, "args.2", "/etc/ringside/ringside.yaml")
			want(p.sidecar, "ports.0.containerPort", port)
			for _, probe := range []string{"startupProbe", "readinessProbe", "livenessProbe"} {
				want(p.sidecar, probe+".httpGet.port", at(p.sidecar, "ports.0.name"))
				want(p.sidecar, probe+".httpGet.scheme", "HTTPS")
			}
			want(p.sidecar, "readinessProbe.httpGet.path", "/readyz")
			want(p.sidecar, "livenessProbe.httpGet.path", "/healthz") // or a drain would be cut short
			want(p.sidecar, "securityContext.readOnlyRootFilesystem", true)
			want(p.spec, "securityContext.runAsUser", 65532)
			// The sockets are for one user alone.
			for _, c := range list(at(p.spec, "containers")) {
				if user := at(c, "securityContext.runAsUser"); user != nil {
					t.Errorf("%v runs as %v", at(c, "name"), user)
				}
				if v := at(c, "env.0.value"); at(c, "env.0.name") == "MEMCACHED" && v != "/run/ringside/"+socket {
					t.Errorf("the application asks %v", v)
				}
			}
			if p.text("kind") == "Deployment" {
				want(p.sidecar, "restartPolicy", "Always")
			}
			var grace int
			fmt.Sscan(fmt.Sprint(at(p.spec, "terminationGracePeriodSeconds")), &grace)
			if time.Duration(grace)*time.Second < set.DrainTimeout+5*time.Second {
				t.Errorf("the pod has %d s to end, the drain takes up to %v", grace, set.DrainTimeout)
			}
			// Each volume is there, and each path that the config names is mounted.
			var volumes []string
			for _, v := range list(at(p.spec, "volumes")) {
				volumes = append(volumes, fmt.Sprint(at(v, "name")))
			}
			var paths []string
			for _, v := range list(at(p.sidecar, "volumeMounts")) {
				paths = append(paths, fmt.Sprint(at(v, "mountPath")))
				if !slices.Contains(volumes, fmt.Sprint(at(v, "name"))) {
					t.Errorf("there is no volume %v", at(v, "name"))
				}
				if at(v, "subPath") != nil {
					t.Errorf("%v is mounted by subPath, and would never change", at(v, "name"))
				}
			}
			if diff := fmt.Sprint(paths); diff != "[/etc/ringside /etc/ringside-tls /run/ringside]" {
				t.Errorf("the sidecar has %s", diff)
			}
		})
	}
}

// TestPodMonitor selects the sidecars' pods, and their port by its name.
func TestPodMonitor(t *testing.T) {
	all := manifests(t)
	i := slices.IndexFunc(all, func(m manifest) bool { return m.text("kind") == "PodMonitor" })
	label := at(at(all[i].doc, "spec.selector.matchLabels"), "ringside")
	for _, p := range sidecars(all) {
		if got := at(p.doc, "spec.template.metadata.labels.ringside"); got != label || got == nil {
			t.Errorf("%s has the label %v, the monitor selects %v", p.file, got, label)
		}
		if got := at(p.sidecar, "ports.0.name"); got != at(all[i].doc, "spec.podMetricsEndpoints.0.port") {
			t.Errorf("%s: the port is %v", p.file, got)
		}
	}
}

// TestKubernetesNodes: the name that the config looks up is that of the service.
func TestKubernetesNodes(t *testing.T) {
	all := manifests(t)
	set := config(t, all)
	for _, m := range all {
		if m.text("kind") == "Service" {
			want := fmt.Sprintf("dnssrv+_%s._tcp.%s.default.svc.cluster.local", m.text("spec.ports.0.name"), m.text("metadata.name"))
			if !slices.Equal(set.Client.Servers, []string{want}) {
				t.Errorf("the servers are %v, want %s", set.Client.Servers, want)
			}
			return
		}
	}
	t.Error("no Service")
}
