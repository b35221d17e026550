"""What must hold of the page's files without a browser."""

from __future__ import annotations

import re
from pathlib import Path

import scope_cpp.serve

PAGE = Path(scope_cpp.serve.__file__).parent / "page"
FILES = {path.name: path.read_text(encoding="utf-8") for path in PAGE.iterdir()}
SCRIPTS = {name: text for name, text in FILES.items() if name.endswith(".js")}
assert SCRIPTS


def test_nothing_of_other_hosts() -> None:
    for name, text in FILES.items():
        addresses = set(re.findall(r"(?:https?:)?//[\w.]+\.\w+[^\s\"']*", text))
        assert addresses <= {"http://www.w3.org/2000/svg"}, name


def test_text_never_becomes_html() -> None:
    ways = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|eval\(|Function\("
    for name, text in SCRIPTS.items():
        assert not re.search(ways, text), name


def test_no_inline_script_or_style() -> None:
    """What the content policy would block."""
    html = FILES["index.html"]
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)|javascript:", html)


def test_names_agree() -> None:
    html = FILES["index.html"]
    ids = re.findall(r'\bid="([\w-]+)"', html)
    assert len(ids) == len(set(ids))
    for name, text in SCRIPTS.items():
        assert set(re.findall(r'find\("([\w-]+)"\)', text)) <= set(ids), name
    for reference in re.findall(r'(?:for|aria-labelledby|list)="([\w-]+)"|href="#([\w-]+)"', html):
        assert set(filter(None, reference)) <= set(ids)
    files = set(re.findall(r'(?:src|href)="page/([\w.]+)"', html))
    files |= {name for text in SCRIPTS.values() for name in re.findall(r'from "\./([\w.]+)"', text)}
    assert files == set(FILES) - {"index.html"}


def test_every_field_has_a_label() -> None:
    html = FILES["index.html"]
    labelled = re.findall(r"<label>(?:(?!</label>).)*<(?:input|textarea)", html, re.S)
    named = re.findall(r'<label for="([\w-]+)"', html)
    assert len(labelled) + len(named) == len(re.findall(r"<(?:input|textarea)", html))
