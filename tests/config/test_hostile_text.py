"""YAML and JSON that nobody would write by hand: refused in one line, at once, whatever is in them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from layerdial.config.limited_yaml import load_yaml
from layerdial.config.recipe import load_recipe
from layerdial.errors import UserError
from layerdial.ladder import Ladder
from layerdial.models.checkpoint import load_network
from layerdial.runtime.manifest import Manifest
from layerdial.suites.suite import load_suite
from layerdial.utils.files import read_json
from layerdial.utils.limited_json import parse_json
from layerdial.utils.rows import read_rows
from tiny import write_recipe
from tiny_suite import tiny_suite

OLD = Path(__file__).parents[1] / "old_artefacts"
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGE_BOMB = "a: &a {x: 1}\n" + "".join(
    f"{b}: &{b} {{<<: [{', '.join([f'*{a}'] * 9)}]}}\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
YAML = {
    "aliases that stand for a billion values": (BOMB, "by aliases"),
    "merges of such": (MERGE_BOMB, "by aliases"),
    "a key that is there twice": ("a: 1\nb: {c: 1, d: 2, c: 3}", r"the key 'c' twice \(line 2\)"),
    "a number in octal": ("a: 010", "010 is an octal or sexagesimal"),
    "a number of minutes": ("a: [1:30]", "1:30 is an octal or sexagesimal"),
    "a NUL in a text": ('a: "b\\0c"', "no file name can have"),
    "half of a surrogate pair": ('a: ["\\ud800"]', "no file name can have"),
    "a list in itself": ("a: &a [*a]", "refers to itself"),
    "a mapping in itself": ("a: &a {b: *a}", "refers to itself"),
    "deep lists": ("a: " + "[" * 5000 + "]" * 5000, "nested"),
    "deep mappings": ("a: " + "{a: " * 200 + "1" + "}" * 200, "nested"),
    "deep indentation": ("".join(" " * i + "a:\n" for i in range(400)), "nested"),
    "an integer of 5,000 digits": ("a: " + "9" * 5000, "digits"),
    "a long integer in hexadecimal": ("a: 0x" + "f" * 5000, "bits"),
    "2^64 and more": ("a: 36893488147419103232", "bits"),
    "an impossible date": ("a: 2026-02-30", "day is out of range"),
    "an impossible time": ("a: 2026-02-28 99:99:99", "hour must be in"),
    "an impossible zone": ("a: 2026-02-28 10:00:00 +99:00", "offset"),
    "a python object": ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
    "a list as a key": ("? [a]\n: b", "unhashable"),
    "megabytes": ("a: [" + "1, " * 200_000 + "]", "characters"),
    "a control character": ("a: \x01", "special characters"),
    "two documents": ("a: 1\n---\nb: 2", "single document"),
    "no end": ("a: [1", "expected"),
}
JSON = {
    "deep lists": ("[" * 100_000 + "]" * 100_000, "nested"),
    "lists just too deep": ("[" * 200 + "]" * 200, "nested"),
    "deep objects": ('{"a":' * 5000 + "1" + "}" * 5000, "nested"),
    "an integer of 5,000 digits": (f'{{"a": {"9" * 5000}}}', "5000 digits"),
    "an integer of 101 digits": (f'{{"a": {"9" * 101}}}', "101 digits"),
    "nothing": ("", "Expecting value"),
    "half of it": ('{"a": ', "Expecting value"),
}


@pytest.mark.medium
@pytest.mark.parametrize("name", YAML)
def test_hostile_yaml_is_one_line(tmp_path: Path, name: str) -> None:
    text, said = YAML[name]
    (tmp_path / "recipe.yaml").write_text(text)
    for load in (load_recipe, load_suite):
        with pytest.raises(UserError, match=said) as found:
            load(tmp_path / "recipe.yaml")
        assert "\n" not in str(found.value) and len(str(found.value)) < 600
    if len(text) < 4000 and "---" not in text:  # as long as a command line may be
        good = write_recipe(tmp_path / "good.yaml", tmp_path, tmp_path, tmp_path)
        with pytest.raises(UserError):
            load_recipe(good, [f"model.config={text}"])


def test_aliases_of_a_person_are_read() -> None:
    found = load_yaml("a: &a {lr: 1}\nb: *a\nc: {<<: *a, d: 2}\ne: 2026-02-28\nf: 0xff\ng: -1")
    assert found["b"] == {"lr": 1} and found["c"] == {"lr": 1, "d": 2} and (found["f"], found["g"]) == (255, -1)
    assert load_yaml("") is None


def test_an_endless_file_is_not_read_to_its_end() -> None:
    for read in (load_recipe, load_suite):
        with pytest.raises(UserError, match="more than 262144 characters"):
            read(Path("/dev/zero"))


HOSTILE: list[Any] = [
    *({}, [], None, True, "", "x", "0", [[]], {"a": {}}, 0, -1, 1.5, 2**31, 2**63, -(2**63), 1e308),
    *(float("inf"), float("-inf"), float("nan"), "9" * 40, "\x00", "\n", "../../../etc"),
]


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The places in nested data, the inner ones first."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from leaves(inner, (*path, key))
        yield (*path, key)


def replaced(value: Any, path: tuple[str | int, ...], new: Any) -> Any:
    """A copy of nested data with another value at a place."""
    copy = json.loads(json.dumps(value))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return copy


PARTS = 3
each_part = pytest.mark.parametrize(  # a third of the values at each place, and all of them before a release
    "part", [pytest.param(part, marks=pytest.mark.slow if part else pytest.mark.medium) for part in range(PARTS)]
)


def hostile(good: Any, part: int) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """The places in data and what is put there, a part of them: each place has others than the one before."""
    for i, place in enumerate(leaves(good)):
        yield from ((place, value) for j, value in enumerate(HOSTILE) if (i + j) % PARTS == part)


@each_part
def test_any_value_in_any_place_of_a_recipe_is_taken_or_refused_in_one_line(tmp_path: Path, part: int) -> None:
    good = yaml.safe_load(write_recipe(tmp_path / "good.yaml", tmp_path, tmp_path, tmp_path).read_text())
    good["objective"] = {"exits": {"at": "all", "weight": 1.0, "power": 0.0}}
    good["model"]["size"] = "xs"
    refused = 0
    for place, value in hostile(good, part):
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(replaced(good, place, value)))
        try:
            load_recipe(tmp_path / "recipe.yaml")
        except UserError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 800, (place, value)
    assert refused > 100


@each_part
def test_any_value_in_any_place_of_a_suite_is_taken_or_refused_in_one_line(tmp_path: Path, part: int) -> None:
    tiny_suite(tmp_path)
    file = next(tmp_path.glob("*.yaml"))
    good = yaml.safe_load(file.read_text())
    for place, value in hostile(good, part):
        file.write_text(yaml.safe_dump(replaced(good, place, value)))
        try:
            load_suite(file)
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 800, (place, value)


@pytest.mark.parametrize("name", JSON)
def test_hostile_json_is_one_line(tmp_path: Path, name: str) -> None:
    text, said = JSON[name]
    (tmp_path / "it.json").write_text(text)
    with pytest.raises(UserError, match=rf"it\.json is not valid JSON: .*{said}") as found:
        read_json(tmp_path / "it.json")
    assert "\n" not in str(found.value)
    with pytest.raises(ValueError, match=said):
        parse_json(text)
    if text.strip():
        (tmp_path / "it.jsonl").write_text(f"{text}\n{{}}\n")
        with pytest.raises(UserError, match="line 1: expected a JSON object"):
            read_rows(tmp_path / "it.jsonl")


def test_a_folder_or_an_endless_file_where_json_is_expected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read_json(tmp_path)


@each_part
@pytest.mark.parametrize("kind", ["ladder", "manifest", "config"])
def test_any_value_in_any_place_of_a_stored_file_is_taken_or_refused_in_one_line(
    tmp_path: Path, kind: str, part: int
) -> None:
    source, load = {
        "ladder": (OLD / "exported" / "ladder.json", lambda: Ladder.load(tmp_path / "ladder.json", 3)),
        "manifest": (OLD / "exported" / "manifest.json", lambda: Manifest.load(tmp_path)),
        "config": (OLD / "model" / "config.json", lambda: load_network(tmp_path)),
    }[kind]
    if kind == "config":
        for name in ("tokens.txt", "model.safetensors"):
            (tmp_path / name).write_bytes((OLD / "model" / name).read_bytes())
    good = json.loads(source.read_text())
    for place, value in hostile(good, part):
        (tmp_path / source.name).write_text(json.dumps(replaced(good, place, value)))
        try:
            load()
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 800, (place, value)
