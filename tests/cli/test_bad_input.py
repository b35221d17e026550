"""Every wrong request: one line that says why, exit code 2 (1 where the file fails to load)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFWriter

from scope_cpp.reference.tiny_model import write_file, write_tiny_model
from tests.reference.refused import LOADABLE, UNLOADABLE, write_refused

from .conftest import Run, assert_refused

USAGE = [
    (["--policy", "nope"], "valid are full, streaming-llm"),
    (["--prefill", "nope"], "valid are full, h2o, snapkv"),
    (["--policy", "snapkv"], "(snapkv is one of --prefill: give --prefill snapkv)"),
    (["--prefill", "tova"], "(tova is one of --policy: give --policy tova)"),
    (["--policy", "H2O"], "(did you mean h2o?)"),
    (["--granularity", "layer"], "head, cell"),
    (["--granularity", "Cell"], "(did you mean cell?)"),
    (["-ctk", "q80"], "(did you mean q8_0"),
    (["-fa", "On"], "(did you mean on?)"),
    (["--chat-template", "ChatML"], "(did you mean chatml?)"),
    (["--Budget", "5"], "did you mean --budget"),
    (["-o", "alpha=1"], "decode policy scope-retrieval has no option 'alpha'"),
    (["-o", "beta1"], "key=value"),
    (["-o", "heavy=x"], "whole number"),
    (["-o", "heavy=-1"], "at least 0"),
    (["-o", "beta1=5"], "one of --policy scope-slide, scope-foresight"),
    (["-o", "ahead=-1"], "ahead=-1: must be at least 0"),
    (["--policy", "scope-slide", "-o", "score=none"], "score=none: needs ahead or unlike"),
    (["--policy", "h2o", "-o", "ahead=8", "-o", "score=window"], "ahead=8: needs score=accumulate"),
    (["-ctk", "q9_9"], "unknown KV cache type 'q9_9'"),
    (["-fa", "maybe"], "--flash-attn"),
    (["--budget", "many"], "--budget 'many' is not understood"),
    (["--budget", "-5"], "--budget '-5'"),
    (["--budget", "0"], "--budget '0' must be more than 0"),
    (["--budget", "900TiB", "-n", "-1"], "are free"),
    (["--budget", "6"], "--budget"),
    (["--raw", "--budget", "20", "--policy", "h2o", "-o", "heavy=30"], "h2o"),
    (["-n", "0"], "-n 0"),
    (["-n", "-2"], "-n -2"),
    (["-n", "x"], "--n-predict"),
    (["-c", "3"], "-c 3"),
    (["-b", "0"], "--batch-size"),
    (["--top-p", "1.5"], "--top-p is 1.5: give a number within 0 to 1"),
    (["--typical", "2"], "--typical is 2.0: give a number within 0 to 1"),
    (["--temp", "nan"], "--temp is nan: give a number within 0 to 100"),
    (["-t", "99999"], "--threads is 99999: give a whole number within 0 to 4096"),
    (["--main-gpu", str(2**40)], "--main-gpu is 1099511627776: give a whole number within"),
    (["--grammar", "root ="], "bad grammar"),
    (["--json-schema", '{"not": {}}'], "bad JSON schema: #/not: this cannot be enforced"),
    (["-j", "{}", "-jf", "schema.json"], "--json-schema and --json-schema-file: leave one out"),
    (["--grammar", "root ::= [a]", "--json-schema", "{}"], "choose one"),
    (["--json-schema", "{"], "bad JSON schema"),
    (["--logit-bias", "x"], "TOKEN=BIAS"),
    (["--logit-bias", "99999=1"], "token 99999"),
    (["--stop", ""], "stop string is empty"),
    (["--split-mode", "x"], "split mode"),
    (["-ts", "a,b"], "--tensor-split"),
    (["-ngl", "x"], "-ngl x"),
    (["-f", "file"], "-p and -f"),
    (["--chat-template", "{% for %}"], "chat template failed"),
    (["--chat-template", "x", "--chat-template-file", "y"], "leave one out"),
    (["--raw", "--chat"], "leave --raw out"),
    (["--raw", "-sys", "Brief."], "leave --raw out"),
    (["-no-cnv", "--chat-template", "{{ messages[0].content }}"], "leave --raw out"),
    (["--config", "missing.toml"], "missing.toml"),
    (["-nkvo"], "has no option -nkvo"),
    (["-n5"], "did you mean -n 5?"),
    (["--no-such-flag"], "--no-such-flag"),
    (["-m", "other.gguf"], "two models"),
]


@pytest.mark.parametrize(("args", "phrase"), USAGE, ids=lambda value: " ".join(value)[:30])
def test_wrong_flags(run: Run, tiny: Path, args: list[str], phrase: str) -> None:
    assert_refused(run("generate", tiny, "-p", "Hello cat", "-n", 40, *args), 2, phrase)


_FORMS = "give cells (2048, 2k), a share of the full length (50%), memory (512MiB, 1.5GiB) or auto"
_OF_ALL = "give cells (2048, 2k), memory (512MiB, 1.5GiB)"
_BATCH = ["batch", "MODEL", "-i", "rows.jsonl", "-o", "-"]
SIZES = [
    (["generate", "MODEL", "-p", "x", "--budget"], _FORMS),
    (["chat", "MODEL", "-p", "x", "-st", "--budget"], _FORMS),
    ([*_BATCH, "--budget"], _FORMS),
    ([*_BATCH, "--cells"], f"{_OF_ALL} or auto"),
    ([*_BATCH, "--prefix-cells"], f"{_OF_ALL}, auto or 0"),
    (["serve", "MODEL", "--budget"], _FORMS),
    (["serve", "MODEL", "--cells"], f"{_OF_ALL} or auto"),
    (["serve", "MODEL", "--prefix-cache"], f"{_OF_ALL} or 0"),
    (["serve", "MODEL", "--max-body"], "give bytes (4194304) or a size such as 4MiB"),
    (["inspect", "MODEL", "--budget"], _FORMS),
    (["bench", "MODEL", "--budget"], _FORMS),
    (["eval", "run", "MODEL", "--task", "reference", "--budget"], _FORMS),
    (["demo", "--budget"], _FORMS),
]


@pytest.mark.parametrize("value", ["banana", "-1", "nan", "0.0001k"])
@pytest.mark.parametrize(("command", "wanted"), SIZES, ids=lambda x: "".join(x)[-25:])
def test_a_size_that_is_none_is_named_by_its_flag(
    run: Run, tiny: Path, command: list[str], wanted: str, value: str
) -> None:
    words = [str(tiny) if word == "MODEL" else word for word in command]
    result = run(*words, value)
    assert_refused(result, 2, f"error: {command[-1]} {value!r} ")
    assert wanted in result.stderr


@pytest.mark.parametrize(
    ("flags", "phrase"),
    [
        (["--grammar", "root ="], "bad grammar"),
        (["--json-schema", '{"not": {}}'], "bad JSON schema: #/not"),
        (["--logit-bias", "99999=1"], "token 99999"),
        (["-np", "5000"], "--parallel is 5000: give 1 to 247 rows at once"),
        (["-ctk", "q9_9"], "unknown KV cache type 'q9_9'"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_server_that_no_request_could_use_does_not_start(
    run: Run, tiny: Path, flags: list[str], phrase: str
) -> None:
    assert_refused(run("serve", tiny, "--port", 0, *flags), 2, phrase)


NEEDS_FLASH = [
    ["generate", "-p", "Hi"],
    ["chat", "-p", "Hi", "-st"],
    ["batch", "-i", "rows.jsonl", "-o", "-"],
    ["serve"],
    ["inspect"],
    ["bench"],
    ["eval run", "--task", "reference"],
    ["eval run", "--task", "reference", "--row", "mine: --policy h2o"],
]


@pytest.mark.parametrize("command", NEEDS_FLASH, ids=" ".join)
def test_a_v_in_blocks_without_flash_attention_is_refused_before_the_model_is_loaded(
    run: Run, tmp_path: Path, command: list[str]
) -> None:
    (tmp_path / "empty.gguf").touch()
    name, *rest = command
    flags = ("-ctk", "q4_0", "-ctv", "q4_0", "-fa", "off")
    result = run(*name.split(), tmp_path / "empty.gguf", *rest, *flags)
    assert_refused(result, 2, "-ctv q4_0 needs flash attention: ")
    assert "give -ctv f16" in result.stderr or "or -ctv f16" in result.stderr


def test_a_v_in_blocks_is_refused_where_a_model_has_no_flash_attention(
    run: Run, tmp_path: Path
) -> None:
    from tests.architectures.maker import write_architecture

    path = write_architecture(tmp_path / "grok.gguf", "grok")
    result = run("generate", path, "--raw", "-p", "Hi", "-n", 4, "-ctv", "q8_0")
    assert_refused(result, 2, "grok.gguf (grok) computes without flash attention")
    assert "give -ctv f16" in result.stderr


def test_numbers_too_large_for_a_list_of_them(run: Run, tiny: Path) -> None:
    for flag in ("-p", "-d", "-np"):
        assert_refused(run("bench", tiny, flag, f"64,{2**31}"), 2, f"{flag} 2147483648: give at")
    for flag in ("-n", "-r", "--beta"):
        result = run("bench", tiny, flag, 10**20)
        assert_refused(result, 2, f"{flag} {10**20}: give at most 2147483647")


def test_values_that_look_like_flags_are_values(run: Run, tiny: Path) -> None:
    result = run("generate", tiny, "-p", "-nkvo", "-n", 2, "--stop", "-xyz", "-s", "-1")
    assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize("stdin", [None, "", "\n"])
def test_an_empty_prompt(run: Run, tiny: Path, stdin: str | None) -> None:
    assert_refused(run("generate", tiny, stdin=stdin), 2, "prompt is empty")
    assert_refused(run("generate", tiny, "-p", ""), 2, "prompt is empty")
    assert_refused(run("generate", tiny, "-p", "", "--chat"), 2, "prompt is empty")


def test_a_prompt_that_is_not_utf8(run: Run, tiny: Path, tmp_path: Path) -> None:
    assert_refused(run("generate", tiny, stdin=b"caf\xe9"), 2, "byte 3 is not UTF-8")
    file = tmp_path / "latin1.txt"
    file.write_bytes(b"caf\xe9")
    assert_refused(run("generate", tiny, "-f", file), 2, "latin1.txt: byte 3 is not UTF-8")
    assert_refused(run("generate", tiny, "-f", tmp_path / "no.txt"), 2, "no.txt: No such file")


TEXT_FILES: dict[str, list[Any]] = {
    "-f": ["generate", "MODEL", "-f"],
    "--chat-template-file": ["generate", "MODEL", "-p", "x", "--chat-template-file"],
    "--grammar-file": ["generate", "MODEL", "-p", "x", "--grammar-file"],
    "--config": ["generate", "MODEL", "-p", "x", "--config"],
    "--system-prompt-file": ["chat", "MODEL", "-p", "x", "-st", "-sysf"],
    "-i": ["batch", "MODEL", "-o", "-", "--format", "csv", "-i"],
    "--api-key-file": ["serve", "MODEL", "--api-key-file"],
    "--sheets": ["demo", "--sheets"],
    "--data": ["eval", "run", "MODEL", "--task", "perplexity", "--data"],
    "report": ["plot", "cost"],
}


@pytest.mark.parametrize("flag", TEXT_FILES)
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("prompt\nä\n".encode("utf-16"), "it is UTF-16, not UTF-8: save it as UTF-8"),
        ("prömpt\n".encode("latin-1"), "byte 2 is not UTF-8: save it as UTF-8"),
        (b"p\0\n", "byte 1 is NUL, as in UTF-16 or in a binary file: save it as UTF-8"),
    ],
    ids=["UTF-16", "Latin-1", "NUL"],
)
def test_a_text_file_that_is_not_utf8(
    run: Run, tiny: Path, tmp_path: Path, flag: str, data: bytes, reason: str
) -> None:
    file = tmp_path / "text"
    file.write_bytes(data)
    command = [tiny if arg == "MODEL" else arg for arg in TEXT_FILES[flag]]
    result = run(*command, file)
    assert_refused(result, 1 if flag == "--data" else 2, reason)
    assert str(file) in result.stderr or "line of the CSV file" in result.stderr


def test_a_byte_order_mark_is_no_part_of_a_text(
    generate: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    plain, marked, config = (tmp_path / name for name in ("plain", "marked", "config"))
    plain.write_text("the cat", encoding="utf-8")
    marked.write_text("the cat", encoding="utf-8-sig")
    config.write_text("seed = 3\n", encoding="utf-8-sig")
    told = [generate("-f", file, "-n", 4, "--config", config) for file in (plain, marked)]
    assert told[0]["text"] == told[1]["text"]
    assert told[0]["usage"]["prompt_tokens"] == told[1]["usage"]["prompt_tokens"]


def test_a_prompt_larger_than_the_budget_names_both_ways_out(run: Run, tiny: Path) -> None:
    result = run("generate", tiny, "--raw", "-p", "x" * 50, "-n", 20, "--budget", 40)
    assert_refused(result, 2, "--prefill snapkv")
    assert "--budget 52 or more, such as 71, or a prefill policy" in result.stderr


def test_no_model(run: Run) -> None:
    assert_refused(run("bench"), 2, "no model")
    assert_refused(run("inspect"), 2, "no model")
    assert_refused(run("generate", "-p", "Hi", "-hff", "x.gguf"), 2, "no model")


def test_no_chat_template(run: Run, tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "bare.gguf")
    assert_refused(run("generate", path, "-p", "Hi", "--chat"), 2, "no chat template")


@pytest.mark.parametrize(
    "command",
    [
        ["generate", "-p", "Hi"],
        ["chat", "-p", "Hi", "-st"],
        ["batch", "-i", "rows.jsonl", "-o", "out.jsonl"],
        ["serve"],
        ["eval", "run"],
        ["plot", "drift", "-p", "Hi"],
    ],
    ids=lambda command: command[0],
)
@pytest.mark.parametrize("by_file", [False, True])
def test_an_unknown_template_lists_the_names(
    run: Run, tiny: Path, tmp_path: Path, command: list[str], by_file: bool
) -> None:
    flags = ["--chat-template", "chatlm"]
    if by_file:
        (tmp_path / "t.jinja").write_text("chatlm")
        flags = ["--chat-template-file", str(tmp_path / "t.jinja")]
    name, *rest = command
    words = [name, rest.pop(0)] if name in ("eval", "plot") else [name]
    result = run(*words, tiny, *rest, *flags)
    assert_refused(result, 2, "no chat template 'chatlm'")
    assert "plain, bailing, " in result.stderr and ", chatml, " in result.stderr


KINDS = [
    ("llama", {"general.type": "adapter", "adapter.type": "lora"}, "LoRA adapter", "it belongs to"),
    (
        "llama",
        {"general.type": "adapter", "general.base_model.0.name": "Big One"},
        "LoRA adapter",
        "the model it belongs to (Big One)",
    ),
    ("qwen2", {"adapter.type": "lora"}, "LoRA adapter", "llama-export-lora"),
    ("clip", {}, "projector (mmproj)", "give the model itself"),
    ("clip", {"general.type": "mmproj"}, "projector (mmproj)", "give the model itself"),
    ("", {"general.type": "imatrix"}, "importance matrix", "give the model itself"),
    ("", {"imatrix.chunk_count": "7"}, "importance matrix", "give the model itself"),
    ("controlvector", {}, "control vector", "give the model itself"),
    ("t5", {}, "encoder-decoder", "decoder layers only"),
    ("t5encoder", {}, "an encoder", "it can't generate"),
    ("eagle3", {}, "a draft", "give that model"),
]


@pytest.mark.parametrize("command", [["generate", "-p", "Hi"], ["inspect"], ["serve"]])
@pytest.mark.parametrize(("arch", "metadata", "what", "remedy"), KINDS)
def test_a_file_that_comes_beside_a_model(
    run: Run,
    tmp_path: Path,
    command: list[str],
    arch: str,
    metadata: dict[str, str],
    what: str,
    remedy: str,
) -> None:
    writer = GGUFWriter(tmp_path / "beside.gguf", arch)
    for key, value in metadata.items():
        writer.add_string(key, value)
    writer.add_tensor("blk.0.attn_q.weight.lora_a", np.zeros((4, 4), np.float32))
    write_file(writer)
    name, *rest = command
    result = run(name, tmp_path / "beside.gguf", *rest)
    assert_refused(result, 1, what)
    assert "beside.gguf is a" in result.stderr and remedy in result.stderr


@pytest.mark.parametrize("command", [["generate", "-p", "Hi", "-n", 3], ["inspect"]])
@pytest.mark.parametrize(("name", "word"), UNLOADABLE.items())
def test_files_that_are_no_model(
    run: Run, tmp_path: Path, command: list[Any], name: str, word: str
) -> None:
    path = write_refused(name, tmp_path / f"{name}.gguf")
    assert_refused(run(command[0], path, *command[1:]), 1, word)


@pytest.mark.parametrize("path", ["missing.gguf", "."])
def test_paths_that_are_no_file(run: Run, path: str) -> None:
    assert_refused(run("generate", path, "-p", "Hi"), 2, path)


def test_an_unknown_architecture(run: Run, tmp_path: Path, tiny: Path) -> None:
    path = tmp_path / "odd.gguf"
    path.write_bytes(tiny.read_bytes().replace(b"llama", b"lamma"))
    assert_refused(run("generate", path, "-p", "Hi", "-n", 3), 1, "architecture 'lamma'")


@pytest.mark.parametrize("name", LOADABLE)
def test_architectures_whose_cache_cannot_be_bounded(run: Run, tmp_path: Path, name: str) -> None:
    path = write_refused(name, tmp_path / f"{name}.gguf")
    result = run("generate", path, "-p", "Hello", "-n", 40, "--budget", 16)
    # an encoder writes nothing, whatever is asked
    assert_refused(result, 1 if name == "bert" else 2, f"{name}.gguf")


@pytest.mark.parametrize("n", [1, 100])
@pytest.mark.parametrize("flags", [("--budget", 30), ("--policy", "h2o", "--budget", 60)])
def test_a_recurrent_model_is_told_before_a_budget_is_advised(
    run: Run, tmp_path: Path, n: int, flags: tuple[object, ...]
) -> None:
    from tests.architectures.maker import write_architecture

    path = write_architecture(tmp_path / "m.gguf", "mamba")
    result = run("generate", path, "--raw", "-p", "word " * n, "-n", 100, *flags)
    assert_refused(result, 2, "m.gguf (mamba) can't be run with a bounded cache: the model is rec")
    assert "give --budget" not in result.stderr


@pytest.mark.parametrize(
    ("flags", "n"), [((), 1), (("--policy", "h2o"), 1), (("--policy", "full"), 0)]
)
def test_a_recurrent_model_says_once_why_its_cache_is_full(
    run: Run, tmp_path: Path, flags: tuple[str, ...], n: int
) -> None:
    from tests.architectures.maker import write_architecture

    path = write_architecture(tmp_path / "m.gguf", "mamba")
    result = run("generate", path, "--raw", "-p", "word", "-n", 4, *flags)
    told = "m.gguf (mamba) runs with the full cache: the model is recurrent"
    assert result.exit_code == 0 and result.stderr.count(told) == n


def test_a_recurrent_model_reads_more_than_it_was_trained_on(run: Run, tmp_path: Path) -> None:
    from tests.architectures.maker import write_architecture

    path = write_architecture(tmp_path / "m.gguf", "mamba")
    result = run("generate", path, "--raw", "-p", "word " * 300, "-n", 4)
    assert result.exit_code == 0
    line = "warning: position 512 is the last that m.gguf was trained on: what it writes from here"
    assert line in result.stderr
    assert "bounded" not in result.stderr


def test_an_unexpected_error_is_one_line_too(
    run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scope_cpp.engine.generate import Generation

    def fail(self: Generation) -> Any:
        raise KeyError("what")

    monkeypatch.setattr(Generation, "__iter__", fail)
    args = ("generate", tiny, "-p", "Hi", "-n", 3)
    assert_refused(run(*args), 1, "KeyError: 'what'; run with -v for the traceback")
    assert "Traceback" in run(*args, "-v").stderr


@pytest.mark.parametrize(
    ("command", "phrase"),
    [
        ("plot questions", "RUN is missing: a run's folder"),
        ("plot budget", "RUN is missing: folders made by"),
        ("plot prefill", "RUN is missing: folders made by"),
        ("plot cost", "RUN|FILE is missing: a folder made by"),
        ("eval report", "FOLDER is missing: the folder of a run"),
        ("eval compare", "FOLDER is missing: the folder of a run"),
        ("eval compare one", "FOLDER is missing: the folder of a run"),
        ("eval score", "FILE is missing: outputs"),
    ],
)
def test_a_missing_argument_is_named_and_told(run: Run, command: str, phrase: str) -> None:
    result = run(*command.split())
    assert_refused(result, 2, phrase)
    assert "; see 'scope " in result.stderr and " --help'" in result.stderr


@pytest.mark.parametrize(
    ("command", "phrase"),
    [
        ("generate MODEL hello world", "takes no argument 'hello world' here: give a prompt "
         'with -p "hello world"'),
        ("chat MODEL hello", 'give a prompt with -p "hello"'),
        ("plot drift MODEL hello", 'give a prompt with -p "hello"'),
        ("inspect MODEL hello", "takes no argument 'hello' here: see 'scope inspect --help'"),
        ("eval compare a b c", "takes no argument 'c' here: see 'scope eval compare --help'"),
    ],
)  # fmt: skip
def test_words_that_are_no_argument(run: Run, tiny: Path, command: str, phrase: str) -> None:
    words = [str(tiny) if word == "MODEL" else word for word in command.split()]
    assert_refused(run(*words), 2, phrase)


@pytest.mark.parametrize(
    "command",
    ["generate", "chat", "chat --session F", "batch -i - -o -", "serve", "inspect",
     "bench", "eval run", "plot drift"],
)  # fmt: skip
def test_a_model_that_does_not_exist_is_the_error(run: Run, command: str) -> None:
    name, *rest = command.split()
    words = [name, rest.pop(0)] if name in ("eval", "plot") else [name]
    phrase = "/nosuch.gguf does not exist: give the path of a GGUF file"
    assert_refused(run(*words, "/nosuch.gguf", *rest), 2, phrase)


def test_a_variable_that_nothing_reads_is_told(
    run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCOPE_CELLS", "5")  # of another command
    assert run("inspect", tiny).stderr == ""
    monkeypatch.setenv("SCOPE_BUGDET", "2k")
    monkeypatch.setenv("SCOPE_XYZ", "1")
    assert run("inspect", tiny).stderr.splitlines() == [
        "warning: the environment variable SCOPE_BUGDET is not known (did you mean SCOPE_BUDGET?): "
        "nothing reads it",
        "warning: the environment variable SCOPE_XYZ is not known: nothing reads it",
    ]


WRITTEN = [
    ("batch", "-i - -o", "-o"),
    ("bench", "--plot", "--plot"),
    ("plot heatmap", "-p x -o", "-o"),
    ("plot heatmap", "-p x --text --csv", "--csv"),
    ("chat", "-p x --session", "--session:"),
]


@pytest.mark.parametrize(("command", "flags", "named"), WRITTEN)
def test_a_file_to_write_is_refused_before_the_model_is_loaded(
    run: Run, tmp_path: Path, command: str, flags: str, named: str
) -> None:
    if "plot" in command or "plot" in flags:
        pytest.importorskip("matplotlib")
    (tmp_path / "empty.gguf").touch()
    file = tmp_path / "missing" / "x.png"
    result = run(*command.split(), tmp_path / "empty.gguf", *flags.split(), file)
    assert_refused(result, 2, "does not exist; make it first")
    assert result.stderr.startswith(f"error: {named} {file}")


def test_nothing_is_finished_where_a_file_could_not_be_opened(run: Run, tiny: Path) -> None:
    rows = '{"prompt": "a"}'
    result = run("batch", tiny, "-i", "-", "-o", "/proc/x.jsonl", stdin=rows)
    assert result.exit_code == 1
    assert "goes on from there" not in result.stderr
    assert "/proc/x.jsonl cannot be written: " in result.stderr


def test_a_run_whose_folder_cannot_be_made(run: Run, tiny: Path) -> None:
    result = run("eval", "run", tiny, "--task", "reference", "--limit", 1, "--out", "/proc/x")
    assert result.exit_code == 1
    assert "/proc/x cannot be written: " in result.stderr
    assert "name another place" in result.stderr
