"""Reads through the cache with one load in the whole fleet, by the sidecar's lease API."""

import logging
import threading
import time

import grpc

from sidecar import pb

log = logging.getLogger("readthrough")
State, Filled, Released = pb.LeaseResponse, pb.FillResponse, pb.ReleaseRequest


class NotFound(Exception):
    """The origin has no such key."""


class Busy(Exception):
    """No value, and no way to load one in time. A web service answers 503."""


class ReadThrough:
    """get serves a key and update changes it.

    A load is a function without arguments that gives bytes or raises NotFound. It runs in this process when
    this process has won the lease; it has LEASE seconds, or another caller takes over.
    """

    CALL = 2  # seconds for a call of the sidecar that does not wait
    LEASE = 10  # seconds that a load may take
    TOLD = 2  # seconds that others are told of a load that failed
    ABSENT = 10  # seconds that others are told that there is none; who makes it invalidates that
    PATIENCE = 5  # seconds that a reader or a writer waits for a value
    LOADS = 4  # loads at a time in this process, beside those that a reader waits for and has a lease for

    def __init__(self, cache, ttl=300):
        self.cache = cache
        self.ttl = ttl  # seconds until a value is loaded anew, even if nobody has invalidated it
        self.loads = threading.BoundedSemaphore(self.LOADS)
        self.pending = set()  # keys to be invalidated again; a thread works on it while there are any
        self.retrying = threading.Lock()  # guards pending

    def get(self, key, load):
        """Gives the value of the key, which may be the old one while somebody loads the new one."""
        deadline = time.monotonic() + self.PATIENCE
        while True:
            try:
                answer = self._lease(key, deadline)
            except grpc.RpcError as e:
                log.warning("lease: %s", e.code().name)  # the sidecar is down, or lends no more leases
                return self._load_without_lease(load)
            if answer.state in (State.STATE_FRESH, State.STATE_STALE):
                return answer.value
            if answer.state == State.STATE_WON:
                if answer.has_value:  # the old one is good enough for this request
                    self._refill_behind(answer.token, load)
                    return answer.value
                return self._load(answer.token, load)[0]
            if answer.state == State.STATE_NOT_FOUND:
                raise NotFound
            if answer.state == State.STATE_FAILED:
                raise Busy(answer.message)
            if answer.state == State.STATE_NO_LEASE:
                return self._load_without_lease(load)
            if time.monotonic() >= deadline:  # WAIT: somebody else loads, and takes long
                raise Busy("no value in time")

    def update(self, key, load):
        """Puts the new value into the cache, after what it is made of was changed and committed.

        When it returns, nobody is served the old value any more; until then everybody is, at once. It raises
        Busy if it can not say so.
        """
        deadline = time.monotonic() + self.PATIENCE
        try:
            if self._replace(key, load, deadline):
                return
        except grpc.RpcError as e:
            log.warning("update: %s", e.code().name)
        except NotFound:
            pass
        except Exception:
            log.exception("update: the load failed")
        # There is no new value. Rather none than the old one.
        try:
            self.cache.Delete(pb.DeleteRequest(key=key), timeout=self.CALL)
        except grpc.RpcError as e:
            self._invalidate_later(key)
            raise Busy(f"the old value may be served on: {e.code().name}") from e

    def invalidate(self, key):
        """As update, without a load: readers are served the old value on, and the next of them refills it."""
        try:
            down = self.cache.Invalidate(pb.InvalidateRequest(key=key), timeout=self.CALL).owner_down
        except grpc.RpcError as e:
            self._invalidate_later(key)
            raise Busy(f"the old value may be served on: {e.code().name}") from e
        if down:
            self._invalidate_later(key)

    def _lease(self, key, deadline, fresh=False):
        wait = max(0.0, deadline - time.monotonic())
        request = pb.LeaseRequest(key=key, wait_millis=int(wait * 1000), lease_seconds=self.LEASE, fresh=fresh)
        return self.cache.Lease(request, timeout=wait + self.CALL)

    def _replace(self, key, load, deadline):
        request = pb.InvalidateRequest(key=key, want_lease=True, lease_seconds=self.LEASE)
        reply = self.cache.Invalidate(request, timeout=self.CALL)
        if reply.owner_down:
            self._invalidate_later(key)
        answer = reply.lease
        while True:
            if answer.state == State.STATE_WON:
                if self._load(answer.token, load)[1]:
                    return True
                # Another update came in between. Its load began after our change: wait for that.
            elif answer.state == State.STATE_FRESH:
                return True  # loaded since, and so after our change
            elif answer.state == State.STATE_STALE:
                time.sleep(0.05)  # no lease is to be had just now
            elif answer.state != State.STATE_WAIT:
                return False
            if time.monotonic() >= deadline:
                return False
            answer = self._lease(key, deadline, fresh=True)

    def _load(self, token, load):
        """Ends a lease that was won. Gives the value and whether it is in the cache."""
        try:
            value = load()
        except Exception as e:
            outcome = Released.OUTCOME_NOT_FOUND if isinstance(e, NotFound) else Released.OUTCOME_FAILED
            # Others are told, so that they do not all ask the database; an old value is served on.
            told = self.ABSENT if isinstance(e, NotFound) else self.TOLD
            release = pb.ReleaseRequest(token=token, outcome=outcome, ttl_seconds=told, message=str(e))
            self._quietly(self.cache.Release, release)
            raise
        reply = self._quietly(self.cache.Fill, pb.FillRequest(token=token, value=value, ttl_seconds=self.ttl))
        return value, reply is not None and reply.outcome == Filled.OUTCOME_STORED

    def _refill_behind(self, token, load):
        """Loads on a thread of its own, or leaves it to the next reader where too many do already."""
        if not self.loads.acquire(blocking=False):
            self._quietly(self.cache.Release, pb.ReleaseRequest(token=token))
            return

        def refill():
            try:
                self._load(token, load)
            except Exception as e:
                log.warning("refill: %r", e)
            finally:
                self.loads.release()

        threading.Thread(target=refill).start()

    def _quietly(self, call, request):
        try:
            return call(request, timeout=self.CALL)
        except grpc.RpcError as e:
            log.warning("%s: %s", type(request).__name__, e.code().name)  # the lease ends by itself
            return None

    def _load_without_lease(self, load):
        # Nobody keeps the callers apart now. A few at a time, or the database has the stampede after all.
        if not self.loads.acquire(timeout=self.PATIENCE):
            raise Busy("too many loads")
        try:
            return load()
        finally:
            self.loads.release()

    def _invalidate_later(self, key):
        """The key's node is out, and would come back with the old value."""
        with self.retrying:
            idle = not self.pending
            self.pending.add(key)
            if idle:
                threading.Thread(target=self._invalidate_pending, daemon=True).start()

    def _invalidate_pending(self):
        while True:
            time.sleep(1)
            with self.retrying:
                keys = list(self.pending)
            for key in keys:
                # A grace of 0: the old value goes, and is not served until somebody has refilled it.
                reply = self._quietly(self.cache.Invalidate, pb.InvalidateRequest(key=key, grace_seconds=0))
                if reply is not None and not reply.owner_down:
                    with self.retrying:
                        self.pending.discard(key)
                        if not self.pending:
                            return
