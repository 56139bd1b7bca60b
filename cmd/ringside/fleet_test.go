package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ringside-cache/ringside/internal/realserver"
)

// A config file of serve has what reaches nodes that ask for credentials.
func TestOperationsByConfig(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	server := realserver.Memcached(t, "-Y", write("users", "cache:secret\n"))
	config := write("ringside.yaml", "servers: [a@"+server.Addr()+"]\nnodes:\n  username: cache\n  password_file: "+write("password", "secret\n")+"\n")
	ringside := func(args ...string) (code int, stdout, stderr string) {
		var out, errs bytes.Buffer
		code = run(args, strings.NewReader(""), &out, &errs)
		return code, out.String(), errs.String()
	}
	if code, _, stderr := ringside("set", "k", "value", "--config", config); code != 0 {
		t.Fatalf("set: %d, %s", code, stderr)
	}
	if code, stdout, stderr := ringside("get", "k", "--config", config, "--timeout", "5s"); code != 0 || stdout != "value" {
		t.Errorf("get: %d, %q, %s", code, stdout, stderr)
	}
	if code, stdout, stderr := ringside("explain", "k", "--config", config); code != 0 || !strings.Contains(stdout, "owner      a") {
		t.Errorf("explain: %d, %q, %s", code, stdout, stderr)
	}
	if code, _, _ := ringside("get", "k", "--servers", server.Addr()); code == 0 {
		t.Error("the node let somebody in without credentials")
	}
	for name, tt := range map[string]struct {
		args []string
		want string
	}{
		"both":     {[]string{"--config", config, "--servers", "localhost:1"}, "--servers and --config can not both be given"},
		"dialect":  {[]string{"--config", config, "--dialect", "ketama"}, "--dialect and --config can not both be given"},
		"missing":  {[]string{"--config", filepath.Join(dir, "none.yaml")}, "none.yaml"},
		"bad":      {[]string{"--config", write("bad.yaml", "servers: [localhost:1]\nnodes:\n  tiemout: 1s\n")}, "bad.yaml:3"},
		"embedded": {[]string{"--config", write("embedded.yaml", "embedded: 2\n")}, "these nodes are in the process that serves them"},
		"password": {[]string{"--config", write("lost.yaml", "servers: [localhost:1]\nnodes:\n  username: cache\n  password_file: "+dir+"/gone\n")}, "lost.yaml: PasswordFile: open "},
	} {
		if code, _, stderr := ringside(append([]string{"get", "k"}, tt.args...)...); code == 0 || !strings.Contains(stderr, tt.want) {
			t.Errorf("%s: %d, %s", name, code, stderr)
		}
	}
}
