"""YAML that a person wrote, read within limits: nothing in it makes the reader run out of time, memory or stack.

What YAML 1.1 would read in silence as something else is refused: a key that is there twice, 010 (8) and 1:30 (90).
"""

from __future__ import annotations

import os
import re
from typing import Any

import yaml

MOST_CHARACTERS = 256 * 1024
_MOST_NODES = 100_000  # with every alias counted as often as it is used
_DEEPEST = 50
_MOST_BITS = 64
_MISREAD = re.compile(r"[-+]?(0[0-7_]+|[0-9][0-9_]*(:[0-5]?[0-9])+)")  # octal and sexagesimal integers


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
    _check_values(value)
    return value


def _count(node: yaml.Node, counted: dict[int, int], depth: int) -> int:
    """Return the number of nodes that a node stands for; an alias is a node that is met again."""
    if depth > _DEEPEST:
        raise ValueError(f"it is nested more than {_DEEPEST} deep, or refers to itself")
    if id(node) not in counted:
        found = 1
        _check_meaning(node)
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


def _check_meaning(node: yaml.Node) -> None:
    """Raise `ValueError` where a person and YAML 1.1 may read different things."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"):
            if key.value in seen:
                raise ValueError(f"it has the key {key.value!r} twice{_line(key)}; keep one")
            seen.add(key.value)
    elif isinstance(node, yaml.ScalarNode) and _is_misread(node):
        raise ValueError(f"{node.value} is an octal or sexagesimal number in YAML{_line(node)}; write it in decimals")


def _is_misread(node: yaml.ScalarNode) -> bool:
    plain = node.tag == "tag:yaml.org,2002:int" and node.style is None
    return plain and _MISREAD.fullmatch(node.value) is not None


def _line(node: yaml.Node) -> str:
    return f" (line {node.start_mark.line + 1})"


def _check_values(value: Any) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_values(key)
            _check_values(inner)
    elif isinstance(value, list | tuple | set):
        for inner in value:
            _check_values(inner)
    elif isinstance(value, int) and value.bit_length() > _MOST_BITS:
        raise ValueError(f"it has an integer of {value.bit_length()} bits, more than {_MOST_BITS}")
    elif isinstance(value, str) and not _can_be_a_name(value):
        raise ValueError(f"it has a text with a sign that no file name can have: {value[:40]!a}")


def _can_be_a_name(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
