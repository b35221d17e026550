from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scope_cpp.engine.load_failure import load_failure
from scope_cpp.engine.model import Model, format_count
from scope_cpp.errors import ScopeError, UsageError
from scope_cpp.native import kv_evict
from scope_cpp.reference.tiny_model import write_tiny_model
from tests.reference.refused import UNLOADABLE, write_refused


def test_shape(model: Model, tiny_path: Path) -> None:
    assert model.path == tiny_path
    assert model.arch == "llama"
    assert model.desc == f"llama {format_count(model.n_params)} all F32"
    assert (model.n_layer, model.n_embd, model.n_head, model.n_head_kv) == (2, 128, 8, 2)
    assert (model.head_dim_k, model.head_dim_v) == (64, 64)
    assert model.n_head_kv_by_layer == (2, 2)
    assert model.n_ctx_train == 256
    assert model.size_bytes == 4 * model.n_params > 0


@pytest.mark.parametrize(
    ("n", "shown"),
    [
        (0, "0"),
        (999, "999"),
        (1_000, "1K"),
        (264_192, "264K"),
        (134_515_008, "135M"),  # SmolLM2-135M, which llama.cpp calls 256M
        (494_032_768, "494M"),
        (999_600_000, "1B"),
        (1_543_714_304, "1.5B"),
        (9_960_000_000, "10B"),
        (70_553_706_496, "71B"),
        (1_040_000_000_000, "1T"),
    ],
)
def test_a_number_of_weights_as_models_are_called_by_it(n: int, shown: str) -> None:
    assert format_count(n) == shown


@pytest.mark.parametrize(("arch", "n_head_kv"), [("qwen2", 1), ("phi3", 4)])
def test_other_architectures(tmp_path: Path, arch: str, n_head_kv: int) -> None:
    path = write_tiny_model(tmp_path / "m.gguf", arch=arch, n_head_kv=n_head_kv)
    with Model.load(path) as other:
        assert other.arch == arch
        assert other.n_head_kv_by_layer == (n_head_kv,) * 2


def test_head_size_without_a_key_of_its_own(stories: Model) -> None:
    assert stories.metadata("llama.attention.key_length") is None
    assert stories.head_dim_k == stories.head_dim_v == 8


def test_metadata(model: Model) -> None:
    assert model.metadata("general.architecture") == "llama"
    assert model.metadata("llama.block_count") == "2"
    assert model.metadata("no.such.key") is None


def test_a_long_value_is_read_whole(tmp_path: Path) -> None:
    template = "{# " + "long " * 500 + "#}{{ messages[0].content }}"
    path = write_tiny_model(tmp_path / "m.gguf", chat_template=template)
    with Model.load(path) as other:
        assert other.chat_template == template
        assert other.metadata("tokenizer.chat_template") == template


def test_special_tokens(model: Model) -> None:
    assert (model.bos_token, model.eos_token, model.eot_token) == (1, 2, None)
    assert model.add_bos
    assert model.eog_tokens == {2}
    assert model.is_eog(2)
    assert not model.is_eog(5)
    assert model.has_eog
    assert model.suppressed_tokens == ()


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_any_text_survives(model: Model, text: str) -> None:
    tokens = model.tokenize(text, add_special=False)
    assert b"".join(map(model.token_to_piece, tokens)).decode() == text
    assert model.detokenize(tokens) == text


def test_special_text_is_read_only_when_asked(model: Model) -> None:
    assert model.tokenize("</s>", add_special=False, parse_special=True) == [2]
    assert model.tokenize("</s>", add_special=False) != [2]
    assert model.tokenize("a")[0] == model.bos_token
    assert model.detokenize([2]) == ""
    assert model.detokenize([2], special=True) == "</s>"
    assert model.token_to_piece(2) == b""
    assert model.token_to_piece(2, special=True) == b"</s>"


def test_nothing_follows_a_text_that_is_to_be_continued(tmp_path: Path, model: Model) -> None:
    wants = (("tokenizer.ggml.add_eos_token", True), ("tokenizer.ggml.add_sep_token", True))
    path = write_tiny_model(tmp_path / "m.gguf", metadata=wants)
    with Model.load(path) as other:
        for text in ("", "a", "a</s>b"):
            for parse in (False, True):
                expected = model.tokenize(text, parse_special=parse)
                assert other.tokenize(text, parse_special=parse) == expected
        assert other.tokenize("a")[0] == other.bos_token


def test_bos_comes_once(model: Model) -> None:
    (a,) = model.tokenize("a", add_special=False)
    assert model.tokenize("a", parse_special=True) == [1, a]
    assert model.tokenize("<s>a", parse_special=True) == [1, a]
    assert model.tokenize("<s><s>a", parse_special=True) == [1, 1, a]
    assert model.tokenize("<s>a", add_special=False, parse_special=True) == [1, a]
    assert model.tokenize("<s>a")[1] != 1


def test_no_bos_where_the_file_wants_none(tmp_path: Path) -> None:
    wants = (("tokenizer.ggml.add_bos_token", False),)
    with Model.load(write_tiny_model(tmp_path / "m.gguf", metadata=wants)) as other:
        assert not other.add_bos
        assert other.tokenize("a") == other.tokenize("a", add_special=False)
        assert other.tokenize("<s>", parse_special=True) == [1]


def test_a_text_longer_than_any_first_guess(model: Model) -> None:
    text = "and the thing " * 2000
    tokens = model.tokenize(text, add_special=False)
    assert model.detokenize(tokens) == text


def test_nul_and_newline_are_ordinary_characters(model: Model) -> None:
    assert model.detokenize(model.tokenize("a\0b\nc", add_special=False)) == "a\0b\nc"


@pytest.mark.parametrize("token", [-1, 10**6])
def test_a_token_outside_of_the_vocabulary_is_refused(model: Model, token: int) -> None:
    for use in (model.is_eog, model.token_to_piece, lambda t: model.detokenize([t])):
        with pytest.raises(UsageError, match="vocabulary"):
            use(token)


def test_a_lone_surrogate_is_refused(model: Model) -> None:
    with pytest.raises(UsageError, match=r"character 2 \(U\+DC80\)"):
        model.tokenize("ab\udc80")


def test_a_text_that_the_vocabulary_cannot_express(shared_dir: Path) -> None:
    with Model.load(shared_dir / "models" / "babyllama-tok105-f32.gguf") as baby:
        assert baby.detokenize(baby.tokenize("Once upon")).strip() == "Once upon"
        with pytest.raises(UsageError) as err:
            baby.tokenize("Once\nupon a 😀 time\n")
    message = str(err.value)
    assert "U+000A ('\\n'), U+1F600" in message
    assert "babyllama" in message
    assert "\n" not in message


def test_many_inexpressible_characters_are_counted(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kv_evict, "tokenize", lambda *_: None)
    with pytest.raises(UsageError, match=r"U\+0061.*U\+0068 \('h'\) and 4 more"):
        model.tokenize("abcdefghijkl")


def test_an_inexpressible_text_of_expressible_characters(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kv_evict, "tokenize", lambda v, text, *_: None if len(text) > 1 else [5])
    with pytest.raises(UsageError, match="cannot express the text"):
        model.tokenize("ab")


@pytest.mark.parametrize(("name", "word"), UNLOADABLE.items())
def test_a_file_that_is_no_model(tmp_path: Path, name: str, word: str) -> None:
    path = write_refused(name, tmp_path / "model.gguf")
    with pytest.raises(ScopeError, match=word) as err:
        Model.load(path)
    assert str(path) in str(err.value)
    assert "\n" not in str(err.value)


def test_an_unsupported_architecture_is_named(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "m.gguf")
    path.write_bytes(
        path.read_bytes().replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0lamma")
    )
    with pytest.raises(ScopeError, match="architecture 'lamma'"):
        Model.load(path)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            [
                "load: error loading model: unable to allocate CUDA0 buffer",
                "x: failed to load model",
            ],
            "not enough memory",
        ),
        (
            ["f: error loading model: missing tensor 'a'", "g: failed to load model"],
            "cannot be loaded (missing tensor 'a'); it is damaged",
        ),
        (
            [
                "gguf_init_from_reader: tensor 'output.weight' has invalid ggml type 100",
                "gguf_init_from_reader: failed to read tensor info",
                "llama_model_load: error loading model: l: failed to load model from m.gguf",
            ],
            "cannot be loaded (tensor 'output.weight' has invalid ggml type 100); it is damaged",
        ),
        (
            ["f: error loading model: error loading model hyperparameters: key not found: a.b"],
            "cannot be loaded (key not found: a.b); it is damaged",
        ),
        (
            ["gguf_init_from_file: failed to open GGUF file 'm-2.gguf' (No such file)"],
            "m-2.gguf' (No such file): all parts of a model must lie side by side",
        ),
        (
            ["", "g: failed to read tensor data", "g: failed to load model"],
            "(failed to read tensor",
        ),
        ([], "(llama.cpp gives no reason)"),
    ],
)
def test_load_failure(lines: list[str], expected: str) -> None:
    message = load_failure(Path("m.gguf"), lines)
    assert message.startswith("m.gguf")
    assert expected in message


def test_metadata_without_weights_in_memory(tiny_path: Path) -> None:
    with Model.load(tiny_path, no_alloc=True) as other:
        assert other.n_layer == 2


@pytest.mark.parametrize("use_mmap", [True, False])
@pytest.mark.parametrize("use_mlock", [True, False])
def test_ways_to_load(tiny_path: Path, use_mmap: bool, use_mlock: bool) -> None:
    with Model.load(tiny_path, use_mmap=use_mmap, use_mlock=use_mlock, n_gpu_layers=0) as other:
        assert other.tokenize("a")


def test_devices(tiny_path: Path) -> None:
    with Model.load(tiny_path, split_mode="none", main_gpu=0, tensor_split=[1.0]) as other:
        assert other.n_layer == 2
    with pytest.raises(UsageError, match="none, layer, row, tensor"):
        Model.load(tiny_path, split_mode="half")
    with pytest.raises(UsageError, match="tensor_split"):
        Model.load(tiny_path, tensor_split=[1.0] * 1000)


def test_closing_twice_is_fine(tiny_path: Path) -> None:
    other = Model.load(tiny_path)
    other.close()
    other.close()
    with pytest.raises(ScopeError, match="is closed: load it again"):
        other.tokenize("a")
