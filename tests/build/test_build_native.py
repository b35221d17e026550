"""The build outside pip, which shares its folder with pip's."""

from __future__ import annotations

import sys
import sysconfig

import pytest


@pytest.fixture(scope="module")
def build_native(script):
    return script("build_native")


@pytest.mark.parametrize(
    ("of_python", "expected"),
    [
        ({"CC": "gcc -pthread", "CXX": "g++ -pthread"}, {"CC": "gcc", "CXX": "g++"}),
        ({"CC": "ccache cc -arch arm64", "CXX": None}, {"CC": "ccache cc"}),
    ],
)
def test_compilers_are_those_of_python_without_flags(
    build_native, monkeypatch, of_python, expected
):
    monkeypatch.setattr(sysconfig, "get_config_var", of_python.get)
    assert build_native.compilers() == expected


def test_compilers_that_the_user_names_come_first(build_native, monkeypatch):
    monkeypatch.setattr(build_native, "compilers", lambda: {"CC": "gcc", "CXX": "g++"})
    monkeypatch.setenv("CXX", "clang++")
    monkeypatch.delenv("CC", raising=False)
    code = "import os; assert (os.environ['CC'], os.environ['CXX']) == ('gcc', 'clang++')"
    build_native.run(sys.executable, "-c", code)
    with pytest.raises(build_native.BuildError):
        build_native.run(sys.executable, "-c", code.replace("clang++", "g++"))
