//go:build interop && unix

package interop

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/ringside-cache/ringside/internal/realserver"
	ringsidev1 "github.com/ringside-cache/ringside/proto/ringside/v1"
)

// A webApp is a running examples/python-web/app.py.
type webApp struct {
	t    *testing.T
	base string
}

// querySeconds is how long the apps' queries take.
const querySeconds = 2

// startApps starts an app for each sidecar, given by its gRPC address. They have one database.
func startApps(t *testing.T, sidecars ...string) (apps []webApp, database string) {
	t.Helper()
	root := copyExamples(t, pythonGRPC)
	dir := filepath.Join(root, "examples", "python-web")
	protoc := exec.Command("protoc", "-I", "../../proto", "--python_out=.", "ringside/v1/ringside.proto")
	protoc.Dir = dir
	if out, err := protoc.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	database = filepath.Join(root, "products.db")
	for _, sidecar := range sidecars {
		port := freePort(t)
		cmd := exampleCommand(t, python, "app.py")
		cmd.Dir = dir
		cmd.Env = append(cmd.Env, "RINGSIDE_GRPC="+sidecar, "PORT="+port, "DATABASE="+database, fmt.Sprintf("QUERY_SECONDS=%d", querySeconds))
		var log bytes.Buffer
		cmd.Stderr = &log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			if t.Failed() {
				t.Logf("app.py says:\n%s", log.String())
			}
		})
		apps = append(apps, webApp{t, "http://127.0.0.1:" + port})
	}
	for _, app := range apps {
		eventually(t, startTimeout, "app.py answers", func() bool {
			resp, err := http.Get(app.base + "/queries")
			if err == nil {
				resp.Body.Close()
			}
			return err == nil
		})
	}
	return apps, database
}

func (a webApp) do(method, path, body string) (status int, answer []byte) {
	req, err := http.NewRequestWithContext(a.t.Context(), method, a.base+path, strings.NewReader(body))
	if err != nil {
		a.t.Error(err)
		return 0, nil
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		a.t.Error(err)
		return 0, nil
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(resp.Body)
	if err != nil {
		a.t.Error(err)
	}
	return resp.StatusCode, answer
}

// save makes a product (POST) or changes it (PUT).
func (a webApp) save(method, id, name string) {
	a.t.Helper()
	if status, _ := a.do(method, "/products/"+id, fmt.Sprintf(`{"name": %q}`, name)); status != http.StatusOK {
		a.t.Errorf("%s of %s: status %d", method, id, status)
	}
}

func (a webApp) get(id string) (status int, name string) {
	status, answer := a.do("GET", "/products/"+id, "")
	var product struct{ Name string }
	if err := json.Unmarshal(answer, &product); status == http.StatusOK && err != nil {
		a.t.Error(err)
	}
	return status, product.Name
}

// queries gives how many the database has had.
func queries(apps []webApp) (n int) {
	for _, a := range apps {
		_, answer := a.do("GET", "/queries", "")
		i, err := strconv.Atoi(string(answer))
		if err != nil {
			a.t.Errorf("/queries: %v", err)
		}
		n += i
	}
	return n
}

// getAtOnce has 50 callers ask, spread over the apps, and counts what they got.
func getAtOnce(apps []webApp, id string) map[string]int {
	const callers = 50
	got := map[string]int{}
	var mu sync.Mutex // guards got
	var all sync.WaitGroup
	for i := range callers {
		all.Go(func() {
			status, name := apps[i%len(apps)].get(id)
			mu.Lock()
			defer mu.Unlock()
			got[fmt.Sprintf("%d %s", status, name)]++
		})
	}
	all.Wait()
	return got
}

func wantOnly(t *testing.T, what string, got map[string]int, want string) {
	t.Helper()
	if len(got) != 1 || got[want] == 0 {
		t.Errorf("%s: got %v, want only %q", what, got, want)
	}
}

// Two services, each with a sidecar of its own as on two hosts, share three memcacheds and a database.
func TestWebExample(t *testing.T) {
	t.Parallel()
	servers := strings.Join(startFleet(t, 3), ",")
	apps, database := startApps(t, startSidecar(t, "--servers", servers).grpc, startSidecar(t, "--servers", servers).grpc)

	t.Run("a cold key is loaded once", func(t *testing.T) {
		apps[0].save("POST", "cold", "chair")
		before := queries(apps)
		wantOnly(t, "cold", getAtOnce(apps, "cold"), "200 chair")
		if n := queries(apps) - before; n != 1 {
			t.Errorf("%d queries, want 1", n)
		}
	})
	t.Run("what is not there is asked for once", func(t *testing.T) {
		before := queries(apps)
		wantOnly(t, "not there", getAtOnce(apps, "nothing"), "404 ")
		if n := queries(apps) - before; n != 1 {
			t.Errorf("%d queries, want 1", n)
		}
		apps[1].save("POST", "nothing", "something") // the marker does not hide it
		wantOnly(t, "made since", getAtOnce(apps, "nothing"), "200 something")
	})
	t.Run("a refill behind the readers", func(t *testing.T) {
		apps[0].save("POST", "behind", "old")
		apps[0].get("behind")
		before := queries(apps)
		apps[0].save("POST", "behind", "new") // invalidates
		began := time.Now()
		wantOnly(t, "at once", getAtOnce(apps, "behind"), "200 old")
		if d := time.Since(began); d >= querySeconds*time.Second {
			t.Errorf("they waited %v", d)
		}
		eventually(t, 10*time.Second, "the new value is there", func() bool {
			_, name := apps[1].get("behind")
			return name == "new"
		})
		if n := queries(apps) - before; n != 1 {
			t.Errorf("%d queries, want 1", n)
		}
	})
	t.Run("updates", func(t *testing.T) { checkUpdates(t, apps, database) })
}

// checkUpdates has readers read all the time while a product is changed, and compares what they got with
// when they asked.
func checkUpdates(t *testing.T, apps []webApp, database string) {
	type reading struct {
		began, ended time.Time
		name         string
	}
	name := func(version int) string { return fmt.Sprintf("version-%d", version) }
	apps[0].save("POST", "changed", name(0))
	apps[0].get("changed")

	var mu sync.Mutex // guards readings
	var readings []reading
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for i := range 8 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(5 * time.Millisecond):
				}
				r := reading{began: time.Now()}
				_, r.name = apps[i%len(apps)].get("changed")
				r.ended = time.Now()
				mu.Lock()
				readings = append(readings, r)
				mu.Unlock()
			}
		})
	}
	const updates = 4
	before := queries(apps)
	var began, ended [updates + 1]time.Time
	for u := 1; u <= updates; u++ {
		began[u] = time.Now()
		apps[u%len(apps)].save("PUT", "changed", name(u))
		ended[u] = time.Now()
		time.Sleep(200 * time.Millisecond)
	}
	close(stop)
	readers.Wait()
	// A reader may win the lease between an update's Invalidate and its read. The writer takes it over, but
	// that reader's query is under way.
	if n := queries(apps) - before; n < updates || n > 2*updates {
		t.Errorf("%d queries for %d updates", n, updates)
	}
	for u := 1; u <= updates; u++ {
		oldMeanwhile, newAfter, slow := 0, 0, 0
		for _, r := range readings {
			switch {
			case r.began.After(began[u]) && r.ended.Before(ended[u]):
				if r.name == name(u-1) {
					oldMeanwhile++
				}
				if r.ended.Sub(r.began) > querySeconds*time.Second {
					slow++
				}
			case r.began.After(ended[u]) && (u == updates || r.ended.Before(began[u+1])):
				if newAfter++; r.name != name(u) {
					t.Errorf("%q was served %v after the update to %q had returned", r.name, r.began.Sub(ended[u]), name(u))
				}
			}
		}
		if oldMeanwhile == 0 || newAfter == 0 || slow > 0 {
			t.Errorf("update %d: %d readers got the old value meanwhile, %d the new one after it, %d waited for the query", u, oldMeanwhile, newAfter, slow)
		}
	}
	t.Logf("%d readings", len(readings))

	// Several at once: who commits last wins, and when all have returned its value is in the cache.
	var writers sync.WaitGroup
	for i := range 6 {
		writers.Go(func() { apps[i%len(apps)].save("PUT", "changed", fmt.Sprintf("writer-%d", i)) })
	}
	writers.Wait()
	_, cached := apps[0].get("changed")
	if want := stored(t, database, "changed"); cached != want {
		t.Errorf("after 6 updates at once the cache has %q and the database %q", cached, want)
	}
}

// stored asks the database.
func stored(t *testing.T, database, id string) string {
	t.Helper()
	const query = "import sqlite3, sys; print(*sqlite3.connect(sys.argv[1]).execute('SELECT name FROM products WHERE id = ?', sys.argv[2:]).fetchone())"
	out, err := exec.Command(python, "-c", query, database, id).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// The service works on when the database or the sidecar does not.
func TestWebExampleFailures(t *testing.T) {
	t.Parallel()
	s := startSidecar(t, "--servers", strings.Join(startFleet(t, 2), ","))
	apps, database := startApps(t, s.grpc, "127.0.0.1:"+freePort(t))
	app, alone := apps[:1], apps[1]
	app[0].save("POST", "warm", "chair")
	wantOnly(t, "before", getAtOnce(app, "warm"), "200 chair")

	// Without a sidecar it asks the database, and does not say that a change is seen by all.
	if status, name := alone.get("warm"); status != http.StatusOK || name != "chair" {
		t.Errorf("without a sidecar: %d %q", status, name)
	}
	for _, method := range []string{"POST", "PUT"} {
		if status, _ := alone.do(method, "/products/warm", `{"name": "stool"}`); status != http.StatusServiceUnavailable {
			t.Errorf("%s without a sidecar: status %d, want 503", method, status)
		}
	}

	// Without the database one caller finds out and the others are told, and the old value is served on.
	if err := os.Rename(database, database+".away"); err != nil {
		t.Fatal(err)
	}
	invalidate(t, s.grpc, "product:warm")
	wantOnly(t, "an old value, the database is away", getAtOnce(app, "warm"), "200 chair")
	before := queries(app)
	got := getAtOnce(app, "cold")
	// The others are told for two seconds, which memcached's clock may make one.
	if n := queries(app) - before; n < 1 || n > 2 || got["500 "] != n || got["503 "] != 50-n {
		t.Errorf("a cold key, the database is away: %d queries, got %v; want one query and 500, and else 503", n, got)
	}
	if err := os.Rename(database+".away", database); err != nil {
		t.Fatal(err)
	}
	// The failure is kept for two seconds, and the lease on the old value for ten.
	for id, want := range map[string]string{"cold": "404 ", "warm": "200 stool"} {
		eventually(t, 20*time.Second, id+" is "+want+" again", func() bool {
			status, name := app[0].get(id)
			return fmt.Sprintf("%d %s", status, name) == want
		})
	}
}

// invalidate is what somebody else does who has changed the database.
func invalidate(t *testing.T, sidecar, key string) {
	t.Helper()
	cc, err := grpc.NewClient(sidecar, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	resp, err := ringsidev1.NewCacheClient(cc).Invalidate(t.Context(), &ringsidev1.InvalidateRequest{Key: []byte(key)})
	if err != nil || resp.GetOwnerDown() {
		t.Fatal(resp, err)
	}
}

// An update while the key's node is out: the node comes back with the old value, which the service removes.
func TestWebExampleOwnerDown(t *testing.T) {
	t.Parallel()
	paused := realserver.Memcached(t)
	s := startSidecar(t, "--servers", "paused@"+paused.Addr()+",other@"+realserver.Memcached(t).Addr(), "--timeout", "1s")
	apps, _ := startApps(t, s.grpc)
	app := apps[0]
	products := []string{"a", "b", "c", "d", "e", "f", "g", "h"}
	each := func(do func(id string)) {
		var all sync.WaitGroup
		for _, id := range products {
			all.Go(func() { do(id) })
		}
		all.Wait()
	}
	serves := func(want string) (all bool) {
		var mu sync.Mutex // guards all
		all = true
		each(func(id string) {
			status, name := app.get(id)
			mu.Lock()
			defer mu.Unlock()
			all = all && status == http.StatusOK && name == want
		})
		return all
	}
	each(func(id string) { app.save("POST", id, "old") })
	if !serves("old") {
		t.Error("before: not all products are served")
	}
	if held := ask(t, paused.Addr(), "stats items"); held == "END" {
		t.Fatal("the node has no product, so that this test shows nothing")
	}

	if err := paused.Stop(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "the node is ejected", func() bool {
		if !serves("old") {
			t.Error("a product is not served while its node is out")
		}
		return s.nodeState(t, "paused") == "ejected"
	})
	each(func(id string) { app.save("PUT", id, "new") })
	if !serves("new") {
		t.Error("an old product is served after the update, while the node is out")
	}
	if err := paused.Continue(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "the node rejoins", func() bool { return s.nodeState(t, "paused") == "up" })
	eventually(t, 10*time.Second, "all are new on the node too", func() bool { return serves("new") })
	for range 5 {
		time.Sleep(300 * time.Millisecond)
		if !serves("new") {
			t.Error("an old product is served after it was removed")
		}
	}
}
