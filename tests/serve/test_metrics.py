"""The text is read back by the rules of Prometheus' text format 0.0.4."""

from __future__ import annotations

import re
import threading

from scope_cpp.serve.metrics import OTHER, WINDOW, Metrics

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = rf'{NAME}="(?:[^"\\\n]|\\["\\n])*"'
SAMPLE = re.compile(rf"({NAME})(?:\{{({LABEL}(?:,{LABEL})*)\}})? (\S+)")
COMMENT = re.compile(rf"# (HELP|TYPE) ({NAME}) (.+)")

Samples = dict[str, dict[str, float]]


def parse(text: str) -> tuple[dict[str, str], Samples]:
    """Return types and samples; fail where the format's rules are broken."""
    assert text.endswith("\n") and "\r" not in text
    types: dict[str, str] = {}
    helped: set[str] = set()
    samples: Samples = {}
    open_family = None
    for line in text.splitlines():
        if comment := COMMENT.fullmatch(line):
            kind, name, rest = comment.groups()
            assert name not in samples, "HELP and TYPE come before the samples"
            if kind == "HELP":
                assert name not in helped
                helped.add(name)
            else:
                assert name not in types and rest in ("counter", "gauge")
                types[name], open_family = rest, name
                samples[name] = {}
            continue
        sample = SAMPLE.fullmatch(line)
        assert sample, line
        name, labels, value = sample.groups()
        assert name == open_family, "samples of a family stand together"
        assert (labels or "") not in samples[name], "each series once"
        samples[name][labels or ""] = float(value)
    assert set(types) == helped == set(samples)
    for name, kind in types.items():
        assert name.endswith("_total") == (kind == "counter")
    return types, samples


def test_all_that_is_counted() -> None:
    metrics = Metrics()
    metrics.request("/v1/models", 200)
    metrics.request("/v1/models", 200)
    metrics.request("/v1/models", 401)
    metrics.tokens(prompt=7)
    metrics.tokens(generated=2)
    metrics.tokens(generated=3)
    metrics.gauges(
        running=2,
        waiting=5,
        cells_used=100,
        cells_total=512,
        evicted=40,
        kv_bytes=1,
        memory_bytes=2,
        copies_bytes=1,
    )
    metrics.gauges(
        running=1,
        waiting=0,
        cells_used=90,
        cells_total=512,
        evicted=41,
        kv_bytes=3,
        memory_bytes=5,
        copies_bytes=4,
    )
    _, samples = parse(metrics.render())
    assert samples["scope_requests_total"] == {
        'path="/v1/models",status="200"': 2,
        'path="/v1/models",status="401"': 1,
    }
    values = {name: series.get("") for name, series in samples.items()}
    assert values["scope_prompt_tokens_total"] == 7
    assert values["scope_generated_tokens_total"] == 5
    assert values["scope_rows_running"] == 1 and values["scope_rows_waiting"] == 0
    assert values["scope_cells_used"] == 90 and values["scope_cells_capacity"] == 512
    assert values["scope_cells_evicted_total"] == 41
    assert (values["scope_kv_bytes"], values["scope_memory_bytes"]) == (3, 5)
    assert values["scope_prefix_bytes"] == 4


def test_a_new_server() -> None:
    types, samples = parse(Metrics().render())
    assert samples.pop("scope_requests_total") == {}
    assert all(series == {"": 0} for series in samples.values())
    assert len(types) == len(samples) + 1


def test_clients_make_no_series() -> None:
    metrics = Metrics()
    for n in range(100):
        metrics.request(f'/{n}"\n# TYPE x counter\\', 404)
    _, samples = parse(metrics.render())
    assert samples["scope_requests_total"] == {f'path="{OTHER}",status="404"': 100}


def test_rate_is_of_the_last_seconds() -> None:
    now = 0.0
    metrics = Metrics(clock=lambda: now)

    def rate() -> float:
        return parse(metrics.render())[1]["scope_generated_tokens_per_second"][""]

    while now < 5:
        metrics.tokens(generated=3)
        now += 0.25
    assert rate() == 12  # 60 tokens in 5 seconds
    now = 5 + WINDOW / 2
    assert 0 < rate() < 12
    now = 5 + 2 * WINDOW
    assert rate() == 0


def test_threads_lose_nothing() -> None:
    metrics = Metrics()

    def count() -> None:
        for _ in range(500):
            metrics.request("/health", 200)
            metrics.tokens(prompt=1, generated=1)

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _, samples = parse(metrics.render())
    assert samples["scope_requests_total"]['path="/health",status="200"'] == 4000
    assert samples["scope_prompt_tokens_total"][""] == 4000
    assert samples["scope_generated_tokens_total"][""] == 4000
