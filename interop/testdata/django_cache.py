"""Uses Django's cache framework as its users do. Arguments: the backend's class, and the server. What is not
as Django's documentation has it raises."""

import sys
import time

from django.conf import settings

backend, server = sys.argv[1:]
location = {"BACKEND": f"django.core.cache.backends.memcached.{backend}", "LOCATION": server}
settings.configure(
    CACHES={
        "default": {**location, "KEY_PREFIX": backend},
        "prefixed": {**location, "KEY_PREFIX": backend + "-other", "VERSION": 7, "TIMEOUT": 1},
    },
    CACHE_MIDDLEWARE_KEY_PREFIX="pages",
    SECRET_KEY="no secret",
    SESSION_ENGINE="django.contrib.sessions.backends.cache",
    ALLOWED_HOSTS=["testserver"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"],
    INSTALLED_APPS=["django.contrib.sessions"],
)

import django  # noqa: E402
from django.core.cache import cache, caches  # noqa: E402
from django.http import HttpResponse  # noqa: E402
from django.test import Client  # noqa: E402
from django.urls import path  # noqa: E402
from django.views.decorators.cache import cache_page  # noqa: E402

django.setup()
missing = object()


def equal(got, want):
    if got != want:
        raise AssertionError(f"got {got!r:.200}, want {want!r:.200}")


def raises(kind, do, *args):
    try:
        do(*args)
    except kind:
        return
    raise AssertionError(f"{do} did not raise {kind}")


def eventually(ok):
    for _ in range(60):
        if ok():
            return
        time.sleep(0.1)
    raise AssertionError("not within 6 s")


def single_keys():
    cache.clear()
    equal(cache.get("k"), None)
    equal(cache.get("k", missing), missing)
    values = ["text", "größe 鍵 🔑", "", b"", b"\r\nEND\r\n\0\xff", 0, 1, -1, 2**70, 1.5, True, None, {"a": [1, {2}]}, "x" * 300_000]
    for i, value in enumerate(values):
        cache.set(f"value-{i}", value)
    for i, value in enumerate(values):
        equal(cache.get(f"value-{i}", missing), value)
    equal("value-0" in cache, True)
    equal("nothing" in cache, False)
    equal(cache.add("value-0", "other"), False)
    equal(cache.add("added", "new"), True)
    equal(cache.get("added"), "new")
    equal(cache.get_or_set("made", lambda: "by a function"), "by a function")
    equal(cache.get_or_set("made", "other"), "by a function")
    equal(cache.delete("added"), True)
    equal(cache.delete("added"), False)
    equal(cache.get("added"), None)


def numbers():
    cache.set("n", 40)
    equal(cache.incr("n"), 41)
    equal(cache.incr("n", 9), 50)
    equal(cache.decr("n", 8), 42)
    equal(cache.get("n"), 42)
    raises(ValueError, cache.incr, "no such number")
    raises(ValueError, cache.decr, "no such number")


def many_keys():
    items = {f"many-{i}": {"number": i} for i in range(500)}
    equal(cache.set_many(items, timeout=100), [])
    equal(cache.get_many([*items, "nothing"]), items)
    cache.delete_many(list(items)[:499])
    equal(cache.get_many(items), {"many-499": {"number": 499}})


def timeouts():
    cache.set("forever", 1, timeout=None)
    cache.set("never", 1, timeout=0)
    equal(cache.get("never"), None)
    cache.set("past", 1, timeout=-1)
    equal(cache.get("past"), None)
    cache.set("brief", 1, timeout=1)
    cache.set("kept", 1, timeout=1)
    cache.set("long", 1, timeout=60 * 86400)  # is an absolute time, for memcached
    equal(cache.touch("kept", 1000), True)
    equal(cache.touch("nothing", 1000), False)
    eventually(lambda: cache.get("brief") is None)
    equal(cache.get_many(["forever", "kept", "long", "brief"]), {"forever": 1, "kept": 1, "long": 1})
    equal(cache.touch("kept", 0), True)  # deletes it
    equal(cache.get("kept"), None)
    other = caches["prefixed"]  # its default is a second
    other.set("default", 1)
    eventually(lambda: other.get("default") is None)


def versions():
    cache.set("v", "one")
    cache.set("v", "two", version=2)
    equal((cache.get("v"), cache.get("v", version=2), cache.get("v", version=3)), ("one", "two", None))
    equal(cache.incr_version("v", version=2), 3)
    equal((cache.get("v", version=2), cache.get("v", version=3)), (None, "two"))
    equal(cache.decr_version("v", version=3), 2)
    equal(cache.get("v", version=2), "two")
    other = caches["prefixed"]
    other.set("v", "other", timeout=100)
    equal((cache.get("v"), other.get("v"), other.get("v", version=7)), ("one", "other", "other"))


def bad_keys():
    raises(Exception, cache.set, "k" * 300, 1)  # Django refuses it, before it is sent
    raises(Exception, cache.get, "a key with spaces")
    equal(cache.get("v"), "one")  # and nothing is out of step


made = 0


def page(request):
    global made
    made += 1
    return HttpResponse(f"page {made}")


def count(request):
    request.session["count"] = request.session.get("count", 0) + 1
    return HttpResponse(str(request.session["count"]))


urlpatterns = [path("page", cache_page(100)(page)), path("count", count)]


def pages_and_sessions():
    visitor = Client()
    equal([visitor.get("/page").content for _ in range(3)], [b"page 1"] * 3)
    equal([visitor.get("/count").content for _ in range(3)], [b"1", b"2", b"3"])
    equal(Client().get("/count").content, b"1")


def clearing():
    cache.set("cleared", 1)
    cache.clear()
    equal(cache.get("cleared"), None)


for part in single_keys, numbers, many_keys, timeouts, versions, bad_keys, pages_and_sessions, clearing:
    part()
    print(part.__name__, flush=True)
cache.close()
