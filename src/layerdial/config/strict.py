"""YAML and dictionaries as strict frozen models. An unknown key or another version is refused, in one line."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from layerdial.config.limited_yaml import MOST_CHARACTERS, load_yaml
from layerdial.config.registry import UNKNOWN_NAME, Registry
from layerdial.errors import UserError
from layerdial.utils.shipped import shipped_path

Model = TypeVar("Model", bound=BaseModel)


class Strict(BaseModel):
    """Frozen, and without keys that nobody knows."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


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
        with path.open(encoding="utf-8") as file:
            data = load_yaml(file.read(MOST_CHARACTERS + 1))
    except FileNotFoundError:
        name = shipped_path(path)
        hint = f"; `layerdial recipes copy {name}` writes it" if name else ""
        raise UserError(f"{kind} {path} does not exist{hint}") from None
    except (IsADirectoryError, UnicodeDecodeError):
        raise UserError(f"{path} is not a {kind}; give a YAML file such as {example}") from None
    except OSError as error:
        raise UserError(f"{kind} {path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise UserError(f"{kind} {path} is not valid YAML: {error}") from None
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
    outer = _Place.of(model, data, location[:-1])
    key = ".".join(location)
    match problem["type"]:
        case "extra_forbidden":
            told = _unknown_key(outer, location[-1], key)
        case "missing" if outer.registry is not None and location[-1] != outer.registry.key:
            told = _missing_setting(outer, location[-1])
        case kind if kind == UNKNOWN_NAME:
            assert outer.registry is not None
            told = f"{key} is {shorten(repr(problem['input']), 200)}; {outer.registry.unknown(problem['input'])}"
        case kind:
            message = problem["msg"].removeprefix("Value error, ")
            found = "" if kind in ("missing", "value_error") else f", found {shorten(repr(problem['input']), 200)}"
            told = f"{key + ': ' if key else ''}{message}{found}"
    raise UserError(f"{what}: {told}")


def shorten(text: str, most: int) -> str:
    """Return at most so many characters of a text, for messages."""
    return text if len(text) <= most else f"{text[: most - 2]} …"


def _unknown_key(outer: _Place, last: str, key: str) -> str:
    others = [] if outer.registry is None else outer.registry.names_with(last)
    if outer.registry is not None and others:
        does = "does" if len(others) == 1 else "do"
        return f"{key}: {outer.registry.kind} {outer.name} takes no {last}; {' and '.join(others)} {does}"
    known = list(outer.model.model_fields)
    close = difflib.get_close_matches(last, known, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"unknown config key {key}; {hint}known keys: {', '.join(known)}"


def _missing_setting(outer: _Place, last: str) -> str:
    assert outer.registry is not None
    field = outer.model.model_fields.get(last)
    example = f", for example {field.examples[0]!r}" if field is not None and field.examples else ""
    return f"{outer.registry.kind} {outer.name} needs {last}{example}"


@dataclass(frozen=True)
class _Place:
    """Where in nested models something is: the value there, its model, and the registry that this was found in."""

    model: type[BaseModel]
    value: Any
    registry: Registry[Any] | None = None

    @classmethod
    def of(cls, model: type[BaseModel], data: Any, location: Sequence[str]) -> _Place:
        """Follow pydantic's `location` from the outermost model."""
        place = cls(model, data)
        for part in location:
            place = place._into(part)
        return place

    @property
    def name(self) -> Any:
        """The name of what is registered, as the user says it."""
        return self.registry.name_of(self.value) if self.registry else None

    def _into(self, part: str) -> _Place:
        value = self.value.get(part) if isinstance(self.value, Mapping) else None
        field = self.model.model_fields.get(part)
        if field is None:  # a name that the user gave, in a dictionary of models, or a mistake
            return _Place(self.model, value)
        for registry in (mark for mark in _marks(field.annotation, field.metadata) if isinstance(mark, Registry)):
            return _Place(registry.settings_of(value), value, registry)
        annotation = field.annotation
        inner = (o for o in (annotation, *get_args(annotation)) if isinstance(o, type) and issubclass(o, BaseModel))
        return _Place(next(inner, self.model), value)


def _marks(annotation: Any, metadata: Iterable[Any] = ()) -> Iterator[Any]:
    """What annotates a type, or a part of a union."""
    yield from metadata
    yield from getattr(annotation, "__metadata__", ())
    for inner in get_args(annotation):
        yield from _marks(inner)


def _apply(data: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise UserError(f"--set {override!r} is not of the form a.b=value")
    try:
        set_key(data, key, load_yaml(value))
    except ValueError as error:
        raise UserError(f"--set {shorten(override, 80)!r} is not valid YAML: {error}") from None


def set_key(data: dict[str, Any], key: str, value: Any) -> None:
    """Put `value` at the dotted `key`, into dictionaries that are made where there are none."""
    *parents, last = key.split(".")
    for parent in parents:
        if not isinstance(data.get(parent), dict):
            data[parent] = {}
        data = data[parent]
    data[last] = value
