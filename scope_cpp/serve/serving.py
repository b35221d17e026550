"""What answers are made with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scope_cpp.engine import attention, capability
from scope_cpp.engine.model import CUT, Model
from scope_cpp.engine.sampling import Sampler, SamplingParams, model_defaults
from scope_cpp.engine.schema.matcher import Vocabulary
from scope_cpp.engine.settings import Settings
from scope_cpp.errors import UsageError, Warn, ignore
from scope_cpp.reference.shipped import MODEL
from scope_cpp.serve.errors import ApiError, bad_request
from scope_cpp.serve.options import Options, cache_sizes

Body = Mapping[str, Any]

_MOST_NAMES = 10_000  # of control tokens that are plain text


@dataclass(frozen=True)
class Serving:
    """What answers are made with.

    Attributes
    ----------
    model, name
        The model, and what clients call it.
    settings, sampling
        Of a request that says nothing else; `sampling` by the names of `SamplingParams`.
    template
        Chat template instead of the model's.
    n_predict
        Longest answer.
    n_cells, prefix_cells
        Cells of all rows together; those that prompts of finished rows may keep.
    most_rows
        Most answers of one request.
    longest_piece
        Bytes of the longest token.
    """

    model: Model
    name: str
    settings: Settings
    sampling: Mapping[str, Any]
    template: str | None
    n_predict: int
    n_cells: int
    prefix_cells: int
    most_rows: int
    longest_piece: int

    def tokenize(
        self, body: Body, text: str, param: str, parse_special: bool, chat: bool = False
    ) -> tuple[int, ...]:
        """Return the tokens of a prompt.

        A text that can't fit, however it is read, is refused unread, unless it is a `chat` of which
        parts may give way. So is one with very many names of control tokens that stay plain text:
        it is tokenized in as many pieces.

        Raises
        ------
        ApiError
            400.
        """
        n_bytes = len(text.encode())
        if self._stays_whole(body, chat) and n_bytes >= self.n_cells * self.longest_piece:
            raise bad_request(
                f"the prompt has {n_bytes} bytes: {self.n_cells} cells can't hold that, give less",
                param,
                "context_length_exceeded",
            )
        n_names = text.count(CUT)
        if n_names > _MOST_NAMES:
            raise bad_request(
                f"{param} names control tokens {n_names} times: at most {_MOST_NAMES}", param
            )
        try:
            return tuple(self.model.tokenize(text, add_special=True, parse_special=parse_special))
        except UsageError as err:
            raise bad_request(str(err), param) from None

    def _stays_whole(self, body: Body, chat: bool) -> bool:
        policy = body.get("policy") or self.settings.policies()[0].name
        prefill = body.get("prefill") or self.settings.prefill
        return prefill == "full" and not (chat and policy != "full")

    def require_model(self, body: Body) -> None:
        """Refuse a request that names another model."""
        name = body.get("model")
        if name is not None and name != self.name:
            raise unknown_model(name, self.name)


def make_serving(
    model: Model,
    options: Options,
    name: str | None,
    settings: Settings,
    sampling: Mapping[str, Any],
    template: str | None,
    warn: Warn = ignore,
) -> Serving:
    """Put together what answers are made with; see `Serving`.

    Parameters
    ----------
    name
        ``None``: that of the model's file.
    sampling
        What the user set; the model's own values are below it.
    warn
        Called with one line if some of these can't be.

    Raises
    ------
    UsageError
        If the cells are none, or over memory, no answer could keep to the user's own grammar,
        schema or bias, or a policy or a budget is given for a model that has no cells to choose.
    """
    settings = _with_what_serves(settings, model, options.n_parallel, warn)
    values = {**model_defaults(model, warn), **sampling}
    Sampler(model, SamplingParams(**values)).close()
    if model.has_eog:
        Vocabulary.of(model)  # made now: it takes a second, in which no thread goes on
    return Serving(
        model,
        name or ("reference" if model.path == MODEL else model.path.stem),
        settings,
        values,
        template,
        options.n_predict,
        *cache_sizes(options, model, settings),
        options.n_parallel + options.queue,
        max(map(len, (*model.pieces, *(name.encode() for name in model.control_names)))),
    )


def _with_what_serves(settings: Settings, model: Model, n_parallel: int, warn: Warn) -> Settings:
    """Return the settings, or the full cache where the model's can't be bounded."""
    if settings.policies()[0].name == "full":
        return settings
    used = attention.resolve(settings, model, bounded=n_parallel == 1)
    reason = capability.refusal(model.path, used.type_k, used.type_v, used.flash_attn)
    return capability.fall_back(settings, model, reason, warn)


def unknown_model(name: str, known: str) -> ApiError:
    """The error for a model that is not served."""
    return ApiError(
        404,
        f"there is no model {name[:64]!r}: this server has {known!r}",
        param="model",
        code="model_not_found",
    )
