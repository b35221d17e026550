"""The installed package and its metadata."""

from __future__ import annotations

import importlib.metadata

import pytest

import scope_cpp


@pytest.fixture(scope="module")
def distribution() -> importlib.metadata.Distribution:
    try:
        return importlib.metadata.distribution("scope-cpp")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("scope-cpp is not installed here: scripts/test installs it")


def test_version_has_one_source(distribution):
    assert distribution.version == scope_cpp.__version__


def test_entry_point(distribution):
    scripts = distribution.entry_points.select(group="console_scripts")
    assert [(script.name, script.value) for script in scripts] == [("scope", "scope_cli.main:main")]


def test_nothing_generic_is_installed(distribution):
    tops = {file.parts[0] for file in distribution.files or []}
    assert not tops & {"cli", "tests", "scripts", "llama_cpp"}
