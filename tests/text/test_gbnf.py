from __future__ import annotations

import re
from importlib import import_module

import pytest

from scope_cpp.engine.gbnf import fault
from scope_cpp.native.library import llama_cpp

# the second half passes llama.cpp's own check, and makes it abort or loop
RECURSIVE = [
    'root ::= root "a" | "b"',
    'root ::= s\ns ::= t | "x"\nt ::= s "y"',
    'root ::= "" root',
    'root ::= "a"* root',
    'root ::= "a"{0,3} root',
    'root ::= "a"{0} root',
    'root ::= ("a" | ) root',
    'root ::= "x" s\ns ::= (s)? "y"',
    "root ::= [] root",
    'root ::= b root\nb ::= c\nc ::= ""',
    'root ::= b root "x" | "y"\nb ::= c\nc ::= "z"?',
    'root ::= "k" s\ns ::= b (("q" | s)) "x"\nb ::= c c\nc ::= ("z" | )',
]
SOUND = [
    'root ::= "a" root | "b"',
    'root ::= [a-z] root | ""',
    'root ::= ("a" root)*',
    'root ::= (("a"?)*)*',
    'root ::= "a"{1,} root | .',
    'root ::= "root" "(" root ")" # root ::= root\n | "]" [)(] root | "x"',
    r'root ::= "\" root" root | [\]] root | "end"',
    "root ::= <[3]> root | !<[4]> root | <think> root | .",
    "root ::= s\ns ::= t\nt ::= [0-9]+ s?",
]


@pytest.mark.parametrize("grammar", RECURSIVE)
def test_left_recursion_is_found(grammar: str) -> None:
    assert re.match("left recursion, (root|s|t) leads", fault(grammar) or "")


@pytest.mark.parametrize("grammar", SOUND)
def test_other_recursion_is_fine(grammar: str) -> None:
    assert fault(grammar) is None


def test_the_rule_on_the_cycle_is_named_not_who_leads_to_it() -> None:
    found = fault('a ::= m\nroot ::= a\nm ::= z\nz ::= m "x"')
    assert re.match("left recursion, (m|z) leads", found or "")


def test_grammars_of_the_bindings_are_fine() -> None:
    assert llama_cpp is not None
    bundled = import_module("llama_cpp.llama_grammar")
    grammars = [text for name, text in vars(bundled).items() if name.endswith("_GBNF")]
    assert len(grammars) > 3
    assert [fault(text) for text in grammars] == [None] * len(grammars)


@pytest.mark.parametrize("text", ["", "root", "root ::= ) | ( *", '"', "::=", "{", "a ::= a::= a"])
def test_invalid_syntax_is_left_to_llama_cpp(text: str) -> None:
    assert fault(text) in (None, "left recursion, a leads to itself at its start")


def chain(n: int, rule: str, last: str) -> str:
    links = (f"r{i} ::= {rule.replace('next', f'r{i + 1}')}" for i in range(n))
    return "\n".join(("root ::= r0", *links, f"r{n} ::= {last}"))


@pytest.mark.parametrize(
    ("grammar", "cause"),
    [
        (chain(20, "next next", '"x"?'), "can begin in 100000 ways or more"),
        (chain(20, "next | next", '""'), "can begin in 100000 ways or more"),
        (chain(5000, '"a" | next', '"x"'), "it has 5002 rules: at most 1000"),
        ("root ::= " + "(" * 20 + '"a"' + " | b)" * 20 + '\nb ::= "b"', None),
        (chain(900, '"a" next | next', '"x"'), None),
        ("root ::= " + "(" * 100 + '"a"' + ")*" * 100, None),
    ],
)
def test_too_many_rules_and_beginnings_are_found(grammar: str, cause: str | None) -> None:
    found = fault(grammar)
    assert found is None if cause is None else cause in (found or "")
