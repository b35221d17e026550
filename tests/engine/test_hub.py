"""Models of the hub, against a stand-in of it: nothing here touches the internet."""

from __future__ import annotations

import errno
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from scope_cpp.engine import hub
from scope_cpp.errors import ScopeError, UsageError
from tests.hub_stand_in import Hub, serve

QUANTS = ["Q2_K", "IQ4_XS", "Q4_K_M", "Q8_0"]
BYTES = {name: bytes([i]) * 3000 for i, name in enumerate(QUANTS)}
REPO = {
    "README.md": b"hello",
    "mmproj-model-Q8_0.gguf": b"projector",
    **{f"model-{name}.gguf": BYTES[name] for name in QUANTS},
    "F16/model-F16-00001-of-00002.gguf": b"one",
    "F16/model-F16-00002-of-00002.gguf": b"two",
}


@pytest.fixture
def server(hub_server: Hub) -> Hub:
    hub_server.repos["me/model"] = dict(REPO)
    return hub_server


@pytest.fixture
def small_chunks(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write what arrives at once: only whole chunks of a connection that breaks are kept."""
    monkeypatch.setattr(hub._library().constants, "DOWNLOAD_CHUNK_SIZE", 100)


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)


def get(spec: str, file: str | None = None, *, offline: bool = False) -> tuple[Path, list[str]]:
    told: list[str] = []
    return hub.fetch(spec, file, offline=offline, notify=told.append), told


# the choice


@pytest.mark.parametrize(
    ("names", "quant", "chosen"),
    [
        (["a-Q8_0.gguf", "a-Q4_K_M.gguf"], None, "a-Q4_K_M.gguf"),
        (["a-Q2_K.gguf", "a-q8_0.gguf"], None, "a-q8_0.gguf"),
        (["mmproj-a.gguf", "a.imatrix", "b.gguf", "a.gguf"], None, "b.gguf"),
        (["mmproj-F16.gguf", "mtp-a-F16.gguf", "a.f16.gguf"], "F16", "a.f16.gguf"),
        (["a-IQ4_XS.gguf", "a-Q4_XS.gguf"], "q4_xs", "a-Q4_XS.gguf"),
        (["a-Q4_K_M.gguf", "a-Q4_K_S.gguf"], "q4_k_s", "a-Q4_K_S.gguf"),
        (["a-Q4_0.gguf", "a-Q4_0-imat.gguf"], "Q4_0", "a-Q4_0.gguf"),
        (["a-UD-Q4_K_XL.gguf", "a-Q4_K_M.gguf"], "UD-Q4_K_XL", "a-UD-Q4_K_XL.gguf"),
        (["Q8/a-Q8_0-00002-of-00002.gguf", "Q8/a-Q8_0-00001-of-00002.gguf"], "Q8_0", None),
        (["model.gguf"], None, "model.gguf"),
    ],
)
def test_choice(names: list[str], quant: str | None, chosen: str | None) -> None:
    assert hub.choose(names, quant, None, "r") == (chosen or names[1])


@pytest.mark.parametrize(
    ("spec", "file", "phrase"),
    [
        ("me/model:Q5_1", None, "has no Q5_1: valid are Q2_K, IQ4_XS, Q4_K_M, Q8_0, F16$"),
        ("me/model:Q4_XS", None, "has no Q4_XS: valid are"),
        ("me/model", "nope.gguf", "has no file nope.gguf: valid are model-Q2_K.gguf, "),
        ("me/two:Q8_0", None, "several models Q8_0: .*-hff: a-Q8_0.gguf, b-Q8_0.gguf$"),
        ("me/empty", None, "no GGUF model"),
        ("me/part", None, "lacks a-00002-of-00002.gguf, 1 of 2 parts"),
        ("me/nobody", None, "has no me/nobody that you may read: .*HF_TOKEN"),
        ("model", None, "write it as user/repo"),
        ("a/b/c", None, "write it as user/repo"),
        ("../..:Q4_0", None, "cannot be a repository"),
    ],
)
def test_what_there_is_not(server: Hub, spec: str, file: str | None, phrase: str) -> None:
    server.repos["me/two"] = {"a-Q8_0.gguf": b"a", "b-Q8_0.gguf": b"b"}
    server.repos["me/empty"] = {"README.md": b"a"}
    server.repos["me/part"] = {"a-00001-of-00002.gguf": b"a"}
    with pytest.raises(UsageError, match=phrase) as err:
        get(spec, file)
    assert "\n" not in str(err.value)


# downloads and the cache


def test_a_model_is_downloaded_once_into_the_cache_of_the_hubs_tools(
    server: Hub, tmp_path: Path
) -> None:
    path, told = get("me/model")
    assert path.read_bytes() == BYTES["Q4_K_M"]
    assert path.name == "model-Q4_K_M.gguf"
    assert (tmp_path / "home" / "hub" / "models--me--model") in path.parents
    assert told == [
        "taking model-Q4_K_M.gguf of me/model",
        "downloading model-Q4_K_M.gguf (0.0 MiB) of me/model",
    ]
    assert get("me/model:q4_k_m") == (path, [])
    assert server.gets("Q4_K_M.gguf") == [""]
    from huggingface_hub import hf_hub_download

    assert hf_hub_download("me/model", path.name, local_files_only=True) == str(path)
    assert not list(path.parents[2].glob("blobs/*.incomplete"))


def test_all_parts_are_downloaded(server: Hub) -> None:
    for path in (get("me/model:f16")[0], get("me/model", "F16/model-F16-00002-of-00002.gguf")[0]):
        assert path.read_bytes() == b"one"
        assert path.with_name("model-F16-00002-of-00002.gguf").read_bytes() == b"two"


def test_a_named_file_wins_over_the_quant(server: Hub) -> None:
    assert get("me/model:Q8_0", "mmproj-model-Q8_0.gguf")[0].read_bytes() == b"projector"


def test_a_token_goes_to_the_hub_and_not_to_the_address_of_the_bytes(
    server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.private.add("me/model")
    with pytest.raises(UsageError, match="that you may read"):
        get("me/model")
    server.asked.clear()
    monkeypatch.setenv("HF_TOKEN", server.token)
    with serve(Hub(server.repos)) as bytes_:
        server.elsewhere = bytes_.url
        assert get("me/model:Q8_0")[0].read_bytes() == BYTES["Q8_0"]
    assert {asked[3] for asked in server.asked} == {f"Bearer {server.token}"}
    assert [asked[3] for asked in bytes_.asked if asked[0] == "GET"] == [""]


@pytest.mark.parametrize("token", ["", "hf_wrong"])
def test_a_gated_model(server: Hub, monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    server.gated.add("me/model")
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UsageError, match=f"is gated: .*{server.url}/me/model.*HF_TOKEN"):
        get("me/model")


# what goes wrong


@pytest.mark.usefixtures("no_waiting", "small_chunks")
def test_a_connection_that_breaks_is_taken_up_in_the_same_run(server: Hub) -> None:
    server.cut["model-Q8_0.gguf"] = [1000, 500]
    assert get("me/model:Q8_0")[0].read_bytes() == BYTES["Q8_0"]
    assert server.gets("Q8_0.gguf") == ["", "bytes=1000-", "bytes=1500-"]


@pytest.mark.usefixtures("no_waiting", "small_chunks")
def test_a_download_that_broke_off_goes_on_in_the_next_run(server: Hub, tmp_path: Path) -> None:
    server.cut["model-Q8_0.gguf"] = [1000] + [0] * 20
    with pytest.raises(ScopeError, match="goes on where it stopped"):
        get("me/model:Q8_0")
    with pytest.raises(UsageError, match="not in the cache"):
        get("me/model:Q8_0", offline=True)
    server.cut.clear()
    server.asked.clear()
    path, _ = get("me/model:Q8_0")
    assert path.read_bytes() == BYTES["Q8_0"]
    assert server.gets("Q8_0.gguf") == ["bytes=1000-"]


@pytest.mark.parametrize("length", [1000, 3000, 5000])
def test_what_an_earlier_run_left_is_checked(server: Hub, length: int) -> None:
    path, _ = get("me/model:Q8_0")
    blob = path.resolve()
    partial = blob.with_name(f"{blob.name}.incomplete")
    path.unlink()
    blob.unlink()
    partial.write_bytes(b"?" * length)
    if length <= 3000:
        with pytest.raises(ScopeError, match="damaged"):
            get("me/model:Q8_0")
        assert not partial.exists()
        assert not blob.exists()
    assert get("me/model:Q8_0")[0].read_bytes() == BYTES["Q8_0"]


def test_two_that_download_the_same_share_it(server: Hub) -> None:
    server.hold = 100
    got: list[Path] = []
    threads = [threading.Thread(target=lambda: got.append(get("me/model:Q8_0")[0])) for _ in "ab"]
    hub._library()
    for thread in threads:
        thread.start()
    server.held.wait(60)
    server.go_on.set()
    for thread in threads:
        thread.join(60)
    assert [path.read_bytes() for path in got] == [BYTES["Q8_0"]] * 2
    assert server.gets("Q8_0.gguf") == [""]


def test_a_disk_without_room(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=2000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(ScopeError, match="0.0 MiB are free .*HF_HOME"):
        get("me/model:Q8_0")
    assert server.gets("Q8_0.gguf") == []


def test_a_disk_that_fills_up(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    library = hub._library()

    def fail(url: str, file: Any, **rest: Any) -> None:
        file.write(BYTES["Q8_0"][:1000])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(library.file_download, "http_get", fail)
        with pytest.raises(ScopeError, match="is full: .*run the same again"):
            get("me/model:Q8_0")
    assert get("me/model:Q8_0")[0].read_bytes() == BYTES["Q8_0"]
    assert server.gets("Q8_0.gguf") == ["bytes=1000-"]


def test_a_cache_that_cannot_be_written(
    server: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "file"))
    with pytest.raises(ScopeError, match="file.*: Not a directory: set HF_HOME"):
        get("me/model:Q8_0")


@pytest.mark.parametrize(
    ("status", "phrase"),
    [(403, "refuses"), (429, "answers 429"), (503, "answers 503"), (418, "answers 418")],
)
def test_a_hub_that_refuses(server: Hub, status: int, phrase: str) -> None:
    server.status = status
    with pytest.raises(ScopeError, match=phrase) as err:
        get("me/model")
    assert "\n" not in str(err.value)


def test_something_else_at_that_address(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.hub_stand_in.json.dumps", lambda value: "<html>")
    with pytest.raises(ScopeError, match="does not answer as a hub.*check HF_ENDPOINT"):
        get("me/model")


# offline


def test_offline_takes_the_cache_and_asks_nobody(server: Hub) -> None:
    with pytest.raises(UsageError, match="me/model is not in the cache .*without --offline"):
        get("me/model", offline=True)
    paths = [get("me/model:Q8_0")[0], get("me/model:Q2_K")[0]]
    server.asked.clear()
    assert get("me/model:q8_0", offline=True)[0] == paths[0]
    assert get("me/model", "model-Q2_K.gguf", offline=True)[0] == paths[1]
    assert get("me/model", offline=True)[0] == paths[0]
    with pytest.raises(UsageError, match="cache, me/model has no Q4_K_M: valid are Q2_K, Q8_0"):
        get("me/model:Q4_K_M", offline=True)
    assert server.asked == []


def test_offline_by_variable(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UsageError, match="not in the cache"):
        get("me/model")
    assert server.asked == []


def test_offline_finds_what_an_older_commit_had(server: Hub) -> None:
    old, _ = get("me/model:Q8_0")
    server.commit = "d" * 40
    server.repos["me/model"]["model-Q8_0.gguf"] = b"newer"
    get("me/model:Q2_K")
    assert get("me/model:Q8_0", offline=True)[0] == old
    new, _ = get("me/model:Q8_0")
    assert new.read_bytes() == b"newer"
    assert get("me/model:Q8_0", offline=True)[0] == new


def test_without_a_network_the_cache_serves(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = get("me/model:Q8_0")
    server.status = 503
    got, told = get("me/model:Q8_0")
    assert got == path
    assert told == [f"{server.url} cannot be reached: taking model-Q8_0.gguf from the cache"]
    with pytest.raises(ScopeError, match="answers 503"):
        get("me/model:Q2_K")


def test_nobody_at_that_address(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ScopeError, match="http://127.0.0.1:9 cannot be reached .*the network"):
        get("me/model")


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UsageError, match=r"pip install 'scope-cpp\[hub\]'"):
        get("me/model")
