import driver
import pylibmc


class Plain(pylibmc.Client):
    """Values as they are, and their flags beside them."""

    flags = 0

    def serialize(self, value):
        return value, self.flags

    def deserialize(self, value, flags):
        return value or b"", flags  # get, but not get_multi, has None for an empty value


client = Plain(
    [s.path or f"{s.host}:{s.port}:{s.weight}" for s in driver.servers],
    behaviors={"cas": True, "receive_timeout": 10_000_000, **driver.options},
)


def get(r):
    found = client.get(r.key)
    return driver.hit(*found) if found else driver.MISS


def gets(r):
    found, cas = client.gets(r.key)
    return driver.hit(*found, cas=cas) if found else driver.MISS


def mget(r):
    return {"ok": True, "items": {k: driver.item(*v) for k, v in client.get_multi(r.keys).items()}}


def store(name):
    def do(r):
        client.flags = r.flags
        return driver.done(getattr(client, name)(r.key, r.value, r.ttl))

    return do


def join(name):
    return lambda r: driver.done(getattr(client, name)(r.key, r.value))


def cas(r):
    client.flags = r.flags
    try:
        return driver.done(client.cas(r.key, r.value, int(r.cas), r.ttl))
    except pylibmc.NotFound:
        return driver.MISS


def arithmetic(name):
    def do(r):
        try:
            return driver.number(getattr(client, name)(r.key, r.delta))
        except pylibmc.NotFound:
            return driver.MISS

    return do


commands = {name: store(name) for name in ("set", "add", "replace")}
commands |= {name: join(name) for name in ("append", "prepend")}
commands |= {name: arithmetic(name) for name in ("incr", "decr")}
commands |= {
    "get": get,
    "gets": gets,
    "mget": mget,
    "cas": cas,
    "delete": lambda r: driver.done(client.delete(r.key)),
    "touch": lambda r: driver.done(client.touch(r.key, r.ttl)),
}
driver.serve(commands)
