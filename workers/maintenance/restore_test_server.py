"""The part of a restore test that has a scratch server: the stream goes into it, and its check decides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shared.errors import RestoreError
from shared.repository.errors import Damaged
from workers.maintenance.restore_test_spec import RestoreTestReport, RestoreTestSpec
from workers.maintenance.scratch_server import ScratchServer
from workers.programs.program import ProgramFailed
from workers.restore.into import run_into
from workers.restore.spec import RestoreSpec

OnEvent = Callable[[dict[str, Any]], None]
_STREAM = "/stream"


def serve_and_check(spec: RestoreTestSpec, report: RestoreTestReport, folder: str, on_event: OnEvent) -> None:
    """Fill a scratch server from the snapshot that `report` names, and check it; what is wrong goes into `report`.

    Raises ProgramFailed or ConfigError where there is no server, RestoreError where the snapshot is no stream, and what
    reading raises but for damage.
    """
    if spec.scratch is None:
        return

    def look() -> None:
        size = {"bytes": report.bytes, "bytes_total": report.bytes_total, "errors": report.errors}
        on_event({"event": "progress", "phase": "scratch", "files": report.files, "files_total": 1, **size})

    report.server = True
    with ScratchServer(spec.scratch, folder, look) as server:

        def told(event: dict[str, Any]) -> None:
            server.look_after()
            on_event(event)

        restore = RestoreSpec(
            site=spec.site,
            repository=spec.repository,
            passwords=spec.passwords,
            snapshot=report.snapshot,
            source=spec.source,
            into=server.fill,
            lock=spec.lock,
            cache_dir=spec.cache_dir,
            state_dir=spec.state_dir,
        )
        try:
            result = run_into(restore, told)
        except ProgramFailed as error:
            report.add(_STREAM, f"the scratch server was not filled: {error.args[0]}")
            return
        except Damaged as error:
            report.add_snapshot(report.snapshot, str(error.args[0]))
            return
        except RestoreError as error:
            raise RestoreError(
                f"source {spec.source} has a scratch server, and snapshot {report.snapshot[:8]} is no stream: "
                f"{error.args[0]}",
                hint="Take `scratch` away, or name another snapshot",
            ) from None
        report.files, report.bytes, report.duration = 1, result.bytes, result.duration
        report.rate = report.bytes / report.duration if report.duration > 0 else 0.0
        report.notes += result.notes
        if not result.complete:
            report.add(result.path, "the scratch server did not take all of it")
            return
        try:
            report.said = server.check()
        except ProgramFailed as error:
            report.add(result.path, f"the scratch server was filled, and its check failed: {error.args[0]}")
            return
        report.verified = 1
