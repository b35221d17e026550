"""How long a text may become: by what is asked for, and by the positions that a model knows."""

from __future__ import annotations

from collections.abc import Sequence

from scope_cpp.engine.budget import usual_room
from scope_cpp.engine.model import Model
from scope_cpp.engine.settings import Settings
from scope_cpp.engine.turns import Turn, any_of, ways_out
from scope_cpp.errors import NoRoom, ScopeError, TooLong, UsageError


def longest_text(settings: Settings, model: Model) -> int | None:
    """Most tokens that a text may have, and so the most cells that are of use to it.

    That is ``ctx_size``, and what positions the model has learned; ``None``: no end.
    """
    return _less(settings.ctx_size, model.n_positions)


def longest_output(
    settings: Settings, model: Model, n_prompt: int, n_predict: int | None
) -> int | None:
    """Longest output after a prompt; ``None``: no end.

    That is what is asked for, and what ``ctx_size`` and the model's positions leave beside the
    prompt.

    Raises
    ------
    UsageError
        If that is less than one token.
    """
    if n_predict is not None and n_predict < 1:
        raise UsageError(f"the longest output is {n_predict} tokens: give at least 1")
    left = _left(settings, model, n_prompt)
    if left is None or left > 0:
        return _less(left, n_predict)
    if _by_model(settings, model):
        raise TooLong(
            f"the prompt has {n_prompt} tokens, which leaves no room for output: "
            f"{_learned(model)}; give a shorter prompt"
        )
    advised = n_prompt + (n_predict or usual_room(None))
    raise TooLong(
        f"the prompt has {n_prompt} tokens, -c {settings.ctx_size} leaves no room for output: "
        f"give -c {advised} or more"
    )


def longest_answer(
    settings: Settings, model: Model, n_past: int, n_predict: int | None, turns: Sequence[Turn]
) -> int | None:
    """Longest answer in a conversation of `n_past` tokens; ``None``: no end.

    The last of the `turns` is the one that is to be answered.

    Raises
    ------
    NoRoom
        If the longest conversation is reached.
    """
    left = _left(settings, model, n_past)
    if left is None or left > 0:
        return _less(left, n_predict)
    ways = ways_out(turns, 1 - left)
    if _by_model(settings, model):
        why = _learned(model)
    else:
        why = f"-c {settings.ctx_size} is its longest length"
        ways.append("give a larger -c")
    raise NoRoom(
        f"no room for an answer is left: the conversation has {n_past} tokens with this message, "
        f"{why}: {any_of(ways)}"
    )


def why_full(settings: Settings, model: Model, n_past: int) -> str | None:
    """Return why a text of `n_past` tokens, the next one included, can't go on, if it can't."""
    left = _left(settings, model, n_past)
    if left is None or left > 0:
        return None
    by_model = _by_model(settings, model)
    reason = _learned(model) if by_model else f"-c {settings.ctx_size} is its longest length"
    return f"the text ends here: {reason}"


def require_positions(model: Model, n: int) -> None:
    """Refuse a text of `n` tokens if the model can't have so many.

    Raises
    ------
    ScopeError
        See `Model.n_positions`.
    """
    if model.n_positions is not None and n > model.n_positions:
        raise ScopeError(f"no text of {n} tokens can be computed: {_learned(model)}")


def training_ends(model: Model) -> int:
    """Length of a text, with the token just written, at which `past_training` is to be said."""
    return model.n_ctx_train + (model.n_positions is None)


def past_training(model: Model) -> str:
    """Line for a text that has as many tokens as the model was trained on."""
    if model.n_positions is not None:
        return f"the text ends here: {_learned(model)}"
    return (
        f"position {model.n_ctx_train} is the last that {model.path.name} was trained on: "
        "what it writes from here on may degrade"
    )


def longer_than_trained(model: Model, n: int) -> str:
    """Line for a text of `n` tokens, which are more than the model was trained on."""
    if model.n_positions is not None:
        return f"no text has {n} tokens: {_learned(model)}"
    return (
        f"{n} tokens are more than the {model.n_ctx_train} that {model.path.name} was trained on: "
        "what it writes beyond those may degrade"
    )


def _learned(model: Model) -> str:
    return f"{model.path.name} has learned the first {model.n_positions} positions of a text only"


def _by_model(settings: Settings, model: Model) -> bool:
    """Whether it is the model that ends a text, and not what the user gave."""
    n, given = model.n_positions, settings.ctx_size
    return n is not None and (given is None or n < given)


def _left(settings: Settings, model: Model, n_past: int) -> int | None:
    most = longest_text(settings, model)
    return None if most is None else most - n_past


def _less(one: int | None, other: int | None) -> int | None:
    return min((n for n in (one, other) if n is not None), default=None)
