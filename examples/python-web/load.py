"""Many readers at once, with and without an update in between. What it prints is in the README."""

import json
import os
import threading
import time
import urllib.request

BASE = f"http://127.0.0.1:{os.environ.get('PORT', '8080')}"
READERS = 50


def request(path, method="GET", **body):
    data = json.dumps(body).encode() if body else None
    with urllib.request.urlopen(urllib.request.Request(BASE + path, data, method=method), timeout=30) as reply:
        return json.loads(reply.read())


def wait_for_app():
    for _ in range(100):
        try:
            return request("/queries")
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"nothing answers on {BASE}; start app.py first")


def queries():
    return request("/queries")


def read_at_once(path):
    """Gives the names that READERS readers got."""
    names, start = [], threading.Barrier(READERS)

    def read():
        start.wait()
        names.append(request(path)["name"])

    threads = [threading.Thread(target=read) for _ in range(READERS)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return " and ".join(sorted(set(names)))


def main():
    wait_for_app()
    path = f"/products/{time.time_ns()}"  # one that the cache does not have
    request(path, "POST", name="old")

    before = queries()
    print(f"not in the cache: {READERS} readers get {read_at_once(path)}, queries: {queries() - before}")
    before = queries()
    print(f"in the cache:     {READERS} readers get {read_at_once(path)}, queries: {queries() - before}")

    before = queries()
    update = threading.Thread(target=request, args=(path, "PUT"), kwargs={"name": "new"})
    update.start()
    time.sleep(0.2)  # it has committed by now, and queries
    names = read_at_once(path)
    print(f"during an update: {READERS} readers get {names}, before the query ends: {update.is_alive()}")
    update.join()
    print(f"after it:         {READERS} readers get {read_at_once(path)}, queries: {queries() - before}")


if __name__ == "__main__":
    main()
