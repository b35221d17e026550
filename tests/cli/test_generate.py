from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scope_cpp.engine.model import Model
from scope_cpp.policies import decode_policies, prefill_policies
from scope_cpp.reference.tiny_model import write_tiny_model

from .conftest import Run, assert_refused

Generate = Callable[..., dict[str, Any]]

PROMPT = ("--raw", "-p", "The cat sat on the mat")


def test_text_goes_to_stdout_and_is_that_of_the_object(
    run: Run, tiny: Path, generate: Generate
) -> None:
    result = run("generate", tiny, "--temp", 0, *PROMPT, "-n", 20)
    assert result.exit_code == 0
    assert result.stderr == ""
    text = generate(*PROMPT, "-n", 20)["text"]
    assert result.stdout == text + "\n"


@pytest.mark.parametrize("prefill", sorted(set(prefill_policies()) - {"full"}))
def test_small_batches_change_nothing(generate: Generate, prefill: str) -> None:
    """A chunk of a prompt may be longer than a batch; it was written past the batch's end."""
    bounds = ("-n", 8, "--budget", 200, "--prefill", prefill)
    prompt = ("-p", "word " * 150)
    whole = generate(*prompt, *bounds)
    assert whole["usage"]["prompt_tokens"] > whole["cells_capacity"]
    for sizes in (("-b", 8), ("-b", 1, "-ub", 16), ("-b", 10**6, "-ub", 3)):
        assert generate(*prompt, *bounds, *sizes)["text"] == whole["text"]


def test_object_of_a_bounded_generation(generate: Generate, tiny: Path) -> None:
    got = generate(*PROMPT, "-n", 80, "--budget", 48, "-o", "heavy=31", "-o", "recent=10")
    usage = got["usage"]
    with Model.load(tiny) as model:
        n_prompt = len(model.tokenize(PROMPT[-1]))
    assert usage == {
        "prompt_tokens": n_prompt,
        "completion_tokens": 80,
        "total_tokens": n_prompt + 80,
    }
    assert got["finish_reason"] == "length"
    # heavy hitters, recent tokens, and the token that floats above them
    assert got["cells_capacity"] == 31 + 10 + 1
    assert got["cells_used"] <= got["cells_peak"] == got["cells_capacity"]
    # the last token is never decoded
    assert got["evicted"] == n_prompt + 80 - 1 - got["cells_used"]
    assert got["selections"] > 0
    assert 0 < got["attention_loss"] < 1
    assert got["cells_allocated"] == 256
    # 2 layers of 2 KV heads with 64 values of 2 bytes in K and in V
    assert got["kv_bytes"] == 256 * 2 * 2 * 64 * 2 * 2
    assert got["options"]["decode"]["heavy"] == 31
    assert (got["policy"], got["prefill"], got["granularity"]) == (
        "scope-retrieval",
        "full",
        "head",
    )
    assert got["model"] == str(tiny)
    assert set(got["timings"]) == {
        "prompt_seconds",
        "generation_seconds",
        "prompt_per_second",
        "generated_per_second",
        "score_seconds",
        "select_seconds",
        "move_seconds",
    }
    assert all(value > 0 for value in got["timings"].values())


@pytest.mark.parametrize(
    ("policy", "granularity"),
    [
        (name, granularity)
        for name, policy in decode_policies().items()
        for granularity in (["head"] if policy.uneven else ["head", "cell"])
        if name != "full"
    ],
)
def test_every_policy_stays_within_its_budget(
    generate: Generate, policy: str, granularity: str
) -> None:
    got = generate(
        *PROMPT, "-n", 60, "--budget", 48, "--policy", policy, "--granularity", granularity
    )
    assert got["usage"]["completion_tokens"] == 60
    assert got["cells_peak"] <= got["cells_capacity"] <= 48
    assert got["evicted"] > 0


@pytest.mark.parametrize("prefill", [name for name in prefill_policies() if name != "full"])
def test_a_prompt_larger_than_the_budget(generate: Generate, prefill: str) -> None:
    got = generate("-p", "the cat and " * 30, "-n", 20, "--budget", 96, "--prefill", prefill)
    assert got["usage"]["prompt_tokens"] > 96
    assert got["cells_peak"] <= 96


def test_what_is_attended_is_said_beside_the_cells(
    generate: Generate, run: Run, tiny: Path
) -> None:
    args = ("-p", "the cat and " * 30, "-n", 20, "--budget", 96, "--prefill", "pyramidkv")
    got = generate(*args)
    assert got["rows_used"] < got["cells_used"]
    assert any("memory follows the largest layer" in line for line in got["warnings"])
    rows = (
        f"cells {got['cells_used']}/{got['cells_capacity']} ({got['rows_used']:.0f} rows a layer)"
    )
    assert rows in run("generate", tiny, *args, "-s", got["seed"], "-v").stderr
    even = generate("-p", "the cat and " * 30, "-n", 20, "--budget", 96, "--prefill", "snapkv")
    assert even["rows_used"] == even["cells_used"]


def test_what_fits_is_the_same_as_the_full_cache(generate: Generate) -> None:
    bounded = generate(*PROMPT, "-n", 30, "--budget", 1000)
    full = generate(*PROMPT, "-n", 30, "--policy", "full")
    assert bounded["text"] == full["text"]
    assert bounded["evicted"] == full["evicted"] == 0


@pytest.mark.parametrize("kv_type", ["q8_0", "f32"])
def test_kv_types(generate: Generate, kv_type: str) -> None:
    plain = generate(*PROMPT, "-n", 60, "--budget", 48)
    other = generate(*PROMPT, "-n", 60, "--budget", 48, "-ctk", kv_type, "-ctv", kv_type)
    assert other["evicted"] == plain["evicted"]
    assert other["kv_bytes"] == plain["kv_bytes"] * {"q8_0": 17 / 32, "f32": 2}[kv_type]


def test_the_seed_that_was_drawn_repeats_the_text(run: Run, tiny: Path) -> None:
    args = ("generate", tiny, *PROMPT, "-n", 20, "--json")
    first = json.loads(run(*args).stdout)
    assert json.loads(run(*args, "-s", first["seed"]).stdout)["text"] == first["text"]


def test_a_stop_string_ends_the_text(generate: Generate) -> None:
    whole = generate(*PROMPT, "-n", 30)["text"]
    got = generate(*PROMPT, "-n", 30, "--stop", "not in the text at all", "--stop", whole[4:7])
    assert got["text"] == whole[: whole.index(whole[4:7])]
    assert got["finish_reason"] == "stop"


def test_ctx_size_limits_prompt_and_output(generate: Generate) -> None:
    assert generate(*PROMPT, "-c", 40)["usage"]["total_tokens"] == 40


def test_where_the_prompt_may_come_from(generate: Generate, tmp_path: Path) -> None:
    text = "Ein Bär läuft.\nZwei."
    file = tmp_path / "prompt.txt"
    file.write_text(text, encoding="utf-8")
    expected = generate("-p", text, "-n", 8)
    for got in (
        generate("-f", file, "-n", 8),
        generate("-f", "-", "-n", 8, stdin=text),
        generate("-n", 8, stdin=text),
    ):
        assert got["usage"] == expected["usage"]
        assert got["text"] == expected["text"]


def test_the_newline_that_ends_a_file_is_part_of_raw_text_only(generate: Generate) -> None:
    def n_prompt(*args: object, stdin: str | None = None) -> int:
        return int(generate("-n", 1, *args, stdin=stdin)["usage"]["prompt_tokens"])

    assert n_prompt("--raw", stdin="Zwei.\n") == n_prompt("--raw", "-p", "Zwei.") + 1
    assert n_prompt(stdin="Zwei.\n") == n_prompt("-p", "Zwei.")
    assert n_prompt("-p", "Zwei.\n") == n_prompt("-p", "Zwei.") + 1


def test_a_prompt_goes_through_the_models_template(generate: Generate, tmp_path: Path) -> None:
    raw = generate("--raw", "-p", "[user] Hi\n[assistant] ", "-n", 8)
    for args in ((), ("--chat",)):
        assert generate("-p", "Hi", *args, "-n", 8)["text"] == raw["text"]
    system = generate("--raw", "-p", "[system] Brief.\n[user] Hi\n[assistant] ", "-n", 8)
    assert generate("-p", "Hi", "-sys", "Brief.", "-n", 8)["text"] == system["text"]
    file = tmp_path / "template.jinja"
    file.write_text("{{ messages[0].content }}!")
    own = generate("-no-cnv", "-p", "Hi!", "-n", 8)
    for args in (("--chat-template-file", file), ("--chat-template", file.read_text())):
        assert generate("-p", "Hi", *args, "-n", 8)["text"] == own["text"]
    chatml = generate(
        "--raw", "-p", "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "-n", 8
    )
    assert generate("-p", "Hi", "--chat-template", "chatml", "-n", 8)["text"] == chatml["text"]


def test_without_a_template_the_text_goes_on(run: Run, tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "base.gguf")
    args = ("generate", path, "--temp", 0, "-n", 8, "-p", "Hi")
    plain, raw = run(*args), run(*args, "--raw")
    assert plain.exit_code == raw.exit_code == 0
    assert plain.stdout == raw.stdout
    assert_refused(run(*args, "-sys", "Brief."), 2, "has no chat template")


def test_control_tokens_are_read_in_raw_text_only(generate: Generate) -> None:
    def n_prompt(*args: object) -> int:
        return int(generate(*args, "-n", 1)["usage"]["prompt_tokens"])

    text = ("-p", "a</s>b")
    assert n_prompt("--raw", *text) == 4  # BOS, a, EOS, b
    assert n_prompt("--raw", "--no-parse-special", *text) == 7
    assert n_prompt("--raw", "-p", "<s>a</s>b") == 4
    got = generate(*text, "-n", 1)
    assert got["usage"]["prompt_tokens"] == n_prompt("-p", "a....b")
    (line,) = got["warnings"]
    assert "the prompt has </s> as plain text" in line and "--raw" in line


def test_an_output_without_text_says_why_in_one_line(
    run: Run, tiny: Path, generate: Generate
) -> None:
    at_once = ("--logit-bias", "2=1000")
    why = "the first token, '</s>', ended the output"
    result = run("generate", tiny, "-p", "Hi", "-n", 5, *at_once)
    assert (result.exit_code, result.stdout) == (0, "\n")
    assert result.stderr == f"warning: no text was written: {why}\n"
    result = run("generate", tiny, "--raw", "-p", "Hi", "-n", 5, *at_once)
    assert f"{why}; without --raw the prompt is a message to the model" in result.stderr
    got = generate("-p", "Hi", "-n", 5, *at_once)
    assert (got["text"], got["no_text"]) == ("", why)
    assert got["warnings"] == [f"no text was written: {why}"]
    assert generate("-p", "Hi", "-n", 5)["no_text"] is None


@pytest.mark.parametrize("separator", ["=", ""])
def test_logit_bias_in_both_spellings(generate: Generate, tiny: Path, separator: str) -> None:
    with Model.load(tiny) as model:
        (token,) = model.tokenize("Q", add_special=False)
    got = generate(*PROMPT, "-n", 5, "--logit-bias", f"{token}{separator}+1000")
    assert got["text"] == "QQQQQ"


def test_grammar_and_schema(generate: Generate, tmp_path: Path) -> None:
    grammar = 'root ::= "a" | "b" "c"'
    got = generate(*PROMPT, "-n", 9, "--grammar", grammar)
    assert got["text"] in ("a", "bc")
    file = tmp_path / "g.gbnf"
    file.write_text(grammar)
    assert generate(*PROMPT, "-n", 9, "--grammar-file", file)["text"] == got["text"]
    schema = '{"enum": ["yes", "no"]}'
    got = generate(*PROMPT, "-n", 9, "--json-schema", schema)
    assert json.loads(got["text"]) in ("yes", "no")
    file.write_text(schema)
    assert generate(*PROMPT, "-n", 9, "-jf", file)["text"] == got["text"]
    assert generate(*PROMPT, "-n", 9, "-j", schema)["text"] == got["text"]


def test_positions_past_the_training_length_are_told_once(generate: Generate) -> None:
    lines = generate(*PROMPT, "-n", 600, "--budget", 64, "--ignore-eos")["warnings"]
    assert sum("position 512" in line for line in lines) == 1


@pytest.mark.parametrize(
    "limit", [("-n", 5), ("-c", 40), ("--grammar", 'root ::= "a"'), ("--policy", "full", "-c", 40)]
)
def test_a_limited_output_is_not_called_endless(run: Run, tiny: Path, limit: Any) -> None:
    result = run("generate", tiny, *PROMPT, "--ignore-eos", *limit)
    assert "may never end" not in result.stderr


def test_the_log_is_shown_with_v_only(run: Run, tiny: Path) -> None:
    loud = run("generate", tiny, *PROMPT, "-n", 2, "-v")
    assert "llama_model_loader" in loud.stderr
    assert "t/s" in loud.stderr
    quiet = run("generate", tiny, *PROMPT, "-n", 2)
    assert quiet.stderr == ""


def test_ctrl_c_prints_the_object_of_what_was_written(
    run: Run, tiny: Path, generate: Generate, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scope_cpp.engine.generate import Generation

    whole = generate(*PROMPT, "-n", 10)["text"]
    step, left = Generation.__next__, iter(range(3))

    def interrupted(self: Generation) -> Any:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Generation, "__next__", interrupted)
    result = run("generate", tiny, "--temp", 0, *PROMPT, "-n", 10, "--json")
    assert result.exit_code == 130
    assert result.stderr == ""
    got = json.loads(result.stdout)
    assert got["finish_reason"] == "interrupted"
    assert got["text"] and got["text"] != whole
    assert whole.startswith(got["text"])


def test_an_error_in_the_middle_has_a_line_of_its_own(
    run: Run, tiny: Path, generate: Generate, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scope_cpp.engine.generate import Generation
    from scope_cpp.errors import ScopeError

    whole = generate(*PROMPT, "-n", 10)["text"]
    step, left = Generation.__next__, iter(range(3))

    def failing(self: Generation) -> Any:
        if next(left, None) is None:
            raise ScopeError("the numbers overflow")
        return step(self)

    monkeypatch.setattr(Generation, "__next__", failing)
    result = run("generate", tiny, "--temp", 0, *PROMPT, "-n", 10)
    assert result.exit_code == 1
    assert result.stderr == "error: the numbers overflow\n"
    assert result.stdout.endswith("\n")
    written = result.stdout.removesuffix("\n")
    assert written and whole.startswith(written)


LONG = ("--raw", "-p", "x" * 399, "-ub", 100, "-n", 4, "--temp", 0)


@pytest.mark.skipif(sys.platform == "win32", reason="a terminal of POSIX")
@pytest.mark.parametrize("bounded", [(), ("--budget", 420, "-n", "40")])
def test_a_terminal_shows_how_far_the_prompt_is_read(tiny: Path, bounded: tuple[Any, ...]) -> None:
    from .pty_screen import Terminal

    with Terminal("generate", tiny, *LONG, *bounded, columns=100) as terminal:
        assert terminal.exit_code() == 0
        told = re.findall(rb"reading the prompt: (\d+) of (\d+) tokens", terminal.raw)
        done = [int(n) for n, _ in told]
        assert {int(n_all) for _, n_all in told} == {400}
        assert done == sorted(set(done)) and done[0] == 0 and len(done) >= 4
        assert "reading" not in terminal.text()
        assert "400" in terminal.text()  # of the statistics


def test_nothing_of_the_reading_is_told_in_a_pipe(run: Run, tiny: Path) -> None:
    assert "reading" not in run("generate", tiny, *LONG).stderr


@pytest.mark.skipif(sys.platform == "win32", reason="a terminal of POSIX")
def test_a_short_prompt_is_read_without_a_word(tiny: Path) -> None:
    from .pty_screen import Terminal

    with Terminal("generate", tiny, *PROMPT, "-n", 4) as terminal:
        assert terminal.exit_code() == 0
        assert b"reading" not in terminal.raw
