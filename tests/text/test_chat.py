from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from scope_cpp.engine import builtin_templates, jinja_sandbox
from scope_cpp.engine.chat import PLAIN, PLAIN_TEMPLATE, format_chat
from scope_cpp.engine.model import Model
from scope_cpp.errors import ScopeError, UsageError
from scope_cpp.reference.tiny_model import write_tiny_model
from tests.conftest import Tiny

from .templates import FAMILIES, GEMMA, LLAMA3

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
TURNS = [
    *CHAT,
    {"role": "assistant", "content": "<think>A greeting.</think>Hello."},
    {"role": "user", "content": 'Say "ünï" {{ 1 }}\n twice '},
]
# content as a list of parts, as templates of models that see images want it
PARTS = (
    "{% for m in messages %}<{{ m.role }}>{% for c in m['content'] | selectattr('type', 'equalto',"
    " 'text') %}{{ c['text'] }}{% endfor %}{% endfor %}"
)
PARTS_BY_INDEX = "{% for m in messages %}<{{ m.role }}>{{ m.content[0]['text'] }}{% endfor %}"
PARTS_OR_ERROR = (
    "{% for m in messages %}{% if m.content is string %}{{ raise_exception('no') }}{% endif %}"
    "<{{ m.role }}>{% for c in m.content %}{{ c.text + '' }}{% endfor %}{% endfor %}"
)
PARTS_AND_SYSTEM = (
    "{% if messages[0].role != 'system' %}{{ raise_exception('system first') }}{% endif %}"
    + PARTS_BY_INDEX
)
ENDLESS_LIST: list[Any] = []
ENDLESS_LIST.append(ENDLESS_LIST)
ALL = "{% for m in messages %}{{ m.content }}|{% endfor %}"


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_the_models_own_template(model: Model) -> None:
    prompt, stops = format_chat(model, CHAT)
    assert prompt == "[system] Be brief.\n[user] Hi\n[assistant] "
    assert stops == ["</s>"]
    tokens = model.tokenize(prompt, add_special=True, parse_special=True)
    assert tokens.count(model.bos_token) == 1
    assert (
        format_chat(model, CHAT, add_generation_prompt=False)[0] == prompt[: -len("[assistant] ")]
    )


def test_another_template(model: Model) -> None:
    prompt, _ = format_chat(model, user("Hi"), "{{ messages[-1]['content'] }}{{ eos_token }}")
    assert prompt == "Hi</s>"


def test_without_a_template(tmp_path: Path) -> None:
    with Model.load(write_tiny_model(tmp_path / "m.gguf")) as bare:
        with pytest.raises(UsageError, match="--chat-template.*'plain'"):
            format_chat(bare, CHAT)
        prompt, stops = format_chat(bare, TURNS[:3] + user("Bye"), PLAIN)
        assert format_chat(bare, CHAT, PLAIN_TEMPLATE)[0] in prompt
    assert prompt == (
        "Be brief.\n\nUser: Hi\nAssistant: <think>A greeting.</think>Hello.\nUser: Bye\nAssistant:"
    )
    assert stops == ["</s>", "\nUser:"]


@pytest.mark.parametrize("name", FAMILIES)
def test_families_as_llama_cpp_python_renders_them(model: Model, name: str) -> None:
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    stock = Jinja2ChatFormatter(FAMILIES[name], "</s>", "<s>")
    for messages in (CHAT[1:], CHAT, TURNS):
        prompt, _ = format_chat(model, messages, FAMILIES[name])
        assert prompt == stock(messages=messages).prompt.removeprefix("<s>")
        assert CHAT[1]["content"] in prompt


def test_what_the_families_need(model: Model) -> None:
    llama, _ = format_chat(model, TURNS, LLAMA3)
    assert f"Year: {time.strftime('%Y')}" in llama
    for name in ("qwen3", "deepseek-r1"):  # the thinking of earlier turns is gone
        prompt, _ = format_chat(model, TURNS, FAMILIES[name])
        assert "Hello." in prompt
        assert "A greeting." not in prompt
    got, _ = format_chat(model, user("é<"), "{{ messages | tojson }}")
    assert json.loads(got) == user("é<")
    assert "é<" in got


def test_a_system_message_that_the_template_refuses_goes_before_the_first_text(
    model: Model,
) -> None:
    merged = [*user("Be brief.\nHi"), *TURNS[2:]]
    assert format_chat(model, TURNS, GEMMA) == format_chat(model, merged, GEMMA)
    with pytest.raises(UsageError, match="failed: Roles must alternate"):
        format_chat(model, [*CHAT, *user("Again")], GEMMA)
    with pytest.raises(UsageError, match="failed: System role not supported"):
        format_chat(model, CHAT[:1], GEMMA)


def test_a_system_message_that_the_template_leaves_out_goes_there_too(model: Model) -> None:
    template = "{% for m in messages if m.role != 'system' %}<{{ m.content }}>{% endfor %}"
    assert format_chat(model, TURNS[:3], template)[0].startswith("<Be brief.\nHi>")
    shown = "{% for m in messages %}<{{ m.content | upper }}>{% endfor %}"
    assert format_chat(model, CHAT, shown)[0] == "<BE BRIEF.><HI>"


@pytest.mark.parametrize("template", ["{# x #}", "user: {{ 1 }}", "{{ messages[0].content }}"])
def test_a_template_that_leaves_the_user_out(model: Model, template: str) -> None:
    with pytest.raises(UsageError, match="leaves out the last user message"):
        format_chat(model, [*user("One"), TURNS[2], *user("user")], template)


def test_a_template_that_changes_the_text_or_begins_no_answer_is_taken(model: Model) -> None:
    lines = "{% for m in messages %}{{ m.content | replace('\\n', ' / ') }}{% endfor %}"
    assert format_chat(model, user("a\nb"), lines)[0] == "a / b"


HABITS = [
    (
        "{% if tools is none and not documents %}{{ messages[0]['content'] }}{% endif %}",
        "Hi",
    ),
    ("{{ messages[0].get('content') }}{{ messages[0].get('name', '-') }}", "Hi-"),
    ("{{ messages[0].content }}{{ messages[0].tool_calls }}{{ nothing }}", "Hi"),
    ("{% if enable_thinking is defined %}x{% endif %}{{ messages[-1]['content'] }}", "Hi"),
    ("{{ strftime_now('%d') | length }}{{ messages[0].content }}", "2Hi"),
    ("{{ {'a': [1]} | tojson(indent=1) }}{{ messages[0].content }}", '{\n "a": [\n  1\n ]\n}Hi'),
    (
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
        "{{ m.content }}{% if ns.n %}{% break %}{% endif %}{% endfor %}{{ ns.n }}",
        "Hi1",
    ),
    (
        "{% for m in messages %}{% if not m %}{% continue %}{% endif %}{{ m.content }}{% endfor %}",
        "Hi",
    ),
    ("{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}", "Hi"),
    ("{% macro say(m, end='.') %}{{ m.content ~ end }}{% endmacro %}{{ say(messages[0]) }}", "Hi."),
    ("{% set text %}{{ messages[0].content }}!{% endset %}{{ text.strip().split('!')[0] }}", "Hi"),
    ("{% for k, v in messages[0] | items %}{{ k }}={{ v }};{% endfor %}", "role=user;content=Hi;"),
    ("{% for k, v in messages[0].items() %}{{ v }}{% endfor %}", "userHi"),
    (
        "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join }}",
        "Hi",
    ),
    ("{{ messages[::-1][0].content.lstrip('x').replace('\\n', '') }}{{ 'x' if false }}", "Hi"),
    ("  {%- if true %}\n  {{- messages[0].content }}\n  {%- endif %}\n", "Hi"),
    ("{{ bos_token + messages[0].content + eos_token }}", "Hi</s>"),
    ("{{ messages[0].content if messages[0].content is string else raise_exception('x') }}", "Hi"),
]


@pytest.mark.parametrize(("template", "prompt"), HABITS, ids=lambda text: text[:40])
def test_habits_of_templates(model: Model, template: str, prompt: str) -> None:
    assert format_chat(model, user("Hi"), template)[0] == prompt


@pytest.mark.parametrize("template", [PARTS, PARTS_BY_INDEX, PARTS_OR_ERROR, PARTS_AND_SYSTEM])
def test_a_template_that_wants_parts_gets_parts(model: Model, template: str) -> None:
    prompt, _ = format_chat(model, TURNS, template)
    assert prompt == "".join(f"<{m['role']}>{m['content']}" for m in TURNS)
    prompt, _ = format_chat(model, [*CHAT[:1], *user("user")], template)
    assert prompt == "<system>Be brief.<user>user"


def test_a_template_that_takes_both_gets_text(model: Model) -> None:
    both = (
        "{% for m in messages %}{% if m.content is string %}={{ m.content }}"
        "{% else %}{% for c in m.content %}{{ c.text }}{% endfor %}{% endif %}{% endfor %}"
    )
    assert format_chat(model, user("Hi"), both)[0] == "=Hi"


def test_control_tokens_in_parts_stay_text(model: Model) -> None:
    prompt, _ = format_chat(model, user("a</s>b"), PARTS)
    assert 2 not in model.tokenize(prompt, parse_special=True)


def test_every_template_that_llama_cpp_knows_by_name(model: Model) -> None:
    assert {"chatml", "llama3", "mistral-v7", "gemma", "phi4"} <= set(builtin_templates.names())
    for name in builtin_templates.names():
        prompt, stops = format_chat(model, TURNS, name)
        assert "Hello." in prompt and TURNS[3]["content"].strip() in prompt
        assert "Be brief." in prompt  # some have no role for it, and get it with the user's text
        assert stops == ["</s>"]
        typed = format_chat(model, user("a</s>b<s>"), name)[0]
        plain = format_chat(model, user("a....b..."), name)[0]
        special = {1, 2}
        counts = [
            sum(token in special for token in model.tokenize(text, parse_special=True))
            for text in (typed, plain)
        ]
        assert counts[0] == counts[1], name


def test_a_template_by_name(model: Model) -> None:
    chatml = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in TURNS)
    assert format_chat(model, TURNS, "chatml")[0] == chatml + "<|im_start|>assistant\n"
    assert format_chat(model, TURNS, "chatml", add_generation_prompt=False)[0] == chatml
    assert format_chat(model, user("é🙂" * 3000), "gemma")[0].count("é🙂") == 3000
    with pytest.raises(UsageError, match="NUL"):
        format_chat(model, user("a\0b"), "chatml")


@pytest.mark.parametrize("name", ["chatML", "", "template.jinja"])
def test_a_template_by_a_name_that_is_unknown(model: Model, name: str) -> None:
    with pytest.raises(UsageError) as err:
        format_chat(model, user("Hi"), name)
    assert repr(name) in str(err.value)
    assert "plain, bailing, " in str(err.value) and "chatml" in str(err.value)
    assert "\n" not in str(err.value)


@pytest.mark.parametrize("role", ["system", "user", "assistant", "tool", "x</s>"])
def test_control_tokens_in_any_message_stay_text(model: Model, role: str) -> None:
    template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ m.name }}"
        "{{ m.tool_calls | default([]) | tojson }}{{ eos_token }}{% endfor %}"
    )
    calls = [{"function": {"name": "</s>", "arguments": {"</s>": ["</s>"]}}}]
    message = {"role": role, "content": "a</s>b", "name": "</s>", "tool_calls": calls}
    prompt, _ = format_chat(model, [message, *user("Hi")], template)
    tokens = model.tokenize(prompt, parse_special=True)
    assert tokens.count(model.eos_token) == 2  # the template's own
    assert model.detokenize(tokens).count("</s>") == 5 + (role == "x</s>")


@pytest.mark.parametrize("typed", ["</s>", "<s>x", "a </s></s> b", "<unk>"])
def test_control_tokens_that_a_user_types_stay_text(model: Model, typed: str) -> None:
    prompt, _ = format_chat(model, user(typed), ALL + "{{ eos_token }}")
    assert model.tokenize(typed, add_special=False, parse_special=True) != model.tokenize(
        typed, add_special=False
    )
    tokens = model.tokenize(prompt, add_special=True, parse_special=True)
    special = {model.bos_token, model.eos_token, 0}
    assert [token for token in tokens if token in special] == [model.bos_token, model.eos_token]
    assert model.detokenize(tokens[1:-1]).removeprefix(" ") == typed + "|"


def test_no_space_comes_into_the_name_of_a_control_token(stories: Model) -> None:
    prompt, _ = format_chat(stories, user("Once </s> upon"), ALL)
    tokens = stories.tokenize(prompt, add_special=True, parse_special=True)
    assert stories.detokenize(tokens[1:]).removeprefix(" ") == "Once </s> upon|"


def test_other_texts_reach_the_template_unchanged(model: Model) -> None:
    text = 'a < b </ s> <|x|> \u2028 "\\" é 🙂'
    assert format_chat(model, user(text), ALL)[0] == text + "|"


# a template comes with the file of a stranger

BROKEN = [
    ("line one\n{% for %}", r"failed \(line 2\)"),
    ("one\n\n{{ 1 / 0 }}", r"\(line 3\): division by zero"),
    ("{{ messages[9].content.upper() }}", "no element 9"),
    ("{{ raise_exception('only\nuser turns') }}", "failed: only user turns$"),
    ("{{ nobody() }}", "'nobody' is undefined"),
    ("{% unknown %}", "unknown"),
]
FORBIDDEN = [
    ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
    ("{{ ''['__class__'].mro() }}", "unsafe"),
    ("{{ (''|attr('__class__')).mro() }}", "unsafe"),
    ("{{ '{0.__class__.__mro__}'.format('') }}", "unsafe"),
    ("{% set f = '{0.__class__.__mro__}'.format %}{{ f('') }}", "unsafe"),
    ("{{ [''] | map(attribute='__class__.__mro__') | map('first') | list }}", "unsafe|undefined"),
    ("{{ lipsum.__globals__.os }}", "unsafe"),
    ("{{ cycler.__init__.__globals__.os }}", "unsafe"),
    ("{{ raise_exception.__globals__.sys.modules }}", "unsafe"),
    ("{{ strftime_now.__globals__['sys'].modules }}", "unsafe"),
    ("{{ self.__init__.__globals__ }}", "unsafe"),
    ("{{ self._TemplateReference__context.environment.loader.load_func('x') }}", "unsafe"),
    ("{{ messages.append(1) }}", "unsafe"),
    ("{{ messages[0].update(role='x') }}", "unsafe"),
    ("{{ messages[0].pop('role') }}", "unsafe"),
    ("{{ open('/etc/passwd').read() }}", "'open' is undefined"),
    ("{% include '/etc/passwd' %}", "'/etc/passwd': a chat template cannot load another"),
    ("{% import 'os' as os %}", "'os': a chat template cannot load another"),
    ("{% extends 'base' %}", "'base': a chat template cannot load another"),
]
ENDLESS = [
    ("{% for i in range(10**9) %}{% endfor %}", "[Rr]ange"),
    ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "without end"),
    ("{{ " + "(" * 5000, "without end"),
    ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "0.3 s"),
    ("{% for a in range(99999) %}{% if a %}{% endif %}{{ 'x' * 1000 }}{% endfor %}", "characters"),
    ("{{ 'x' * 10**7 }}", "characters"),
    ("{{ 'x' * 10**11 }}", "too much memory"),
    ("{{ '%999999999999d' % 1 }}", "memory|too big"),
    ("{{ 9 ** (9 ** 9) }}", "0.3 s|memory"),
    (
        "{% set n = namespace(x='x') %}"
        "{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "too much memory|0.3 s",
    ),
    (
        "{% set n = namespace(x=[1]) %}"
        "{% for i in range(99) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}",
        "too much memory|0.3 s|without end",
    ),
    (
        "{% set n = namespace() %}{% set n.x = [n] %}"
        "{% for i in range(40) %}{% set n.x = n.x + n.x %}{% endfor %}{{ n.x }}",
        "too much memory|0.3 s|without end",
    ),
]


@pytest.fixture
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jinja_sandbox, "MAX_SECONDS", 0.3)


@pytest.mark.usefixtures("_short")
@pytest.mark.parametrize(
    ("template", "cause"),
    [*BROKEN, *FORBIDDEN, *ENDLESS],
    ids=lambda text: text[:40].replace("\n", " "),
)
def test_a_template_that_fails(model: Model, template: str, cause: str) -> None:
    with pytest.raises(UsageError, match=cause) as err:
        format_chat(model, CHAT, template)
    assert "the chat template failed" in str(err.value)
    assert "\n" not in str(err.value)
    assert format_chat(model, user("Hi"), ALL)[0] == "Hi|"


ALTERNATING = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}{{ m.content }}|{% endfor %}"
)
OWN = [
    ("{% for %}", "the chat template failed (line 1): "),
    ("{{ messages[9].content.upper() }}", "the chat template failed (line 1): "),
    ("{{ raise_exception('No.') }}", "the chat template failed: No."),
    ("hello", "it leaves out the last user message: give another (--chat-template)"),
    ("chatML", "it leaves out the last user message"),
    ("{# x #}", "it leaves out the last user message"),
]


@pytest.mark.parametrize(("template", "cause"), OWN)
def test_a_file_whose_template_fails_is_at_fault(tiny: Tiny, template: str, cause: str) -> None:
    """By exit code 1; a template that the user gives is the user's fault."""
    path = tiny(chat_template=template)
    with Model.load(path) as model:
        with pytest.raises(ScopeError) as err:
            format_chat(model, CHAT)
        assert (type(err.value), err.value.exit_code) == (ScopeError, 1)
        assert str(err.value).startswith(f"{path.name}: the chat template failed")
        assert cause in str(err.value)
        with pytest.raises(UsageError):
            format_chat(model, CHAT, template)


def test_messages_that_the_template_of_a_file_refuses_are_at_fault(tiny: Tiny) -> None:
    with Model.load(tiny(chat_template=ALTERNATING)) as model:
        assert format_chat(model, TURNS[1:])[0].endswith("|")
        with pytest.raises(UsageError, match="^the chat template failed: Roles must alternate$"):
            format_chat(model, [*CHAT, *user("Again")])


def test_a_file_may_name_a_template_of_llama_cpp(tiny: Tiny) -> None:
    with Model.load(tiny(chat_template="chatml")) as model:
        assert format_chat(model, CHAT) == format_chat(model, CHAT, "chatml")


def test_the_memory_has_a_bound_of_its_own(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    jinja_sandbox._worker.close()
    with monkeypatch.context() as patch:
        patch.setattr(jinja_sandbox, "MAX_BYTES", 1 << 28)
        with pytest.raises(UsageError, match="too much memory"):
            format_chat(model, CHAT, "{% set x = [messages] * 10**8 %}" + ALL)
    jinja_sandbox._worker.close()


def test_threads_share_one_sandbox_process(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    start = jinja_sandbox._start
    monkeypatch.setattr(jinja_sandbox, "_start", lambda: started.append(1) or start())
    jinja_sandbox._worker.close()
    got: list[str] = []

    def render(i: int) -> None:
        got.append(format_chat(model, user(f"text {i}"), ALL)[0])

    threads = [threading.Thread(target=render, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == [f"text {i}|" for i in range(8)]
    assert started == [1]


def test_an_interrupted_rendering_leaves_no_reply_behind(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange = jinja_sandbox._exchange

    def interrupt(process: Any, request: bytes) -> bytes:
        process.stdin.write(request)
        process.stdin.flush()
        raise KeyboardInterrupt

    monkeypatch.setattr(jinja_sandbox, "_exchange", interrupt)
    with pytest.raises(KeyboardInterrupt):
        format_chat(model, user("old"), ALL)
    monkeypatch.setattr(jinja_sandbox, "_exchange", exchange)
    assert format_chat(model, user("new"), ALL)[0] == "new|"


def test_without_a_python_to_start(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    jinja_sandbox._worker.close()
    monkeypatch.setattr("sys.executable", "/no/such/python")
    with pytest.raises(ScopeError, match="/no/such/python cannot be started"):
        format_chat(model, CHAT)


@pytest.mark.parametrize(
    ("messages", "cause"),
    [
        ([], "no message"),
        ([{"role": "user"}], "message 0 .* no content"),
        ([{"role": "user", "content": None}], "message 0 .* no content"),
        ([*CHAT, {"content": "x"}], "message 2 .* no role"),
        (["hello"], "message 0 .* no role"),
        ([{**CHAT[1], "extra": object()}], "message 0 has what JSON can't hold: "),
        ([{**CHAT[1], "extra": ENDLESS_LIST}], "message 0 has what JSON can't hold: "),
    ],
)
def test_messages_of_another_form(model: Model, messages: list[dict[str, str]], cause: str) -> None:
    with pytest.raises(UsageError, match=cause):
        format_chat(model, messages)
