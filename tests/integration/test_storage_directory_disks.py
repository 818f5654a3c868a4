"""A directory site on disks of every kind: full, read-only, stale, failing, without links or locks."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import resource
from pathlib import Path

import pytest

from shared.storage import Denied, Permanent, StoreFull, Transient, open_store
from shared.storage.directory import DirectoryStore
from shared.storage.durable import TEMPORARY_PREFIX
from shared.storage.retry import RetryPolicy
from tests.support.namespaces import run_mounted
from tests.support.stores import unprivileged


def _temporaries(root: Path) -> list[Path]:
    return [path for path in root.rglob(f"{TEMPORARY_PREFIX}*") if path.is_file()]


def test_staging_on_a_full_disk_is_a_full_store(tmp_path: Path) -> None:
    """The message says where and what to do; when it is discarded its space is free again."""
    store = open_store(str(tmp_path), name="fra")
    staged = store.stage("data/")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(StoreFull, match=rf"site fra: full: PUT data/ at {tmp_path} \(EFBIG: .*"):
            staged.write(b"x" * 1_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    staged.discard()
    assert _temporaries(tmp_path) == []


def test_a_full_disk_is_told_and_keeps_what_was_whole(tmp_path: Path) -> None:
    """On a disk of 1 MiB: StoreFull with the key and a way out; the old object stands; nothing unfinished stays."""
    script = """
import json, os, sys
from shared.storage import StoreFull, open_store
store = open_store(sys.argv[1], name="fra")
store.put("data/aa/1", b"old")
try:
    store.put("data/aa/1", b"x" * (2 << 20))
except StoreFull as error:
    said = str(error)
print(json.dumps([said, store.get("data/aa/1").decode(), os.listdir(sys.argv[1] + "/data/aa")]))
"""
    printed = run_mounted(script, str(tmp_path), mounts='mount -t tmpfs -o size=1m tmpfs "$1"')
    said, kept, names = json.loads(printed)
    expected = f"site fra: full: PUT data/aa/1 at {tmp_path} (ENOSPC: No space left on device). Free space there"
    assert said.startswith(expected)
    assert (kept, names) == ("old", ["1"])


def test_a_limit_on_file_size_is_a_full_store(tmp_path: Path) -> None:
    """The same for whoever may not mount: RLIMIT_FSIZE stops the write in the middle."""
    store = open_store(str(tmp_path))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(StoreFull, match="EFBIG"):
            store.put("data/aa/1", b"x" * 1_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(store.list("")) == []
    assert _temporaries(tmp_path) == []


def test_a_read_only_disk_denies_writing_and_serves_reading(tmp_path: Path) -> None:
    """EROFS: puts, deletes and the clock are denied with a way out; reading and listing work."""
    open_store(str(tmp_path)).put("a/b", b"1")
    script = """
import json, sys
from shared.storage import Denied, open_store
store = open_store(sys.argv[1], name="fra")
_, version = store.get_versioned("a/b")
said = []
for use in (
    lambda: store.put("a/c", b""),
    lambda: store.put_if_absent("new/c", b""),
    lambda: store.compare_and_swap("a/b", b"", version=version),
    lambda: store.delete("a/b"),
    store.clock,
):
    try:
        use()
    except Denied as error:
        said.append(str(error))
print(json.dumps([said, store.get("a/b").decode(), [info.key for info in store.list("")]]))
"""
    printed = run_mounted(script, str(tmp_path), mounts='mount --bind "$1" "$1"; mount -o remount,ro,bind "$1"')
    said, data, keys = json.loads(printed)
    assert len(said) == 5
    assert said[0].startswith(
        f"site fra: denied: PUT a/c at {tmp_path} (EROFS: Read-only file system). The file system"
    )
    assert (data, keys) == ("1", ["a/b"])


def test_a_directory_without_rights_denies() -> None:
    """EACCES, for a user who may look but not write: the message says who needs what."""
    with unprivileged() as path:
        store = open_store(path, name="fra")
        with pytest.raises(Denied, match=r"PUT a/b at .*EACCES.*Give the user that runs Holdfast"):
            store.put("a/b", b"1")
        with pytest.raises(Denied, match="EACCES"):
            store.put_if_absent("a", b"1")
        assert list(store.list("")) == []


def test_a_stale_mount_is_tried_again_and_a_failing_disk_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ESTALE passes within the deadline; EIO is reported at once."""
    waits: list[float] = []
    store = DirectoryStore(str(tmp_path), retry=RetryPolicy(deadline=5.0, sleep=waits.append))
    real, answers = os.rename, [errno.ESTALE, errno.ESTALE]

    def rename(*args: object, **kwargs: object) -> None:
        if answers:
            number = answers.pop()
            raise OSError(number, os.strerror(number))
        real(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "rename", rename)
    store.put("a", b"1")
    assert (len(waits), store.get("a")) == (2, b"1")
    answers.append(errno.EIO)
    with pytest.raises(Permanent, match=r"EIO: Input/output error.*dmesg"):
        store.put("a", b"2")
    assert (len(waits), store.get("a"), _temporaries(tmp_path)) == (2, b"1", [])


def test_a_file_system_without_hard_links_is_named_by_the_probe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """put-if-absent fails with the reason, and the probe tells what follows for the site."""

    def link(*_: object, **__: object) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(os, "link", link)
    found = open_store(str(tmp_path)).probe()
    assert (found.put_if_absent, found.compare_and_swap) == (False, True)
    assert "makes no hard links" in found.notes[0]
    assert "two runs at once may commit twice" in found.notes[0]


def test_a_held_lock_is_waited_for_until_the_deadline(tmp_path: Path) -> None:
    """A process that sits on the directory's lock stops a swap with a clear error, and not for ever."""
    store = open_store(str(tmp_path), deadline=0.2)
    store.put("a", b"1")
    _, version = store.get_versioned("a")
    fd = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with pytest.raises(Transient, match=r"given up after .* tries"):
        store.compare_and_swap("a", b"2", version=version)
    os.close(fd)
    assert store.compare_and_swap("a", b"2", version=version) is True


def test_a_lock_file_serves_where_directories_cant_be_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on NFS: swaps still exclude each other, and the lock file is not listed."""
    real = fcntl.flock

    def flock(fd: int, how: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{fd}"):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        real(fd, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    store = open_store(str(tmp_path))
    store.put("a", b"1")
    _, version = store.get_versioned("a")
    assert store.compare_and_swap("a", b"2", version=version) is True
    assert store.compare_and_swap("a", b"3", version=version) is False
    assert [info.key for info in store.list("")] == ["a"]
    store.delete("a")
    assert list(store.list("")) == []
