from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("uvicorn", reason="scope serve needs the extra serve")

from scope_cpp.errors import ScopeError, UsageError  # noqa: E402
from scope_cpp.serve.auth import Guard, is_loopback  # noqa: E402
from scope_cpp.serve.errors import ApiError  # noqa: E402
from scope_cpp.serve.options import Options, bind  # noqa: E402
from tests.conftest import Tiny  # noqa: E402
from tests.serve.service import Running, running  # noqa: E402

KEYS = ("first-key", "second-key")


@pytest.fixture(scope="module")
def keyed(tiny: Tiny) -> Iterator[Running]:
    with running(tiny(), name="tiny", api_keys=KEYS) as server:
        yield server


def status(server: Running, path: str, **headers: str) -> int:
    with server.http() as http:
        return int(http.get(path, headers=headers).status_code)


def test_a_key_opens_the_server(keyed: Running) -> None:
    openai = pytest.importorskip("openai")
    for key in KEYS:
        assert keyed.client(api_key=key).models.retrieve("tiny").id == "tiny"
    for key in ("wrong", "first-key2", "first", "first-key,second-key"):
        with pytest.raises(openai.AuthenticationError):
            keyed.client(api_key=key).models.list()


def test_what_is_open_without_a_key(keyed: Running) -> None:
    assert {status(keyed, path) for path in ("/", "/health", "/page/page.js")} == {200}
    for path in ("/v1/models", "/metrics", "/openapi.json", "/nothing"):
        assert status(keyed, path) == 401
        assert status(keyed, path, Authorization="Basic first-key") == 401
    assert status(keyed, "/metrics", Authorization=f"Bearer {KEYS[1]}") == 200


def test_keys_are_not_in_what_the_server_says(keyed: Running) -> None:
    status(keyed, "/v1/models", Authorization="Bearer first-key")
    status(keyed, "/v1/models", Authorization="Bearer secret-guess")
    assert keyed.said
    assert not any(key in line for line in keyed.said for key in (*KEYS, "secret-guess"))


@pytest.fixture(scope="module")
def free(tiny: Tiny) -> Iterator[Running]:
    with running(tiny(), name="tiny") as server:
        yield server


def test_only_names_of_this_machine_without_a_key(free: Running) -> None:
    port = free.url.rpartition(":")[2]
    for host in ("localhost", f"localhost:{port}", "127.0.0.1", f"[::1]:{port}", "LOCALHOST."):
        assert status(free, "/health", Host=host) == 200
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "", "[", "a@b"):
        assert status(free, "/health", Host=host) == 403


def test_pages_of_other_sites_are_refused(free: Running) -> None:
    assert status(free, "/health", Origin=free.url) == 200
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1", "http://["):
        assert status(free, "/health", Origin=origin) == 403
    with free.http() as http:
        answer = http.options("/v1/models", headers={"Origin": free.url})
        assert not [name for name in answer.headers if name.startswith("access-control")]
        form = http.post("/v1/completions", data={"prompt": "x"})
        assert form.status_code == 415  # what a page can send without asking first


def test_others_are_not_let_in_without_a_key() -> None:
    for host in ("0.0.0.0", "::"):
        with pytest.raises(UsageError, match="--api-key KEY"):
            bind(Options(host=host, port=0))
    with bind(Options(host="0.0.0.0", port=0, api_keys=("key",))) as listener:
        assert listener.getsockname()[1]
    with bind(Options(host="0.0.0.0", port=0, insecure_no_key=True)):
        pass


def test_a_port_that_is_taken_and_a_host_that_is_none() -> None:
    with bind(Options(port=0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ScopeError, match=f"port {port}.*give another --port"):
            bind(Options(port=port))
    with pytest.raises(UsageError, match="--host"):
        bind(Options(host="no such host", port=0))


@pytest.mark.parametrize(
    ("host", "is_own"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("model.localhost", True),
        ("localhost.evil.example", False),
        ("10.0.0.1", False),
        ("0.0.0.0", False),
        ("", False),
    ],
)
def test_what_is_this_machine(host: str, is_own: bool) -> None:
    assert is_loopback(host) is is_own


def test_keys_that_no_header_can_have() -> None:
    for key in ("", "zwei\nzeilen", "schlüssel"):
        with pytest.raises(UsageError, match="API key"):
            Guard([key], local=True)


def test_which_key_it_was_is_told_for_the_queue() -> None:
    guard = Guard(KEYS, local=False)
    assert guard.admit({"authorization": "bearer second-key"}, is_open=False) == 1
    with pytest.raises(ApiError):
        guard.admit({}, is_open=False)
