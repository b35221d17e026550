"""The official client, unmodified, over a real socket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="scope serve needs the extra serve")
openai = pytest.importorskip("openai")

from scope_cpp.engine.chat import format_chat  # noqa: E402
from scope_cpp.engine.generate import generate  # noqa: E402
from scope_cpp.engine.sampling import SamplingParams  # noqa: E402
from scope_cpp.engine.settings import Settings  # noqa: E402
from scope_cpp.reference.shipped import model_path  # noqa: E402
from tests.serve.service import Running, running  # noqa: E402

QUESTION = "Facts: ab=3 cd=4 ef=9 Questions: Q1 ab cd Q2 ef A1"
MESSAGES = [{"role": "user", "content": QUESTION}]
MODEL = "reference"


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(model_path(), n_predict=200, n_parallel=3) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Running) -> Any:
    return server.client()


def chat(client: Any, **fields: Any) -> Any:
    values = {"model": MODEL, "messages": MESSAGES, "max_tokens": 40}
    return client.chat.completions.create(**values | fields)


def alone(server: Running, n: int, **sampling: Any) -> str:
    """What the model writes without a server."""
    prompt, stops = format_chat(server.model, MESSAGES)
    values: dict[str, Any] = {
        "n_predict": n,
        "sampling": SamplingParams(**{"temp": 0.0} | sampling),
        "settings": Settings(n_threads=1, n_threads_batch=1),
        "parse_special": True,
        "stop": stops,
    }
    return generate(server.model, prompt, **values)[0]


def test_a_chat_says_what_the_model_says_alone(server: Running, client: Any) -> None:
    answer = chat(client)
    choice = answer.choices[0]
    assert choice.message.role == "assistant"
    assert choice.message.content == alone(server, 40)
    assert "A1=7" in choice.message.content
    assert answer.model == MODEL and answer.object == "chat.completion"
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert choice.finish_reason == ("stop" if usage.completion_tokens < 40 else "length")


def test_a_stream_says_the_same(client: Any) -> None:
    chunks = list(chat(client, stream=True, stream_options={"include_usage": True}))
    *parts, last = chunks
    text = "".join(chunk.choices[0].delta.content or "" for chunk in parts)
    whole = chat(client)
    assert text == whole.choices[0].message.content
    assert last.choices == [] and last.usage.model_dump() == whole.usage.model_dump()
    assert all(chunk.usage is None for chunk in parts)
    assert parts[0].choices[0].delta.role == "assistant"
    reasons = [chunk.choices[0].finish_reason for chunk in parts]
    assert reasons[-1] == whole.choices[0].finish_reason and not any(reasons[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_conversation_goes_on_with_the_message_that_was_sent(client: Any) -> None:
    first = chat(client).choices[0].message
    messages = [*MESSAGES, first, {"role": "user", "content": QUESTION}]
    assert chat(client, messages=messages).choices[0].message.content


def test_parts_of_a_message_are_one_text(client: Any) -> None:
    parts = [{"type": "text", "text": QUESTION}]
    given = chat(client, messages=[{"role": "user", "content": parts}])
    assert given.choices[0].message.content == chat(client).choices[0].message.content


def test_several_answers(server: Running, client: Any) -> None:
    answer = chat(client, n=3, temperature=1.5, seed=7, max_tokens=12)
    texts = [choice.message.content for choice in answer.choices]
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert answer.usage.completion_tokens <= 36
    assert texts == [alone(server, 12, temp=1.5, seed=7 + i) for i in range(3)]
    chunks = chat(client, n=3, temperature=1.5, seed=7, max_tokens=12, stream=True)
    streamed = ["", "", ""]
    for chunk in chunks:
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert streamed == texts


def test_stop_strings_are_not_part_of_the_answer(client: Any) -> None:
    whole = chat(client).choices[0].message.content
    for stop in ("cd=4", ["nothing", "cd=4"]):
        text = chat(client, stop=stop).choices[0].message.content
        assert text == whole[: whole.index("cd=4")]
    choice = chat(client, stop="A1=", logprobs=True).choices[0]
    assert choice.finish_reason == "stop"
    assert choice.message.content == whole[: whole.index("A1=")]
    told = "".join(token.token for token in choice.logprobs.content)
    assert told.startswith(choice.message.content)
    assert len(told) - len(choice.message.content) < len("A1=")


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities(client: Any, stream: bool) -> None:
    answer = chat(client, logprobs=True, top_logprobs=3, max_tokens=10, stream=stream)
    choices = [chunk.choices[0] for chunk in answer] if stream else answer.choices
    text = "".join((c.delta if stream else c.message).content or "" for c in choices)
    tokens = [token for choice in choices if choice.logprobs for token in choice.logprobs.content]
    assert b"".join(bytes(token.bytes) for token in tokens).decode() == text
    for token in tokens:
        likely = [other.logprob for other in token.top_logprobs]
        assert len(likely) == 3 and likely == sorted(likely, reverse=True)
        assert token.logprob == likely[0] <= 0  # greedy: the most likely one was taken
    assert chat(client, max_tokens=3).choices[0].logprobs is None


def test_completions(server: Running, client: Any) -> None:
    prompt = "Facts: ab=3 cd=4\nQuestions: Q1 ab cd\nAnswers:\n"
    answer = client.completions.create(model=MODEL, prompt=prompt, logprobs=2)
    choice = answer.choices[0]
    assert answer.usage.completion_tokens == 16 and choice.finish_reason == "length"
    assert "".join(choice.logprobs.tokens) == choice.text
    assert choice.logprobs.text_offset[0] == 0
    assert [len(likely) for likely in choice.logprobs.top_logprobs] == [2] * 16
    tokens = server.model.tokenize(prompt)
    several = client.completions.create(model=MODEL, prompt=[tokens, tokens], n=2)
    assert [one.text for one in several.choices] == [choice.text] * 4
    assert several.usage.prompt_tokens == 2 * len(tokens)
    assert several.usage.completion_tokens == 4 * 16
    chunks = client.completions.create(model=MODEL, prompt=prompt, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == choice.text


SCHEMA = {
    "type": "object",
    "properties": {"answer": {"enum": ["yes", "no"]}, "sure": {"type": "boolean"}},
    "required": ["answer", "sure"],
    "additionalProperties": False,
}


def test_answers_that_follow_a_schema(client: Any) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}}
    for seed in range(3):
        answer = chat(client, response_format=form, temperature=2, seed=seed, max_tokens=100)
        value = json.loads(answer.choices[0].message.content)
        assert set(value) == {"answer", "sure"}
        assert value["answer"] in ("yes", "no") and isinstance(value["sure"], bool)


def test_policies_and_budgets_of_a_request(client: Any) -> None:
    extra = {"policy": "streaming-llm", "budget": 48, "ignore_eos": True, "scope": {}}
    answer = chat(client, max_tokens=60, extra_body=extra)
    (scope,) = answer.scope
    assert scope["used"] <= scope["capacity"] <= 48
    assert scope["evicted"] == answer.usage.total_tokens - 1 - scope["used"] > 0
    picture = {"scope": {"picture": True}}
    chunks = list(chat(client, max_tokens=60, stream=True, extra_body=extra | picture))
    told = [chunk.scope for chunk in chunks if getattr(chunk, "scope", None)]
    assert all(scope["used"] <= 48 for scope in told)
    assert told[-1]["evicted"] == scope["evicted"]
    *_, last = [one for one in told if "kept" in one]
    assert 0 in last["kept"] and 100 in last["kept"]


def test_errors_are_those_that_the_client_knows(client: Any) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        chat(client, model="gpt-4")
    assert unknown.value.code == "model_not_found" and unknown.value.param == "model"
    with pytest.raises(openai.BadRequestError) as wrong:
        chat(client, temperature=3)
    assert wrong.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model=MODEL, prompt="x", echo=True)
    assert refused.value.param == "echo" and refused.value.code == "unsupported_parameter"
    with pytest.raises(openai.BadRequestError) as long:
        chat(client, messages=[{"role": "user", "content": "ab " * 5000}])
    assert long.value.code == "context_length_exceeded"
    assert "2048 of 2048 can be had" in long.value.message
    with pytest.raises(openai.BadRequestError, match="bytes.*2048 cells") as unread:
        client.completions.create(model=MODEL, prompt=" " * 100_000)
    assert unread.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="at most 200|within 1 to 200"):
        chat(client, max_tokens=201)
    with pytest.raises(openai.BadRequestError, match="JSON schema"):
        form = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "what"}}}
        chat(client, response_format=form)


def test_an_answer_without_text_says_why(client: Any) -> None:
    extra = {"scope": {}, "logit_bias": {"2": 100}}
    answer = chat(client, extra_body=extra)
    assert answer.choices[0].message.content == ""
    (scope,) = answer.scope
    assert scope["no_text"] == "the first token, '</s>', ended the output"
    assert "no_text" not in chat(client, extra_body={"scope": {}}).scope[0]
    last = [chunk.scope for chunk in chat(client, stream=True, extra_body=extra)
            if getattr(chunk, "scope", None)][-1]  # fmt: skip
    assert last["no_text"] == scope["no_text"]


def test_control_tokens_of_a_prompt(server: Running, client: Any) -> None:
    def n_prompt(**extra: Any) -> int:
        text = "<s>a</s>b"
        answer = client.completions.create(model=MODEL, prompt=text, max_tokens=1, extra_body=extra)
        return int(answer.usage.prompt_tokens)

    assert n_prompt() == n_prompt(parse_special=None) == 4  # BOS, a, EOS, b
    plain = len(server.model.tokenize("<s>a</s>b", parse_special=False))
    assert n_prompt(parse_special=False) == plain > 4
    with server.http() as http:

        def tokens(**more: Any) -> list[Any]:
            got = http.post("/tokenize", json={"content": "a</s>", **more}).json()
            return list(got["tokens"])

        assert len(tokens()) == 2 and len(tokens(add_special=True)) == 3
        assert len(tokens(parse_special=False)) > 2
        assert tokens(with_pieces=True)[1]["piece"] == "</s>"
        back = http.post("/detokenize", json={"tokens": tokens()}).json()
        assert back == {"content": "a</s>"}


def test_models(client: Any) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).owned_by == "scope-cpp"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_tokens_and_back(server: Running) -> None:
    with server.http() as http:
        tokens = http.post("/tokenize", json={"content": QUESTION}).json()["tokens"]
        assert tokens == server.model.tokenize(QUESTION, add_special=False)
        assert http.post("/detokenize", json={"tokens": tokens}).json() == {"content": QUESTION}
        pieces = http.post("/tokenize", json={"content": QUESTION, "with_pieces": True}).json()
        assert "".join(token["piece"] for token in pieces["tokens"]) == QUESTION
        wrong = http.post("/detokenize", json={"tokens": [10**6]})
        assert wrong.status_code == 400 and "vocabulary" in wrong.json()["error"]["message"]
