"""Whatever options are given, a generation ends with all its tokens or with one line."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from scope_cpp.engine.generate import Generation
from scope_cpp.engine.model import Model
from scope_cpp.engine.sampling import SamplingParams
from scope_cpp.engine.settings import GRANULARITIES, Settings
from scope_cpp.errors import ScopeError
from scope_cpp.policies import decode_policies, prefill_policies
from tests.conftest import Tiny
from tests.engine.drive import random_tokens
from tests.policies.extremes import extremes, options

N_PREDICT = 20


@pytest.fixture(scope="module")
def model(tiny: Tiny) -> Iterator[Model]:
    with Model.load(tiny()) as model:
        yield model


@st.composite
def dials(draw: st.DrawFn) -> Settings:
    """Settings at random, of which some can't be."""
    decode = draw(st.sampled_from(sorted(decode_policies())))
    prefill = draw(st.sampled_from(sorted(prefill_policies())))
    known = [("decode", item) for item in options(decode_policies()[decode])]
    known += [("prefill", item) for item in options(prefill_policies()[prefill])]
    chosen = []
    if known:
        chosen = draw(
            st.lists(st.sampled_from(known), max_size=2, unique_by=lambda one: id(one[1]))
        )
    return Settings(
        policy=decode,
        prefill=prefill,
        options=tuple(
            f"{kind}.{item.name}={draw(st.sampled_from(extremes(item)))}" for kind, item in chosen
        ),
        granularity=draw(st.sampled_from(GRANULARITIES)),
        budget=draw(st.sampled_from([48, 64, 100])),
        n_batch=draw(st.sampled_from([1, 7, 2048])),
        n_ubatch=draw(st.sampled_from([1, 5, 512])),
        n_threads=1,
        n_threads_batch=1,
    )


@profile(max_examples=150)
@given(data=st.data())
def test_ends_in_an_answer_or_in_one_line(model: Model, data: st.DataObject) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            generation = Generation(
                model,
                random_tokens(data.draw(st.sampled_from([3, 40, 130]))),
                n_predict=N_PREDICT,
                settings=data.draw(dials()),
                sampling=SamplingParams(temp=0, ignore_eos=True),
                warn=lambda line: None,
            )
        except ScopeError as err:
            assert "\n" not in str(err)
            return
        with generation:
            assert len(list(generation)) == N_PREDICT
            assert generation.stats.cells_peak <= generation.sizes.capacity
