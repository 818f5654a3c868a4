"""What the demo showed, as one HTML page that needs nothing else."""

from __future__ import annotations

import html
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Holdfast: what the demo showed</title>
<style>
 body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 3rem auto; padding: 0 1rem; color: #1a1a1a }}
 h1 {{ font-size: 1.6rem }} h2 {{ font-size: 1.15rem; margin-top: 2rem }} .said {{ color: #555 }}
 table {{ border-collapse: collapse; width: 100% }}
 td, th {{ padding: .45rem .6rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top }}
 td.n {{ text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums }}
</style>
<h1>Holdfast: what the demo showed</h1>
<p class="said">{when}, on {machine}; the sites are {sites}.</p>
<h2>Measured</h2>
<table>{measures}</table>
<h2>Step by step</h2>
<table><tr><th></th><th>what was shown</th><th>seconds</th></tr>{steps}</table>
</html>
"""


def page(steps: Sequence[tuple[str, float]], measures: Mapping[str, str], sites: str) -> str:
    """The page. `steps`: what each showed, and its seconds."""
    rows = (
        f'<tr><td class="n">{number}</td><td>{html.escape(line)}</td><td class="n">{seconds:.1f}</td></tr>'
        for number, (line, seconds) in enumerate(steps, 1)
    )
    figures = (f"<tr><th>{html.escape(name)}</th><td>{html.escape(said)}</td></tr>" for name, said in measures.items())
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}"
    return _PAGE.format(
        when=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        machine=html.escape(machine),
        sites=html.escape(sites),
        measures="".join(figures),
        steps="".join(rows),
    )
