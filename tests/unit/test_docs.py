"""The documents say what the code does: constants, settings, commands, and every link leads somewhere."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import click
import pytest
from pydantic import BaseModel

from cli.effective import size
from cli.main import holdfast
from shared.config import around, failover, health, inventory, limits, models, preset, scheduling
from shared.config.loader import load_text
from shared.config.programs import KEPT
from shared.config.secrets import Secret
from shared.messaging import events
from shared.repository import (
    chunker,
    compression,
    crypto,
    index,
    keys,
    locks,
    pack,
    polynomial,
    snapshotcache,
    tree,
)
from shared.repository.absent import DOOMED, QUARANTINE
from shared.repository.committed import COMMITS, FORGOTTEN
from shared.repository.holds import HOLDS
from shared.repository.indexcache import layout
from shared.repository.repository import VERSION
from shared.repository.snapshot import Snapshot, encode_snapshot, make_tags
from shared.repository.status import (
    DECIDING_AT_MOST,
    LARGEST,
    NEWEST,
    OLDER_AT_MOST,
    STATUS,
    TEXTS_AT_MOST,
)
from shared.storage.durable import TEMPORARY_PREFIX
from workers.backup.engine import known, treecache
from workers.backup.hooks import Hooks
from workers.maintenance import treecheck

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
FORMAT = (ROOT / "docs/format.md").read_text()
CONFIGURATION = (ROOT / "docs/configuration.md").read_text()
README = (ROOT / "README.md").read_text()


def table(text: str, *head: str) -> list[list[str]]:
    """The rows of the table with these headings, as cells."""
    lines = iter(text.splitlines())
    for line in lines:
        if cells(line) == list(head):
            next(lines)  # the rule below the headings
            rows = []
            for row in lines:
                if not row.startswith("|"):
                    break
                rows.append(cells(row))
            return rows
    raise AssertionError(f"there is no table {head}")


def cells(line: str) -> list[str]:
    """The cells of a table's row."""
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def codes(text: str) -> list[str]:
    """What stands between backticks."""
    return re.findall(r"`([^`]+)`", text)


def numbers(rows: list[list[str]], name: int, value: int) -> dict[str, float]:
    """One column of a table by another; of the value its leading number."""
    return {row[name]: float(row[value].split()[0]) for row in rows}


def prose(text: str) -> str:
    """Everything but fenced blocks."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as the usual viewers make them."""
    headings = re.findall(r"^#+ (.+)$", prose(page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def source_files() -> Iterator[Path]:
    """The project's own files that may name a page."""
    for folder in ("shared", "workers", "scheduler", "cli", "deploy", "benchmarks"):
        yield from (path for path in (ROOT / folder).rglob("*.py"))
    yield from (ROOT / "pyproject.toml", ROOT / "Makefile")


# -- links ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    """Each relative link names a file that exists, and a heading of it where it has an anchor."""
    missing = []
    for target in re.findall(r"\]\(([^)]+)\)", prose(page.read_text())):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        other = (page.parent / name).resolve() if name else page
        if not other.exists() or (anchor and anchor not in anchors(other)):
            missing.append(target)
    assert missing == []


def test_every_page_that_the_code_names_exists() -> None:
    """A hint, or a comment, that sends a reader to docs/ sends him to something; anchors included."""
    missing = []
    for path in source_files():
        for name, anchor in re.findall(r"docs/([\w./-]+\.md)(#[\w-]+)?", path.read_text()):
            page = ROOT / "docs" / name
            if not page.exists() or (anchor and anchor[1:] not in anchors(page)):
                missing.append((str(path.relative_to(ROOT)), name + anchor))
    assert missing == []


def test_each_decision_is_a_page() -> None:
    """A decision is read in one go."""
    longest = {page.name: len(page.read_text().splitlines()) for page in ROOT.glob("docs/decisions/*.md")}
    assert {name: lines for name, lines in longest.items() if lines > 80} == {}


def test_every_page_is_in_the_index() -> None:
    """docs/README.md leads to each page beside it."""
    listed = set(re.findall(r"\]\(([\w.-]+\.md)\)", (ROOT / "docs/README.md").read_text()))
    assert listed == {page.name for page in ROOT.glob("docs/*.md")} - {"README.md"}


def test_the_commands_that_the_pages_show_exist() -> None:
    """Each `holdfast ...` in a block or between backticks of a page, or in a unit of systemd, with its options."""
    context = holdfast.make_context("holdfast", ["version"])
    wrong = []
    for page in [*ROOT.glob("docs/*.md"), *ROOT.glob("deploy/systemd/*.service")]:
        text = page.read_text()
        shown = re.findall(r"`holdfast ([^`\n]+)`", text)
        for block in re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            shown += re.findall(r"^(?:\$ )?holdfast (.+)$", block, re.MULTILINE)
        shown += re.findall(r"^ExecStart=\S*/holdfast (.+)$", text, re.MULTILINE)
        wrong += [(page.name, line) for line in shown if not is_command(context, line)]
    assert wrong == []


def is_command(context: click.Context, line: str) -> bool:
    """Whether a command line, without `holdfast`, names commands and options that there are."""
    words = re.sub(r"^(?:(?:-c|--config) \S+ )", "", line.partition(" -- ")[0].partition("#")[0]).split()
    if re.fullmatch(r"--[\w-]+|[A-Z]+|\.\.\.", words[0]):
        return True  # options of all commands, or any command
    command = holdfast.get_command(context, words[0])
    if isinstance(command, click.Group) and len(words) > 1 and words[1] in command.commands:
        command = command.commands[words[1]]
    if isinstance(command, click.Group) and command.commands:
        command = command.commands["list"]
    taken = {option for parameter in command.params for option in parameter.opts} if command else set()
    return command is not None and {word.rstrip(",;") for word in re.findall(r"--[\w-]+", line)} <= taken | {"--"}


# -- docs/format.md -------------------------------------------------------------------------------


def test_sealed_bytes_are_as_documented() -> None:
    """Offsets and sizes of IV, ciphertext and tag, and the parts of the master key."""
    rows = [(row[0], row[1]) for row in table(FORMAT, "offset", "bytes", "sealed data")]
    assert rows == [("0", str(crypto.IV_SIZE)), (str(crypto.IV_SIZE), "n"), ("16 + n", str(crypto.TAG_SIZE))]
    assert f"sealing adds {crypto.OVERHEAD} bytes" in FORMAT
    key = crypto.MasterKey.from_bytes(bytes(range(1, 65)))
    parts = [(int(row[0]), int(row[1])) for row in table(FORMAT, "offset", "bytes", "master key")]
    assert [key.to_bytes()[at : at + size] for at, size in parts] == [key.encrypt, key.k, key.r]


def test_key_files_are_as_documented() -> None:
    """The scrypt parameters of both key files, and the size of the salt."""
    rows = {row[0]: [int(cell) for cell in row[1:]] for row in table(FORMAT, "key file", "N", "r", "p", "salt, bytes")}
    assert rows == {
        "recovery password": [keys.RECOVERY_N, 8, 1, keys._SALT_SIZE],
        "machine password": [keys.MACHINE_N, 8, 1, keys._SALT_SIZE],
    }
    made = json.loads(keys.make_key_file(crypto.MasterKey.from_bytes(bytes(range(1, 65))), "x" * 8))
    named = re.search(r"\*\*keys/ID\*\*: `\{([^`]+)\}`", FORMAT)
    assert named is not None
    assert [part.split('"')[1] for part in named.group(1).split(",")] == list(made)


def test_pack_headers_are_as_documented() -> None:
    """The bytes of each kind of entry, and the bounds of a pack."""
    sizes = {int(row[0]): int(row[2]) for row in table(FORMAT, "type", "what", "bytes", "fields")}
    plain, packed = pack.ENTRY_PLAIN.size, pack.ENTRY_COMPRESSED.size
    flag = pack.COMPRESSED_FLAG
    data, trees = pack.BlobType.DATA, pack.BlobType.TREE
    assert sizes == {data: plain, trees: plain, data | flag: packed, trees | flag: packed}
    mib = 1 << 20
    assert f"once it holds {pack.TARGET_SIZE // mib} MiB" in FORMAT
    assert f"{pack.TARGET_MIN // mib} to {pack.TARGET_MAX // mib} MiB" in FORMAT
    assert f"at most {pack.HEADER_MAX // mib} MiB" in FORMAT
    assert f"{compression.DATA_BLOB_MAX // mib} MiB of data, {compression.TREE_BLOB_MAX >> 30} GiB of tree" in FORMAT
    assert f"sealed(0x{compression.SMALL_FILE_MARK:02x} | zstd" in FORMAT
    assert f'"version":{VERSION},' in FORMAT


def test_index_files_are_as_documented() -> None:
    """When one is written."""
    assert (
        f"after {index.FLUSH_BLOBS:,} blobs, {known.FLUSH_BYTES >> 20} MiB of packs or {known.FLUSH_SECONDS:.0f} s"
        in FORMAT
    )


def test_the_fields_of_a_snapshot_are_as_documented() -> None:
    """All of them, in their order."""
    full = Snapshot(
        time=1, tree=bytes(32), paths=[b"/"], hostname="h", username="u", uid=1, gid=1, excludes=["x"], tags=["t"]
    )
    full.parent, full.original, full.program_version, full.summary = "p", "o", "v", {"a": 1}
    section = FORMAT.partition("## Snapshots")[2].partition("`time` is")[0]
    assert [name.rstrip("?") for name in codes(section.partition("empty:")[2])] == list(
        json.loads(encode_snapshot(full))
    )


def test_the_tags_of_a_snapshot_are_as_documented() -> None:
    """Each tag that is made, and no other."""
    tags = make_tags(
        source="s", run="r", kind="full", slot="t", last_full="l", unreadable=1, began=1, more=["hf.policy=p"]
    )
    documented = {codes(row[0])[0] for row in table(FORMAT, "tag", "value", "when")}
    assert documented == {tag.partition("=")[0] for tag in tags}


def test_the_fields_of_a_node_are_as_documented() -> None:
    """All of them, in their order, and those left out when empty marked so."""
    full = tree.Node(b"n\xff", "symlink", content=[], subtree=bytes(32), linktarget=b"\xff", xattrs=((b"a", b"b"),))
    full.mode = full.inode = full.device_id = full.size = full.links = full.device = 1
    full.user = full.group = full.error = "x"
    full.generic_attributes = b'{"a":1}'
    documented = [name for row in table(FORMAT, "field", "") for name in codes(row[0])]
    assert [name.rstrip("?") for name in documented] == list(json.loads(tree.encode_node(full)))
    least = json.loads(tree.encode_node(tree.Node(b"n", "file")))
    assert [name for name in documented if not name.endswith("?")] == list(least)
    assert {name.rstrip("?") for name in documented} == treecheck._FIELDS
    types = next(row[1] for row in table(FORMAT, "field", "") if row[0] == "`type`")
    assert set(codes(types)) == tree.NODE_TYPES


def test_the_bits_of_a_mode_are_as_documented() -> None:
    """Go's FileMode."""
    rows = {row[1].partition(",")[0]: row[0] for row in table(FORMAT, "bit of `mode`", "meaning")}
    got = {name: 1 << int(bit) for name, bit in rows.items() if bit.isdigit()}
    assert got == {
        "sticky": tree.MODE_STICKY,
        "character device": tree.MODE_CHARDEV,
        "setgid": tree.MODE_SETGID,
        "setuid": tree.MODE_SETUID,
        "socket": tree.MODE_SOCKET,
        "fifo": tree.MODE_FIFO,
        "device": tree.MODE_DEVICE,
        "symlink": tree.MODE_SYMLINK,
        "directory": tree.MODE_DIR,
    }


def test_the_chunker_is_as_documented() -> None:
    """Its parameters, the seed's label, and the level of compression."""
    assert numbers(table(FORMAT, "parameter", "value"), 0, 1) == {
        "least": chunker.MIN_SIZE,
        "average": chunker.AVERAGE_SIZE,
        "most": chunker.MAX_SIZE,
        "normalisation": chunker.NORMALISATION,
        "zstd level": compression.DEFAULT_LEVEL,
    }
    key = crypto.MasterKey.from_bytes(bytes(range(1, 65)))
    import hashlib
    import hmac

    label = re.search(r'HMAC-SHA256\(key = master key, "([^"]+)"\)', FORMAT)
    assert label is not None
    digest = hmac.new(key.to_bytes(), label.group(1).encode(), hashlib.sha256).digest()
    assert chunker.seed_for(key) == int.from_bytes(digest[:8], "big") & (2**63 - 1)


def test_what_is_derived_is_as_documented(monkeypatch: pytest.MonkeyPatch) -> None:
    """The info of each derivation and the bytes taken; the degree of the polynomial."""
    asked: list[tuple[str, int]] = []
    real = keys.HKDF

    def listening(algorithm: Any, length: int, *, salt: bytes | None, info: bytes) -> Any:
        asked.append((info.decode(), length))
        return real(algorithm, length, salt=salt, info=info)

    monkeypatch.setattr(keys, "HKDF", listening)
    keys.derived_master_key(b"s" * 32, "web1")
    keys.derived_config(b"s" * 32, "web1")
    documented = []
    for row in table(FORMAT, "what", "how", "bytes")[1:]:
        info = re.search(r'"(holdfast [^"]+)"', row[1])
        assert info is not None
        documented.append((info.group(1).replace("<repository>", "web1").replace("<n>", "0"), int(row[2])))
    assert documented == asked[: len(documented)]
    assert len(keys.machine_password(b"s" * 32, "web1")) == keys.MACHINE_PASSWORD_LENGTH
    assert table(FORMAT, "what", "how", "bytes")[0][2] == str(keys.MACHINE_PASSWORD_LENGTH)
    assert f"degree {polynomial.DEGREE} " in FORMAT


def test_locks_are_as_documented() -> None:
    """The waits of the lock protocol."""
    seconds = [float(row[1]) for row in table(FORMAT, "lock", "seconds")]
    assert seconds == [locks.WAIT, locks.REFRESH, locks.STALE]


def test_our_own_objects_are_as_documented() -> None:
    """Each place below holdfast/, and what local caches begin with."""
    section = FORMAT.partition("## Holdfast's own objects")[2]
    places = [codes(row[0])[0].partition("<")[0] for row in table(section, "place", "what")]
    assert places == [STATUS, COMMITS, QUARANTINE, DOOMED, FORGOTTEN, HOLDS]
    for number in (NEWEST, DECIDING_AT_MOST, OLDER_AT_MOST, TEXTS_AT_MOST, LARGEST >> 20):
        assert f"{number:,} " in section.partition("### The status")[2].partition("### ")[0]
    assert f"`{layout.MAGIC.decode()}`" in FORMAT
    assert f"`{snapshotcache.MAGIC.decode()}`" in FORMAT
    assert json.dumps(treecache._MAGIC.decode()) in FORMAT
    assert f"`{TEMPORARY_PREFIX}...`" in FORMAT


# -- docs/configuration.md ------------------------------------------------------------------------

SECTIONS: dict[str, type[BaseModel]] = {
    "The file itself": models.FleetFile,
    "`defaults`": models.Defaults,
    "`exporter`": models.Exporter,
    "`failover`": failover.Failover,
    "`failover.hooks`": failover.FailoverHooks,
    "`inventory`": inventory.Inventory,
    "`health`": health.Health,
    "`limits`": limits.Limits,
    "`scheduling`": scheduling.Scheduling,
    "A rate by the hour": limits.Bandwidth,
    "A window": limits.Window,
    "`sites.<name>.limits`": limits.SiteLimits,
    "`regions.<name>`": models.Region,
    "`sites.<name>`": models.Site,
    "`policies.<name>`": models.Policy,
    "`policies.<name>.blackout`": scheduling.Blackout,
    "`policies.<name>.copies`": models.Copies,
    "`policies.<name>.retention`": models.Retention,
    "`policies.<name>.retention.sites.<site>`": models.Keep,
    "`sources.<id>`": models.Source,
    "`sources.<id>.hooks`": around.Hooks,
    "`sources.<id>.scratch`": around.Scratch,
    "`restore_into.<name>`": around.Into,
    "Secrets": Secret,
}


def documented_keys() -> dict[str, dict[str, list[str]]]:
    """Of each section the rows of its tables by key."""
    found: dict[str, dict[str, list[str]]] = {}
    section = ""
    for line in CONFIGURATION.splitlines():
        if line.startswith("#"):
            section = line.lstrip("# ")
        elif line.startswith("| `"):
            found.setdefault(section, {})[codes(cells(line)[0])[0]] = cells(line)
    return {name: rows for name, rows in found.items() if name in SECTIONS}


def test_every_setting_is_documented() -> None:
    """Each key that a model takes stands in its section, and the page invents none."""
    assert {name: sorted(rows) for name, rows in documented_keys().items()} == {
        name: sorted(model.model_fields) for name, model in SECTIONS.items()
    }


def test_what_is_required_is_documented() -> None:
    """A key is called required where the file can't be without it."""
    always = {"`sites.<name>`": {"credentials"}}  # of S3 sites alone
    for name, rows in documented_keys().items():
        said = {key for key, row in rows.items() if row[2].startswith("required")} - always.get(name, set())
        assert said == {key for key, field in SECTIONS[name].model_fields.items() if field.is_required()}, name


def test_the_choices_of_a_setting_are_documented() -> None:
    """Where a key takes one of some words, the page names them all."""
    for name, rows in documented_keys().items():
        for key, field in SECTIONS[name].model_fields.items():
            words = [word for word in get_args(field.annotation) if isinstance(word, str) and word]
            if words:
                assert codes(rows[key][1]) == words, f"{name} {key}"


def test_the_default_of_a_setting_is_documented() -> None:
    """Where a key has a value when it is left out, the page gives it; none and empty values are said in words."""
    for name, rows in documented_keys().items():
        for key, field in SECTIONS[name].model_fields.items():
            default = field.default
            if isinstance(default, bool):
                shown = str(default).lower()
            elif isinstance(default, int):
                shown = size(default) if key in {"pack_size", "min_free"} else str(default)
            elif isinstance(default, str) and default:
                shown = default
            else:
                continue
            assert rows[key][2].replace("`", "").startswith(shown), f"{name} {key}"


def test_the_example_is_a_configuration() -> None:
    """The whole example loads as it stands."""
    example = re.search(r"```yaml\n(.*?)```", CONFIGURATION, re.DOTALL)
    assert example is not None
    loaded = load_text(example.group(1), "/etc/holdfast/holdfast.yaml")
    assert (list(loaded.sites), list(loaded.sources)) == (["fra"], ["web1", "db/orders"])


# -- docs/databases.md ------------------------------------------------------------------------------

DATABASES = (ROOT / "docs/databases.md").read_text()


def test_every_preset_is_documented() -> None:
    """Each that is built in, with its options, those that are required apart, its file, and how it comes back."""
    rows = {
        codes(row[0])[0]: row for row in table(DATABASES, "preset", "options (*required*)", "file", "it comes back by")
    }
    assert sorted(rows) == sorted(name.removesuffix(".yaml") for name in os.listdir(preset.BUILT_IN))
    for name, row in rows.items():
        one = preset.load(os.path.join(preset.BUILT_IN, f"{name}.yaml"))
        assert codes(row[1]) == list(one.options), name
        assert re.findall(r"\*`(\w+)`\*", row[1]) == [key for key, option in one.options.items() if option.required], (
            name
        )
        assert [codes(row[2])[0], codes(row[3])[0]] == [one.filename, one.restore], name
    told = [name for row in table(DATABASES, "preset", "what it needs, and what it is") for name in codes(row[0])]
    assert sorted(told) == sorted(rows)


def test_the_variables_of_programs_are_documented() -> None:
    """What is kept of the worker's environment; what hooks are told."""
    kept = re.search(r"Its environment is (.*?) of the worker", DATABASES)
    assert kept is not None
    assert codes(kept.group(1)) == list(KEPT)
    told = [codes(row[0])[0] for row in table(DATABASES, "variable", "what")]
    spec = SimpleNamespace(
        source="s", kind="full", hooks=None, state_dir="/s", cache_dir="", repository="r", tagged="s"
    )
    assert told == list(Hooks(spec)._variables("r", ""))  # type: ignore[arg-type] # of a spec it needs no more


def test_the_examples_of_sources_are_sources(tmp_path: Path) -> None:
    """Each block of the page loads: sources, and a preset of one's own."""
    blocks = re.findall(r"```yaml\n(.*?)```", DATABASES, re.DOTALL)
    top = "secret: {file: s}\nrecovery_password: {file: r}\nsites: {a: {url: /srv/a}}\n"
    for block in blocks:
        if block.startswith("sources:"):
            assert load_text(top + block, "/etc/holdfast/holdfast.yaml").sources
        else:
            file = tmp_path / "one.yaml"
            file.write_text(block)
            assert preset.load(str(file)).options


# -- docs/sites.md, README.md, docs/architecture.md -------------------------------------------------


def test_the_s3_policies_are_json() -> None:
    """They can be copied as they stand."""
    blocks = re.findall(r"```json\n(.*?)```", (ROOT / "docs/sites.md").read_text(), re.DOTALL)
    statement = {"Effect", "Action", "Resource"}
    assert [set(json.loads(block)) for block in blocks] == [{"Version", "Statement"}, statement, statement]


def test_the_readme_shows_commands_that_exist() -> None:
    """Each `holdfast` and `make` in a README's block is one, with options that it takes."""
    blocks = "\n".join(re.findall(r"^```\n(.*?)^```", README, re.MULTILINE | re.DOTALL))
    shown = re.findall(r"^\$ holdfast (\w+)(.*)$", blocks, re.MULTILINE)
    context = holdfast.make_context("holdfast", ["version"])
    for name, rest in shown:
        command = holdfast.get_command(context, name)
        assert command is not None, name
        taken = {option for parameter in command.params for option in parameter.opts}
        assert set(re.findall(r"--[\w-]+", rest)) <= taken
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^(?:\$ )?|`)make (\w+)", README, re.MULTILINE)) <= targets


def test_every_command_stands_in_the_readme() -> None:
    """A newcomer meets each command that there is, but for `version`."""
    context = holdfast.make_context("holdfast", ["version"])
    names = set(holdfast.list_commands(context)) - {"version"}
    assert {name for name in names if f"holdfast {name}" not in README and f"`{name}`" not in README} == set()


def test_every_event_is_documented() -> None:
    """The types of events that are published stand in the architecture's page."""
    page = (ROOT / "docs/architecture.md").read_text()
    types = [value for name, value in vars(events).items() if name.isupper() and isinstance(value, str)]
    assert types
    assert [name for name in types if f"`{name}`" not in page] == []
