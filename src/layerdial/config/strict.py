"""YAML and dictionaries as strict frozen models. An unknown key or another version is refused, in one line."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Tag, ValidationError

from layerdial.errors import UserError

Model = TypeVar("Model", bound=BaseModel)


class Strict(BaseModel):
    """Frozen, and without keys that nobody knows."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def read_yaml(
    path: Path,
    kind: str,
    version: int,
    example: str,
    overrides: Sequence[str] = (),
    refuse_old: Callable[[str, dict[str, Any]], None] = lambda what, data: None,
) -> dict[str, Any]:
    """The keys of a YAML file whose key `kind` gives its version, after `a.b=value` overrides.

    `refuse_old` is called with what the file is and its keys before the version is compared: it raises `UserError` for
    keys of earlier versions.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{kind} {path} does not exist") from None
    except (IsADirectoryError, UnicodeDecodeError):
        raise UserError(f"{path} is not a {kind}; give a YAML file such as {example}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{kind} {path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise UserError(f"{kind} {path} holds no keys; it begins with '{kind}: {version}'")
    for override in overrides:
        _apply(data, override)
    refuse_old(f"{kind} {path}", data)
    if data.get(kind) != version:
        found = data.get(kind, "none")
        raise UserError(f"{kind} {path} has version {found!r}; this layerdial reads '{kind}: {version}'")
    return data


def parse(model: type[Model], data: Any, what: str) -> Model:
    """Validate `data`; the first problem becomes one line that names the key, the value and what would be right."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problem = error.errors()[0]
        location = [str(part) for part in problem["loc"]]
        place = _Place.of(model, location)
        key = ".".join(place.keys)
        if problem["type"] == "extra_forbidden":
            known = list(_Place.of(model, location[:-1]).model.model_fields)
            close = difflib.get_close_matches(location[-1], known, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise UserError(f"{what}: unknown config key {key}; {hint}known keys: {', '.join(known)}") from None
        if problem["type"] == "union_tag_invalid":
            found = problem["ctx"]["tag"]
            raise UserError(f"{what}: {key}.family is {found!r}; choose {' or '.join(place.kinds)}") from None
        message = problem["msg"].removeprefix("Value error, ")
        found = "" if problem["type"] in ("missing", "value_error") else f", found {problem['input']!r}"
        raise UserError(f"{what}: {key + ': ' if key else ''}{message}{found}") from None


@dataclass(frozen=True)
class _Place:
    """Where in nested models something is: the keys that lead there, the model they end in, its kinds if it has any."""

    keys: tuple[str, ...]
    model: type[BaseModel]
    kinds: dict[str, type[BaseModel]]

    @classmethod
    def of(cls, model: type[BaseModel], location: Sequence[str]) -> _Place:
        """`location` is pydantic's, in which the tag of a kind stands between the keys."""
        place = cls((), model, {})
        for part in location:
            place = place._into(part)
        return place

    def _into(self, part: str) -> _Place:
        if part in self.kinds:
            return _Place(self.keys, self.kinds[part], {})
        keys = (*self.keys, part)
        if part not in self.model.model_fields:  # a name that the user gave, in a dictionary of models, or a mistake
            return _Place(keys, self.model, {})
        annotation = self.model.model_fields[part].annotation
        inner = (o for o in (annotation, *get_args(annotation)) if isinstance(o, type) and issubclass(o, BaseModel))
        return _Place(keys, next(inner, self.model), _kinds(annotation))


def _kinds(annotation: Any) -> dict[str, type[BaseModel]]:
    """The models of a tagged union by their tags."""
    found: dict[str, type[BaseModel]] = {}
    for metadata in getattr(annotation, "__metadata__", ()):
        if isinstance(metadata, Tag):
            found[metadata.tag] = annotation.__origin__
    for inner in get_args(annotation):
        found |= _kinds(inner)
    return found


def _apply(data: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise UserError(f"--set {override!r} is not of the form a.b=value")
    try:
        set_key(data, key, yaml.safe_load(value))
    except yaml.YAMLError as error:
        raise UserError(f"--set {override!r} is not valid YAML: {' '.join(str(error).split())}") from None


def set_key(data: dict[str, Any], key: str, value: Any) -> None:
    """Put `value` at the dotted `key`, into dictionaries that are made where there are none."""
    *parents, last = key.split(".")
    for parent in parents:
        if not isinstance(data.get(parent), dict):
            data[parent] = {}
        data = data[parent]
    data[last] = value
