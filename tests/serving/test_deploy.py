"""The files of deploy/ fit the package and each other; no container engine is needed to see that."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from layerdial.cli.device import _parse
from layerdial.serving.options import Limits

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
IGNORE = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8"))


def instructions(name: str) -> list[str]:
    """The arguments of each instruction of a name; continued lines are one."""
    lines = DOCKERFILE.replace("\\\n", " ").splitlines()
    return [line.partition(" ")[2].strip() for line in lines if line.startswith(f"{name} ")]


def test_what_is_copied_is_there_and_not_ignored() -> None:
    for line in instructions("COPY"):
        for source in shlex.split(line)[:-1]:
            assert (ROOT / source).exists(), source
            assert f"!{source.removeprefix('./')}" in IGNORE, source


def test_what_is_installed_are_extras_of_the_package() -> None:
    [line] = [line for line in instructions("RUN") if line.startswith("pip")]
    asked = re.search(r"\.\[(.+)\]", line)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert asked is not None and set(asked[1].split(",")) <= set(project["optional-dependencies"])


def test_the_container_does_not_run_as_root() -> None:
    assert instructions("USER") == ["layerdial"]


@pytest.mark.parametrize(
    "arguments", [json.loads(instructions("CMD")[-1]), COMPOSE["services"]["layerdial"]["command"]]
)
def test_its_commands_are_commands(arguments: list[str]) -> None:
    program, *words = json.loads(instructions("ENTRYPOINT")[0])
    assert program == "layerdial"
    options = _parse([*words, *arguments])
    assert options.host == "0.0.0.0" and options.port == 8000
    assert (ROOT / options.model).is_dir()


def test_ports_secrets_and_the_time_to_stop_fit() -> None:
    services, exposed = COMPOSE["services"], instructions("EXPOSE")[0].split()
    assert [port.rpartition(":")[2] in exposed for port in services["layerdial"]["ports"]] == [True]
    assert all(port.startswith("127.0.0.1:") for service in services.values() for port in service["ports"])
    used = [name for service in services.values() for name in service["secrets"]]
    assert sorted(used) == sorted(COMPOSE["secrets"])
    assert services["layerdial"]["stop_grace_period"] == f"{Limits().max_request_s / 60:g}m"


def test_prometheus_asks_the_server_with_its_key() -> None:
    stored = yaml.safe_load((ROOT / "deploy" / "prometheus.yaml").read_text(encoding="utf-8"))
    [job] = stored["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["layerdial:8000"]}]
    assert job["authorization"]["credentials_file"].rpartition("/")[2] in COMPOSE["secrets"]
