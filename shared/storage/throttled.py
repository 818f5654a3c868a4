"""A site whose bytes pass at a bounded rate. Only where a rate is set: else nothing here is in the way.

Bytes wait before they are sent, and after they were received. An S3 site paces what goes over its connections
(`s3http`); a directory is wrapped here. Listings, deletes and other calls that carry no content are not held up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from shared.storage.api import Buffer, Capabilities, ObjectInfo, ObjectStore, Staged
from shared.storage.bucket import Bucket, boot_clock
from shared.storage.rates import STRETCH

_POLL = 0.1  # seconds after which whoever waits looks up
_PART_AT_LEAST = 1024  # bytes that are sent together


def wait_on() -> bool:
    """For who has nothing to look at while it waits."""
    return False


class Pacer:
    """Holds up whoever moves bytes until each of some buckets has given them. Safe for several threads."""

    def __init__(
        self,
        buckets: Sequence[Bucket],
        look: Callable[[], bool] = wait_on,
        *,
        clock: Callable[[], float] = boot_clock,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`look` is called now and then while one waits: True lets the bytes pass at once; it may raise, too."""
        self._buckets = list(buckets)
        self._look = look
        self._clock = clock
        self._sleep = sleep

    def pay(self, count: int) -> None:
        """Come back when `count` bytes may pass, or were to. Raises what `look` raises."""
        owed = [count] * len(self._buckets)
        due = [0.0] * len(self._buckets)
        while True:
            now = self._clock()
            for number, bucket in enumerate(self._buckets):
                while owed[number] and due[number] <= now:
                    given, due[number] = bucket.take(owed[number])
                    owed[number] -= given
            waits = [at for at in due if at > now]
            if not waits or self._look():
                return
            self._sleep(min(min(waits) - now, _POLL))

    def parts(self, view: memoryview) -> Iterator[memoryview]:
        """All of `view` in turn, each part once it may pass."""
        at = 0
        while at < len(view):
            rates = [rate for bucket in self._buckets if (rate := bucket.rate())]
            size = max(_PART_AT_LEAST, int(min(rates) * STRETCH)) if rates else len(view)
            part = view[at : at + size]
            self.pay(len(part))
            yield part
            at += len(part)


@dataclass(frozen=True, slots=True)
class Throttle:
    """The two directions of a site; None is no limit."""

    upload: Pacer | None = None
    download: Pacer | None = None


class ThrottledStore:
    """An `ObjectStore` round another one, which has no pace of its own."""

    def __init__(self, inner: ObjectStore, throttle: Throttle) -> None:
        self._inner = inner
        self._throttle = throttle

    @property
    def url(self) -> str:
        """See `ObjectStore`."""
        return self._inner.url

    @property
    def connections(self) -> int:
        """See `ObjectStore`."""
        return self._inner.connections

    def put(self, key: str, data: Buffer, *, sha256: str | None = None) -> None:
        """See `ObjectStore`."""
        self._sends(memoryview(data).nbytes)
        self._inner.put(key, data, sha256=sha256)

    def stage(self, prefix: str, *, spool: str = "") -> Staged:
        """See `ObjectStore`. Held up as it is written, since a directory takes the bytes then."""
        return _ThrottledStaged(self._inner.stage(prefix, spool=spool), self._sends)

    def put_if_absent(self, key: str, data: Buffer) -> bool:
        """See `ObjectStore`."""
        self._sends(memoryview(data).nbytes)
        return self._inner.put_if_absent(key, data)

    def compare_and_swap(self, key: str, data: Buffer, *, version: str) -> bool:
        """See `ObjectStore`."""
        self._sends(memoryview(data).nbytes)
        return self._inner.compare_and_swap(key, data, version=version)

    def get(self, key: str) -> bytes:
        """See `ObjectStore`."""
        data = self._inner.get(key)
        self._received(len(data))
        return data

    def get_versioned(self, key: str) -> tuple[bytes, str]:
        """See `ObjectStore`."""
        data, version = self._inner.get_versioned(key)
        self._received(len(data))
        return data, version

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """See `ObjectStore`."""
        data = self._inner.get_range(key, offset, length)
        self._received(len(data))
        return data

    def stat(self, key: str) -> ObjectInfo:
        """See `ObjectStore`."""
        return self._inner.stat(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `ObjectStore`."""
        return self._inner.list(prefix)

    def delete(self, key: str) -> None:
        """See `ObjectStore`."""
        self._inner.delete(key)

    def purge(self, key: str) -> None:
        """See `ObjectStore`."""
        self._inner.purge(key)

    def clock(self) -> float:
        """See `ObjectStore`."""
        return self._inner.clock()

    def probe(self) -> Capabilities:
        """See `ObjectStore`."""
        return self._inner.probe()

    def below(self, prefix: str) -> ThrottledStore:
        """See `ObjectStore`. At the same pace: what is below shares it."""
        return ThrottledStore(self._inner.below(prefix), self._throttle)

    def close(self) -> None:
        """See `ObjectStore`."""
        self._inner.close()

    def _sends(self, count: int) -> None:
        if self._throttle.upload is not None:
            self._throttle.upload.pay(count)

    def _received(self, count: int) -> None:
        if self._throttle.download is not None:
            self._throttle.download.pay(count)


class _ThrottledStaged:
    """A `Staged` whose bytes wait before they are written."""

    def __init__(self, inner: Staged, sends: Callable[[int], None]) -> None:
        self._inner = inner
        self._sends = sends

    def write(self, data: Buffer) -> None:
        """See `Staged`."""
        self._sends(memoryview(data).nbytes)
        self._inner.write(data)

    def publish(self, key: str, *, sha256: str) -> None:
        """See `Staged`."""
        self._inner.publish(key, sha256=sha256)

    def discard(self) -> None:
        """See `Staged`."""
        self._inner.discard()
