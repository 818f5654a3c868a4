"""What idle agents cost: `python -m benchmarks.agents [AGENTS] [SECONDS]`, real ones, on a Valkey of its own with ACLs.

Each is a process with a user of its own, as on its own server. Prints connections, commands, Redis's CPU time and
memory per agent, and what that comes to for 10,000; and the memory of an agent. A part of `make bench-fleet`, too.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from statistics import mean

import redis

from benchmarks.figures import Figure, table
from shared.agents import acl
from shared.agents.identity import redis_user
from tests.support.tools import ValkeyServer

AGENTS, SECONDS = 200, 60
PROJECTED = 10_000
_AT_ONCE = 8  # that start at the same time
_FILE = """\
agent: {host}
machine_passwords: {{file: passwords}}
state_dir: {base}/state
cache_dir: {base}/cache
regions: {{local: {{broker: "{url}"}}}}
sites: {{a: {{url: {base}/site}}}}
"""


def figures(agents: int = AGENTS, seconds: int = SECONDS) -> Iterator[Figure]:
    """What they cost."""
    started: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory() as base, ValkeyServer(os.path.join(base, "valkey")) as server:
        client = redis.Redis.from_url(server.url, decode_responses=True)
        hosts = [f"web{number:05}" for number in range(agents)]
        acl.set_agents(client, [(host, "pw") for host in hosts])
        before = client.info()
        try:
            for number, host in enumerate(hosts):
                started.append(start(base, server.url, host))
                while number - standing(client, hosts) >= _AT_ONCE:
                    time.sleep(0.1)
            while standing(client, hosts) < agents:
                time.sleep(0.1)
            time.sleep(10)
            first = client.info()
            time.sleep(seconds)
            last = client.info()
            memory = [pss(process.pid) for process in started]
        finally:
            for process in started:
                process.kill()
            for process in started:
                process.wait()
    connections = (last["connected_clients"] - before["connected_clients"]) / agents
    commands = (last["total_commands_processed"] - first["total_commands_processed"]) / seconds / agents
    cpu = sum(last[key] - first[key] for key in ("used_cpu_user", "used_cpu_sys")) / seconds
    held = (last["used_memory"] - before["used_memory"]) / agents
    many = f"{PROJECTED:,} agents"
    yield Figure(f"memory of an idle agent (PSS), of {agents}", mean(memory) / 1024, "MB", "< 60")
    yield Figure("connections of an agent", connections, "", "", f"{many}: {connections * PROJECTED:,.0f}")
    yield Figure("commands of an agent", commands, "a second", "", f"{many}: {commands * PROJECTED:,.0f}")
    core = cpu / agents * PROJECTED * 100
    yield Figure(
        "Redis's CPU time for an agent", cpu / agents * 1e6, "us a second", "", f"{many}: {core:.0f} % of a core"
    )
    yield Figure("Redis's memory for an agent", held / 1000, "KB", "", f"{many}: {held * PROJECTED / 1e6:.0f} MB")


def start(base: str, url: str, host: str) -> subprocess.Popen[bytes]:
    """An agent with a file of its own."""
    path = os.path.join(base, f"{host}.d", "holdfast.yaml")
    os.makedirs(os.path.dirname(path))
    with open(path, "w") as file:
        file.write(_FILE.format(host=host, base=base, url=url.replace("//", f"//{redis_user(host)}:pw@")))
    command = [sys.executable, "-m", "workers.agent", "--config", path, "--host", host]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def standing(client: redis.Redis, hosts: list[str]) -> int:
    """How many are on the roll."""
    pipe = client.pipeline(transaction=False)
    for host in hosts:
        pipe.exists(f"hf:h:{host}:workers")
    return sum(pipe.execute())


def pss(pid: int) -> int:
    """KiB of memory that a process holds, what it shares counted in parts."""
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pss:"))


if __name__ == "__main__":
    for one in figures(*map(int, sys.argv[1:])):
        print(table([one]).splitlines()[-1], flush=True)
