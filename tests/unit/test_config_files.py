"""One configuration out of several files: conf.d, directories, include. shared.config.assembly."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.config.fleet import Fleet
from shared.config.problems import ConfigInvalid
from shared.errors import ConfigError

HEAD = "secret: {file: fleet.secret}\nrecovery_password: {file: recovery.password}\n"
MAIN = (
    HEAD + "sites: {a: {url: ./a}}\npolicies:\n  first: {select: kind=db, full: 1d}\nsources:\n  web1: {paths: /srv}\n"
)


def lay(folder: Path, **files: str) -> str:
    """Write files, `__` in a name for a slash; the path of fleet.yaml."""
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(folder / "fleet.yaml")


def problems(folder: Path, path: str) -> list[str]:
    """What loading says, a line a problem, without the folder."""
    with pytest.raises(ConfigInvalid) as caught:
        Fleet.load(path)
    return str(caught.value).replace(f"{folder}/", "").splitlines()


def test_conf_d_beside_the_file_is_joined_to_it(tmp_path: Path) -> None:
    """By name, in the order of the files' names; each entry whole, policies in the order read."""
    path = lay(
        tmp_path,
        fleet=MAIN,
        **{
            "conf.d__20-web": "policies: {second: {incremental: 1h}}\nsources: {web2: {paths: /b}}\n",
            "conf.d__10-db": "sources: {db/orders: {paths: ./nope}}\n".replace("./nope", "/db"),
        },
    )
    (tmp_path / "conf.d/notes.txt").write_text("no yaml")
    (tmp_path / "conf.d/.hidden.yaml").write_text("no: yaml")
    fleet = Fleet.load(path)
    assert list(fleet.sources) == ["web1", "db/orders", "web2"]
    assert list(fleet.policies) == ["first", "second"]
    names = [Path(name).relative_to(tmp_path).as_posix() for name in fleet.files]
    assert names == ["fleet.yaml", "conf.d/10-db.yaml", "conf.d/20-web.yaml"]


def test_a_directory_is_a_configuration(tmp_path: Path) -> None:
    """All its files and those of its conf.d; relative paths and state start there."""
    lay(tmp_path, base=MAIN, more="sources: {web2: {paths: /b}}\n", **{"conf.d__x": "sources: {web3: {paths: /c}}\n"})
    fleet = Fleet.load(str(tmp_path))
    assert list(fleet.sources) == ["web1", "web2", "web3"]
    assert (fleet.directory, fleet.site("a").url) == (str(tmp_path), str(tmp_path / "a"))
    assert fleet.state_dir == str(tmp_path / ".holdfast/state")
    assert fleet.path == str(tmp_path)


def test_a_directory_without_files_is_an_error(tmp_path: Path) -> None:
    """It names the directory and what was looked for."""
    with pytest.raises(ConfigError, match=r"holds no \*\.yaml"):
        Fleet.load(str(tmp_path))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            "# one\nsources:\n  web1: {paths: /x}\n",
            "conf.d/x.yaml:3: sources.web1: is defined twice, first at fleet.yaml:7",
        ),
        ("sites: {a: {url: /b}}\n", "conf.d/x.yaml:1: sites.a: is defined twice, first at fleet.yaml:3"),
        ("secret: {env: X}\n", "conf.d/x.yaml:1: secret: is defined twice, first at fleet.yaml:1"),
        ("sources: [a]\n", "conf.d/x.yaml:1: sources: is defined twice, first at fleet.yaml:6"),
    ],
)
def test_a_name_defined_twice_names_both_places(tmp_path: Path, more: str, said: str) -> None:
    """File and line of the second and of the first."""
    assert problems(tmp_path, lay(tmp_path, fleet=MAIN, **{"conf.d__x": more})) == [said]


def test_an_error_names_the_file_that_has_it(tmp_path: Path) -> None:
    """Unknown keys, wrong values and contradictions, wherever they stand; sorted by file, then line."""
    path = lay(
        tmp_path,
        fleet=MAIN.replace("full: 1d", "ful: 1d"),
        **{"conf.d__x": "sources:\n  web2:\n    pahts: /a\n", "conf.d__y": "sites:\n  b: {url: /b, region: eu}\n"},
    )
    assert problems(tmp_path, path) == [
        'fleet.yaml:5: policies.first.ful: unknown key (did you mean "full"?)',
        'conf.d/x.yaml:3: sources.web2.pahts: unknown key (did you mean "paths"?)',
    ]
    lay(tmp_path, fleet=MAIN, **{"conf.d__x": "{}"})
    assert problems(tmp_path, path)[-1].startswith('conf.d/y.yaml:2: sites.b.region: there is no region "eu"')


def test_empty_files_and_sections_do_no_harm(tmp_path: Path) -> None:
    """A fragment of comments alone, and a section whose entries are all commented out."""
    path = lay(tmp_path, fleet=MAIN, **{"conf.d__a": "# nothing\n", "conf.d__b": "sources:\n#  x: {}\npolicies:\n"})
    assert list(Fleet.load(path).sources) == ["web1"]
    (tmp_path / "00-readme.yaml").write_text("# how these files are laid out\n")
    assert list(Fleet.load(str(tmp_path)).sources) == ["web1"]
    (tmp_path / "fleet.yaml").write_text("")
    (tmp_path / "conf.d/b.yaml").write_text("")
    assert problems(tmp_path, path) == ["fleet.yaml: expected a mapping, found nothing"]


def test_what_is_no_yaml_is_named_with_its_file(tmp_path: Path) -> None:
    """A fragment that can't be parsed, one that is a list, one that is not UTF-8."""
    path = lay(tmp_path, fleet=MAIN, **{"conf.d__a": "sources: {\n", "conf.d__b": "- a\n"})
    said = problems(tmp_path, path)
    assert [line.partition(": ")[0] for line in said] == ["conf.d/a.yaml:2", "conf.d/b.yaml"]
    (tmp_path / "conf.d/a.yaml").write_bytes(b"# one\n# \xff\n")
    assert problems(tmp_path, path) == ["conf.d/a.yaml:2: this is not UTF-8"]


def test_files_are_included(tmp_path: Path) -> None:
    """From the directory of the file that includes them: one, a pattern, a directory; each file once."""
    path = lay(
        tmp_path,
        fleet="include: [teams/*.yaml, shared, teams/web.yaml]\n" + MAIN,
        teams__db="sources: {db: {paths: /db}}\n",
        teams__web="include: deeper/one.yaml\nsources: {web2: {paths: /w}}\n",
        teams__deeper__one="sources: {one: {paths: /o}}\n",
        shared__x="sources: {x: {paths: /x}}\n",
    )
    assert list(Fleet.load(path).sources) == ["web1", "db", "web2", "one", "x"]


def test_an_include_that_loops_is_an_error(tmp_path: Path) -> None:
    """It names the file, the line and the way around."""
    path = lay(tmp_path, fleet=MAIN + "include: one.yaml\n", one="include: two.yaml\n", two="include: [fleet.yaml]\n")
    assert problems(tmp_path, path) == [
        "two.yaml:1: include[0]: loops: fleet.yaml -> one.yaml -> two.yaml -> fleet.yaml"
    ]
    lay(tmp_path, fleet=MAIN + "include: fleet.yaml\n")
    assert problems(tmp_path, path) == ["fleet.yaml:8: include: loops: fleet.yaml -> fleet.yaml"]


def test_an_include_of_nothing_is_an_error(tmp_path: Path) -> None:
    """A file that is not there, and what is no path; a pattern may match nothing."""
    path = lay(tmp_path, fleet=MAIN + "include:\n  - none.yaml\n  - 7\n  - none/*.yaml\n")
    assert problems(tmp_path, path) == [
        "fleet.yaml:9: include[0]: expected a file, found none at none.yaml",
        "fleet.yaml:10: include[1]: expected the path of a file, found 7",
    ]
