"""YAML that a person wrote, read within limits: nothing in it makes the reader run out of time, memory or stack."""

from __future__ import annotations

from typing import Any

import yaml

MOST_CHARACTERS = 256 * 1024
_MOST_NODES = 100_000  # with every alias counted as often as it is used
_DEEPEST = 50
_MOST_BITS = 64


def load_yaml(text: str) -> Any:
    """Return the value of a YAML text. Raises `ValueError` for one that is not valid, or beyond a limit."""
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"it has more than {MOST_CHARACTERS} characters")
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node, {}, 0)
        value = loader.construct_document(node)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # impossible dates, integers of 5,000 digits
        raise ValueError(" ".join(str(error).split())) from None
    _check_integers(value)
    return value


def _count(node: yaml.Node, counted: dict[int, int], depth: int) -> int:
    """Return the number of nodes that a node stands for; an alias is a node that is met again."""
    if depth > _DEEPEST:
        raise ValueError(f"it is nested more than {_DEEPEST} deep, or refers to itself")
    if id(node) not in counted:
        found = 1
        if isinstance(node, yaml.MappingNode):
            inner = [part for pair in node.value for part in pair]
        else:
            inner = node.value if isinstance(node, yaml.SequenceNode) else []
        for part in inner:
            found += _count(part, counted, depth + 1)
        counted[id(node)] = found
    if counted[id(node)] > _MOST_NODES:
        raise ValueError(f"it stands for more than {_MOST_NODES} values, most of them by aliases")
    return counted[id(node)]


def _check_integers(value: Any) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_integers(key)
            _check_integers(inner)
    elif isinstance(value, list | tuple | set):
        for inner in value:
            _check_integers(inner)
    elif isinstance(value, int) and value.bit_length() > _MOST_BITS:
        raise ValueError(f"it has an integer of {value.bit_length()} bits, more than {_MOST_BITS}")
