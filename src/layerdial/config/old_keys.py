"""Keys that recipes, suites and stored networks once had: what they are called now, or which commit still has them.

Files that a person writes are refused with the new name of the first old key. What a run has stored is converted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from layerdial.config.strict import set_key
from layerdial.errors import UserError

LAST_COMMIT = "3b18fec"  # the last that has the keys that are gone


@dataclass(frozen=True)
class _OldKey:
    """`now` is the key's new name, none if it is gone; `default` the value that it had where it was left out."""

    default: Any
    now: str | None = None


_RECIPE = {
    "objective.distil_weight": _OldKey(0.0, "objective.distil.weight"),
    "objective.teacher": _OldKey(None, "objective.distil.teacher"),
    "objective.top_k": _OldKey(None, "objective.distil.top_k"),
    "objective.exits": _OldKey("none", "objective.exits.at"),
    "objective.exit_weight": _OldKey(1.0, "objective.exits.weight"),
    "objective.exit_power": _OldKey(0.0, "objective.exits.power"),
    "objective.exit_distil_weight": _OldKey(0.0, "objective.exits.distil_weight"),
    "objective.in_place_weight": _OldKey(0.0, "objective.in_place.weight"),
    "objective.in_place_divergence": _OldKey("kl", "objective.in_place.divergence"),
    "objective.in_place_ctc": _OldKey(1.0, "objective.in_place.ctc_weight"),
    "objective.distil_growth": _OldKey(0.0),
    "objective.align_weight": _OldKey(0.0),
    "objective.temperature": _OldKey(1.0),
    "objective.blank": _OldKey("keep"),
    "policy.end_share": _OldKey(None),
    "optim.final_lr_share": _OldKey(0.01),
    "optim.betas": _OldKey([0.9, 0.98]),
    "model.n_mels": _OldKey(80),
    "model.conv_norm": _OldKey("layer"),
    "model.selector_width": _OldKey(32),
}
_SUITE = {"bars": "targets"}


# ------------------------------------------------------------------------------------------------- files of a person


def refuse_old_recipe(what: str, data: Mapping[str, Any]) -> None:
    """Raise `UserError` for keys of version 1, or for that version alone; `what` is "recipe FILE"."""
    _refuse(what, "recipe", data, _old_keys_of(data))


def refuse_old_suite(what: str, data: Mapping[str, Any]) -> None:
    """Raise `UserError` for keys of version 1, recipe keys too, or for that version alone; `what` is "suite FILE"."""
    _refuse(what, "suite", data, _old_keys_of_suite(data))


def _refuse(what: str, kind: str, data: Mapping[str, Any], problems: Iterator[str]) -> None:
    old = data.get(kind) == 1
    problem = next(problems, "no key in it has changed, so change that line" if old else None)
    if problem is not None:
        version = f" is of version 1, this layerdial reads '{kind}: 2'" if old else ""
        raise UserError(f"{what}{version}: {problem}; CHANGELOG.md lists all changed keys")


def _old_keys_of(recipe: Mapping[str, Any], where: str = "") -> Iterator[str]:
    """A line for each old key of a recipe, or of a part with dotted keys, in the order of the file."""
    for key, value in _leaves(recipe):
        old = _RECIPE.get(key)
        if old is not None and not (key == "objective.exits" and value is None):  # that is a group left out
            yield f"{where}{key} {_remedy(old, value)}"


def _old_keys_of_suite(data: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"{key} is {now} now" for key, now in _SUITE.items() if key in data)
    parts = [("recipe: ", data.get("recipe"))]
    methods = data.get("methods")
    for name, entry in methods.items() if isinstance(methods, Mapping) else ():
        parts.append((f"methods.{name}.set: ", entry.get("set") if isinstance(entry, Mapping) else None))
    for where, part in parts:
        if isinstance(part, Mapping):
            yield from _old_keys_of(part, where)


def _remedy(old: _OldKey, value: Any) -> str:
    if value == old.default:
        return f"{value!r} was the default; leave it out"
    return f"is {old.now} now" if old.now else f"is gone (the last commit with it is {LAST_COMMIT})"


def _leaves(data: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested keys that are no tables, with their dotted keys."""
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


# -------------------------------------------------------------------------------------------------- what runs stored


def gone_key(recipe: Mapping[str, Any]) -> str | None:
    """The first key of a stored recipe that is gone and was in use, with its value; none where there is none."""
    for key, value in _leaves(recipe):
        old = _RECIPE.get(key)
        if old is not None and old.now is None and value != old.default:
            return f"{key} {value!r}, which is gone (the last commit with it is {LAST_COMMIT})"
    return None


def upgraded(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stored recipe of version 1 with the keys of version 2, without those that are gone; others as it is."""
    if recipe.get("recipe") != 1:
        return dict(recipe)
    found = {section: _without_old(section, keys) for section, keys in recipe.items()} | {"recipe": 2}
    if isinstance(policy := found.get("policy"), dict):  # which had the settings of all policies, mostly null
        found["policy"] = {key: value for key, value in policy.items() if value is not None}
    for key, old in _RECIPE.items():
        value = _value(recipe, key)
        if old.now is not None and value is not None and _is_in_use(recipe, old.now):
            set_key(found, old.now, value)
    return found


def without_gone(model: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Return a stored network's config without keys that are gone.

    Raises `UserError`, in which `what` names the config, where such a key was not at its default.
    """
    if (gone := gone_key({"model": model})) is not None:
        raise UserError(f"{what} has {gone}; use that commit, or train again")
    found: dict[str, Any] = _without_old("model", model)
    return found


def _is_in_use(recipe: Mapping[str, Any], now: str) -> bool:
    """Whether a stored recipe of version 1 uses the group that the new key is in."""
    group = now.rpartition(".")[0]
    switch = {"objective.distil": "objective.distil_weight", "objective.exits": "objective.exits"}
    key = switch.get(group, "objective.in_place_weight")
    return _value(recipe, key) not in (None, _RECIPE[key].default)


def _value(recipe: Mapping[str, Any], key: str) -> Any:
    """The value of a key of a section; none if the recipe has not got it."""
    section, _, name = key.partition(".")
    keys = recipe.get(section)
    return keys.get(name) if isinstance(keys, Mapping) else None


def _without_old(section: str, keys: Any) -> Any:
    if not isinstance(keys, Mapping):
        return keys
    return {key: value for key, value in keys.items() if f"{section}.{key}" not in _RECIPE}
