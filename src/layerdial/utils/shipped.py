"""The recipes, suites and plugins that come with the package: what there is, and copies of them to work with.

In a clone they are where everybody sees them. `setup.py` puts them into the wheel, below `shipped`, in the same layout.
"""

from __future__ import annotations

import difflib
import re
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from layerdial.errors import UserError
from layerdial.utils.files import replacing

_PACKAGE = Path(__file__).parents[1]
_ENDINGS = (".md", ".yaml", ".py")  # pip writes compiled Python beside what it installs
_PLUGIN = re.compile(r"experiments/plugins/\w+\.py")


@dataclass(frozen=True)
class Shipped:
    """Something that can be copied: its name, its path in the clone, and that of its files, README or suite first."""

    name: str
    path: Path
    files: tuple[Path, ...]
    summary: str

    def copy(self, folder: Path | None, force: bool) -> tuple[Path, ...]:
        """Copy its files, and return the copies.

        They go into `folder`; without one, below the working directory to the paths that the documents name. Raises
        `UserError` where a file is there already, unless `force`.
        """
        places = tuple(self._place(file, folder) for file in self.files)
        if not force and (there := [place for place in places if place.exists()]):
            raise UserError(f"{there[0]} exists; give another folder, or --force to replace it")
        for file, place in zip(self.files, places, strict=True):
            with replacing(place) as temporary:
                shutil.copyfile(_root() / file, temporary)
        return places

    def _place(self, file: Path, folder: Path | None) -> Path:
        if folder is None:
            return file
        return folder / (file.relative_to(self.path) if file.is_relative_to(self.path) else file.name)


def list_shipped() -> tuple[Shipped, ...]:
    """Return all that can be copied: recipes, then suites, then plugins."""
    root = _root()
    recipes = [_recipe(root, folder) for folder in sorted((root / "recipes").iterdir()) if folder.is_dir()]
    suites = [_suite(root, file) for file in sorted((root / "experiments" / "suites").glob("*.yaml"))]
    plugins = [_plugin(root, file) for file in sorted((root / "experiments" / "plugins").glob("*.py"))]
    return (*(recipe for recipe in recipes if recipe.files), *suites, *plugins)


def find_shipped(name: str) -> Shipped:
    """Return what has this name; paths of the clone are names too. Raises `UserError` with the nearest names."""
    wanted = re.sub(r"^(\./)?(experiments/)?(recipes/)?|(\.yaml|\.py)?/*$", "", name)
    known = {shipped.name: shipped for shipped in list_shipped()}
    if wanted in known:
        return known[wanted]
    ends = {other.rpartition("/")[2]: other for other in reversed(known)}  # `demo` for suites/demo
    close = difflib.get_close_matches(wanted, [*known, *ends], n=3, cutoff=0.5)
    nearest = list(dict.fromkeys(ends.get(found, found) for found in close))
    hint = f"did you mean {' or '.join(nearest)}? " if nearest else ""
    raise UserError(f"there is no recipe or suite {name!r}; {hint}`layerdial recipes list` shows all")


def shipped_path(path: Path) -> str | None:
    """Return the name of what has a file of this path, as the documents name it, or None."""
    return next((shipped.name for shipped in list_shipped() if path in shipped.files), None)


def _root() -> Path:
    """Return the folder that has `recipes` and `experiments`: in the package where it is installed, else the clone."""
    for root in (_PACKAGE / "shipped", _PACKAGE.parents[1]):
        if (root / "recipes").is_dir() and (root / "experiments" / "suites").is_dir():
            return root
    raise UserError(f"{_PACKAGE} was installed without recipes; install the wheel, or the clone with pip install -e .")


def _recipe(root: Path, folder: Path) -> Shipped:
    files = sorted(file.relative_to(root) for file in folder.rglob("*") if file.suffix in _ENDINGS)
    files.sort(key=lambda file: file.name != "README.md")
    title = (folder / "README.md").read_text(encoding="utf-8").partition("\n")[0] if files else ""
    return Shipped(folder.name, folder.relative_to(root), tuple(files), title.removeprefix("#").strip())


def _suite(root: Path, file: Path) -> Shipped:
    text = file.read_text(encoding="utf-8")
    lines = text[: text.index("\nsuite:")].splitlines()
    first = re.split(r"[.:;](?= |$)", " ".join(line.removeprefix("#").strip() for line in lines))[0]
    needed = dict.fromkeys(Path(plugin) for plugin in _PLUGIN.findall(text))
    name = f"suites/{file.stem}"
    return Shipped(name, file.parent.relative_to(root), (file.relative_to(root), *needed), _one_line(first))


def _plugin(root: Path, file: Path) -> Shipped:
    first = file.read_text(encoding="utf-8").partition("\n")[0].strip('"')
    return Shipped(f"plugins/{file.stem}", file.parent.relative_to(root), (file.relative_to(root),), _one_line(first))


def _one_line(text: str) -> str:
    return textwrap.shorten(text, 88, placeholder=" …")


def next_command(shipped: Shipped, copies: Sequence[Path]) -> str:
    """Return what to do with copies."""
    if not shipped.name.startswith("suites/"):
        return f"read {copies[0]}"
    plugins = f" --set plugins=[{','.join(map(str, copies[1:]))}]" if copies[1:] and copies != shipped.files else ""
    return f"layerdial bench {copies[0]}{plugins}"
