"""Names in recipes, and the class of settings that each stands for: built in, from a user's file, or from a package.

A package offers its own under the entry points `layerdial.policies`, `layerdial.objectives` and `layerdial.networks`.
They are looked up only for a name that nothing has registered, or to list the names that there are.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import BaseModel, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from layerdial.errors import UserError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

Settings = TypeVar("Settings", bound=BaseModel)
Class = TypeVar("Class", bound=type)
UNKNOWN_NAME = "unknown_name"  # the type of pydantic's error


@dataclass(frozen=True)
class Source:
    """Who registered a name. `version` is a hash of a user's file, the version of a package, nothing for our own."""

    who: str
    version: str = ""


_BUILT_IN = Source("layerdial")
_current: list[Source] = []


@contextmanager
def registering(source: Source) -> Iterator[None]:
    """What is registered inside has this source; nothing is, if it ends by an exception."""
    _current.append(source)
    try:
        yield
    except BaseException:
        forget(source)
        raise
    finally:
        _current.pop()


def names_of(source: Source) -> list[str]:
    """Return what a source has registered, each as "policy first_block"."""
    return [f"{registry.kind} {name}" for registry in _registries for name in registry.names_of(source)]


def forget(source: Source) -> None:
    """Take back what a source has registered."""
    for registry in _registries:
        for name in registry.names_of(source):
            del registry.entries[name]


@dataclass(frozen=True)
class _Entry(Generic[Settings]):
    settings: type[Settings]
    source: Source


@dataclass(frozen=True, eq=False)
class Registry(Generic[Settings]):
    """The names of one kind, each with a class of settings below `base`. It annotates a field of a model.

    `key` is the field of the settings that holds the name; `name_of` finds it in what a recipe says. Entry points are
    those of `group`.
    """

    kind: str
    group: str
    base: type[Settings]
    key: str = "name"
    name_of: Callable[[Mapping[str, Any]], Any] = lambda data: data.get("name")
    entries: dict[str, _Entry[Settings]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _registries.append(self)

    def register(self, name: str) -> Callable[[Class], Class]:
        """Return a decorator that registers a class below `base`; `UserError` for one that cannot be used."""

        def decorate(settings: Class) -> Class:
            self._check(name, settings)
            self.entries[name] = _Entry(settings, _source_of(settings))
            return settings

        return decorate

    def find(self, name: Any) -> type[Settings] | None:
        """Return the settings of a name; none if neither anything registered it nor a package offers it."""
        if isinstance(name, str) and name not in self.entries:
            self._load_entry_point(name)
        entry = self.entries.get(name) if isinstance(name, str) else None
        return entry.settings if entry else None

    def source(self, name: str) -> Source:
        return self.entries[name].source

    def is_built_in(self, name: str) -> bool:
        return self.source(name) == _BUILT_IN

    def names_of(self, source: Source) -> list[str]:
        return [name for name, entry in self.entries.items() if entry.source == source]

    def known(self) -> list[str]:
        """Return every name, those that packages offer too."""
        return list(dict.fromkeys([*self.entries, *(point.name for point in self._entry_points())]))

    def names_with(self, setting: str) -> list[str]:
        """Return the names that have a setting."""
        return [name for name, entry in self.entries.items() if setting in entry.settings.model_fields]

    def unknown(self, name: Any) -> str:
        """Return what is right in the place of an unknown name."""
        known = self.known()
        close = difflib.get_close_matches(str(name), known, n=1)
        choices = " or ".join(part for part in (", ".join(known[:-1]), known[-1]) if part)
        return f"{f'did you mean {close[0]}? ' if close else ''}choose {choices}, or name its file in plugins"

    def parse(self, data: Mapping[str, Any]) -> Settings:
        """Return the settings that a recipe's keys stand for; pydantic's `ValidationError` where they are none."""
        found = self.find(self.name_of(data))
        if found is None:
            problem = PydanticCustomError(UNKNOWN_NAME, "no such name")
            line = InitErrorDetails(type=problem, loc=(self.key,), input=self.name_of(data))
            raise ValidationError.from_exception_data(self.kind, [line])
        return found.model_validate(data)

    def settings_of(self, data: Any) -> type[BaseModel]:
        """Return the class that the keys are checked against; the base where it is not known."""
        found = self.find(self.name_of(data)) if isinstance(data, Mapping) else None
        return found or self.base

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def validate(value: Any, by_base: Callable[[Any], Any]) -> Any:
            named = isinstance(value, Mapping) and self.name_of(value) is not None
            if named:
                return self.parse(value)
            return value if isinstance(value, self.base) else by_base(value)  # which says what is missing

        return core_schema.no_info_wrap_validator_function(validate, handler(source))

    def _check(self, name: str, settings: type) -> None:
        what = f"{self.kind} {name}"
        if not re.fullmatch(r"\w[\w-]*", name):
            raise UserError(f"{name!r} cannot be the name of a {self.kind}; use letters, digits, _ and -")
        if not (isinstance(settings, type) and issubclass(settings, self.base)):
            raise UserError(f"{what} is no {self.base.__name__}: derive its class from {self.base.__name__}")
        if missing := sorted(getattr(settings, "__abstractmethods__", ())):
            raise UserError(f"{what} lacks {' and '.join(missing)}; see docs/plugins.md")
        if name in self.entries:
            raise UserError(f"the name of {what} is taken by {self.source(name).who}; choose another")

    def _entry_points(self) -> list[EntryPoint]:
        from importlib.metadata import entry_points

        return list(entry_points(group=self.group))

    def _load_entry_point(self, name: str) -> None:
        points = [point for point in self._entry_points() if point.name == name]
        if not points:
            return
        packages = [_package(point) for point in points]
        if len(packages) > 1:
            raise UserError(f"{self.kind} {name} is offered by {' and by '.join(o.who for o in packages)}; remove one")
        with registering(packages[0]):
            try:
                offered = points[0].load()
                if name not in self.entries:  # it may have done so by itself
                    self.register(name)(offered)
            except UserError:
                raise
            except Exception as error:
                raise UserError(
                    f"{self.kind} {name} of {packages[0].who} does not import: {type(error).__name__}: {error}"
                ) from error


_registries: list[Registry[Any]] = []


def _source_of(settings: type) -> Source:
    """By whom a class is registered: by what is being loaded, else by the module that it is in."""
    if _current:
        return _current[-1]
    if settings.__module__.partition(".")[0] == "layerdial":
        return _BUILT_IN
    return Source(_file_of(settings) or settings.__module__)


def _file_of(settings: type) -> str | None:
    try:
        return inspect.getfile(settings)
    except (TypeError, OSError):  # typed into an interpreter
        return None


def _package(point: EntryPoint) -> Source:
    package = point.dist
    return Source(f"package {package.name}", package.version) if package else Source(point.value)
