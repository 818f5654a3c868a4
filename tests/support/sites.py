"""A shop with several sites."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

from cli.main import main
from tests.support.command import Shop


class Sites(Shop):
    """A shop. What starts no engine runs in this process, as an interpreter's start costs more than all it does."""

    def run(self, *arguments: str, code: int = 0) -> str:
        """As a process's."""
        if "--direct" in arguments:
            return Shop.run(self, *arguments, code=code)
        out, err = io.StringIO(), io.StringIO()
        with contextlib.chdir(self.conf), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            got = main(arguments)
        said = out.getvalue() + err.getvalue()
        assert got == code, f"{arguments}: exit code {got}\n{said}"
        return said


def open_sites(base: Path, sites: str, policy: str = "") -> Shop:
    """A shop whose source `data` is backed up to site a."""
    shop = Sites(base)
    shop.conf.mkdir()
    shop.data.mkdir()
    (shop.data / "file").write_text("first\n")
    for name, text in (("secret", "0123456789abcdef" * 4), ("recovery", "a recovery password")):
        (shop.conf / name).write_text(text)
        (shop.conf / name).chmod(0o600)
    (shop.conf / "holdfast.yaml").write_text(
        "secret: {file: secret}\nrecovery_password: {file: recovery}\nexporter: {listen: 'off'}\n"
        f"sites: {{{sites}}}\npolicies: {{all: {{primary: a, full: 1d, retention: {{keep_last: 1}}{policy}}}}}\n"
        f"sources: {{data: {{paths: [{shop.data}]}}}}\n"
    )
    return shop
