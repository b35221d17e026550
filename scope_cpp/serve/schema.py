"""What a request may say: one table, for the checks and for the description of the interface.

All optional fields may be null, which is as good as left out. A field that asks for something this
server does not do is refused by name, except for the value that does not ask for it.
"""

from __future__ import annotations

from typing import Any

from scope_cpp.engine.sampling_params import BIAS, RANGES
from scope_cpp.engine.settings import GRANULARITIES
from scope_cpp.policies import decode_policies, prefill_policies

Object = dict[str, Any]

MOST_CHOICES = 128
MOST_STOPS, LONGEST_STOP = 16, 256
MOST_LOGPROBS = {"chat": 20, "completions": 5}
# Of what is only tokenized: llama.cpp takes seconds for that
MOST_CHARACTERS, MOST_TOKENS = 1 << 20, 1 << 17
DEFAULT_COMPLETION = 16  # tokens, as OpenAI's
_INT32 = 2**31 - 1
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


def role(name: str) -> str:
    """The role that templates know."""
    return _ROLES[name]


def number(low: float, high: float, description: str) -> Object:
    """An optional number."""
    return {"type": ["number", "null"], "minimum": low, "maximum": high} | _say(description)


def whole(low: float, high: float, description: str) -> Object:
    """An optional whole number."""
    return {"type": ["integer", "null"], "minimum": low, "maximum": high} | _say(description)


def sampling(name: str, description: str) -> Object:
    """An optional sampling value, as far as OpenAI's interface allows it."""
    allowed = RANGES[name]
    low, high = allowed.openai or (allowed.low, allowed.high)
    make = whole if allowed.kind is int else number
    return make(low, high, description)


def flag(description: str) -> Object:
    """An optional boolean."""
    return {"type": ["boolean", "null"]} | _say(description)


def fields(
    properties: Object, required: tuple[str, ...] = (), null: bool = False, **more: Any
) -> Object:
    """An object of these fields and no others."""
    return {
        "type": ["object", "null"] if null else "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
        **more,
    }


def refused(reason: str, *allowed: Any) -> Object:
    """A field of OpenAI's that this server does not know but for values that ask nothing."""
    return {"enum": [None, *allowed], "x-refused": reason, "description": reason}


def one_of(values: list[str], description: str) -> Object:
    """An optional name."""
    return {"type": ["string", "null"], "enum": [*values, None]} | _say(description)


def _say(description: str) -> Object:
    return {"description": description}


_ANYTHING = {"description": "Accepted and ignored."}
_IGNORED = dict.fromkeys(
    (
        "user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "parallel_tool_calls",
    ),
    _ANYTHING,
)

_STOP = {"type": "string", "minLength": 1, "maxLength": LONGEST_STOP}

_JSON_SCHEMA = fields(
    {
        "name": {"type": ["string", "null"], "maxLength": 64},
        "description": {"type": ["string", "null"]},
        "schema": {"type": "object"},
        "strict": flag("Ignored: the answer always follows the schema."),
    },
    ("schema",),
)

_RESPONSE_FORMAT = {
    "anyOf": [
        {"type": "null"},
        fields({"type": {"type": "string", "enum": ["text"]}}, ("type",)),
        fields({"type": {"type": "string", "enum": ["json_object"]}}, ("type",)),
        fields(
            {"type": {"type": "string", "enum": ["json_schema"]}, "json_schema": _JSON_SCHEMA},
            ("type", "json_schema"),
        ),
    ],
    "x-tag": "type",
    "description": "A grammar that the answer follows.",
}

_MODEL = {"type": ["string", "null"]} | _say("As /v1/models names it; may be left out.")


_PARSE_SPECIAL = flag(
    "Read the text of control tokens, such as <|im_start|>, as those; else as text. Left out: true."
)


def _common() -> Object:
    """Fields of both endpoints; the last dozen is not OpenAI's."""
    low, high = BIAS.openai or (BIAS.low, BIAS.high)
    return {
        "model": _MODEL,
        "stream": flag("Send the answer as it is written, as server-sent events."),
        "stream_options": fields(
            {
                "include_usage": flag("Send the usage in a last chunk."),
                "include_obfuscation": _ANYTHING,
            },
            null=True,
        ),
        "n": whole(1, MOST_CHOICES, "Answers to each prompt; the seed of each is one more."),
        "stop": {
            "anyOf": [
                {"type": "null"},
                _STOP,
                {"type": "array", "items": _STOP, "maxItems": MOST_STOPS},
            ],
            "description": "Texts that end the answer and are not part of it.",
        },
        "seed": sampling("seed", "32 bits; -1 draws one."),
        "temperature": sampling("temp", "0 takes the most likely token."),
        "top_p": sampling("top_p", "1 is off."),
        "presence_penalty": sampling("presence_penalty", "Of the last repeat_last_n tokens."),
        "frequency_penalty": sampling("frequency_penalty", "Of the last repeat_last_n tokens."),
        "logit_bias": {
            "type": ["object", "null"],
            "propertyNames": {
                "type": "string",
                "pattern": "^[0-9]{1,9}$",
                "x-message": "give the number of a token",
            },
            "additionalProperties": {"type": "number", "minimum": low, "maximum": high},
            "maxProperties": 1024,
            "description": "Added to the logits of these tokens.",
        },
        "response_format": _RESPONSE_FORMAT,
        **_IGNORED,
        "policy": one_of(sorted(decode_policies()), "What of the cache stays, while it writes.")
        | {"x-beside": {"prefill": sorted(prefill_policies())}},
        "prefill": one_of(sorted(prefill_policies()), "What of the prompt stays.")
        | {"x-beside": {"policy": sorted(decode_policies())}},
        "granularity": one_of(list(GRANULARITIES), "Each KV head chooses, or one for all."),
        "budget": {
            "anyOf": [
                {"type": ["integer", "null"], "minimum": 1, "maximum": _INT32},
                {"type": "string", "minLength": 1, "maxLength": 32},
            ],
            "description": "Cells of prompt and answer: 2048, 2k, 50%, 512MiB.",
        },
        "options": {
            "type": ["object", "null"],
            "propertyNames": {
                "type": "string",
                "pattern": "^[a-z][a-z0-9_]{0,63}$",
                "x-message": "give the name of an option, such as beta1",
            },
            "additionalProperties": {
                "anyOf": [
                    {"type": ["number", "boolean"]},
                    {"type": "string", "minLength": 1, "maxLength": 64},
                ]
            },
            "maxProperties": 64,
            "description": "Options of the policies.",
        },
        "top_k": sampling("top_k", "0 and -1 are off."),
        "min_p": sampling("min_p", "0 is off."),
        "typical_p": sampling("typical_p", "1 is off."),
        "repeat_penalty": sampling("repeat_penalty", "1 is off."),
        "repeat_last_n": sampling("repeat_last_n", "Tokens that the penalties look at; -1: all."),
        "ignore_eos": flag("Never end before the length is reached."),
        "scope": fields(
            {"picture": flag("What of the cache is kept, every 16 tokens.")},
            null=True,
            description="Tell of the cache in the answer's own field scope.",
        ),
    }


_TEXT_PART = fields(
    {"type": {"type": "string", "enum": ["text"]}, "text": {"type": "string"}}, ("type", "text")
)
_CONTENT = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"anyOf": [_TEXT_PART], "x-tag": "type"}, "maxItems": 1024},
    ],
    "description": "Text; parts are joined by line breaks.",
}
_NAME = {"name": {"type": ["string", "null"]} | _say("Ignored.")}
_NO_TOOLS = "this server has no tools: leave it out"


def _message(roles: list[str], more: Object) -> Object:
    properties = {"role": {"type": "string", "enum": roles}, "content": _CONTENT}
    return fields({**properties, **_NAME, **more}, ("role", "content"))


# what an answer has besides, when a client sends it back
_OF_ANSWERS = {
    "refusal": refused("an answer is a text here: leave it out"),
    "annotations": refused("this server has no annotations: leave it out", []),
    "audio": refused("this server has no audio: leave it out"),
    "tool_calls": refused(_NO_TOOLS, []),
    "function_call": refused(_NO_TOOLS),
}
_MESSAGE = {
    "anyOf": [
        _message(["system", "developer", "user"], {}),
        _message(["assistant"], _OF_ANSWERS),
    ],
    "x-tag": "role",
}


def chat(most_tokens: int) -> Object:
    """Schema of a request to /v1/chat/completions."""
    longest = whole(1, most_tokens, f"Longest answer, of at most {most_tokens} tokens.")
    own = {
        "messages": {"type": "array", "items": _MESSAGE, "minItems": 1, "maxItems": 4096},
        "max_tokens": longest,
        "max_completion_tokens": longest,
        "logprobs": flag("Send the log probability of each token."),
        "top_logprobs": whole(0, MOST_LOGPROBS["chat"], "And those of so many likely ones."),
        "tools": refused(_NO_TOOLS, []),
        "tool_choice": refused(_NO_TOOLS, "none", "auto"),
        "functions": refused(_NO_TOOLS, []),
        "function_call": refused(_NO_TOOLS, "none", "auto"),
        "modalities": refused("answers are texts here", ["text"]),
        "audio": refused("this server has no audio: leave it out"),
        "prediction": refused("this server takes no prediction: leave it out"),
        "reasoning_effort": refused("this server cannot set it: leave it out"),
        "verbosity": refused("this server cannot set it: leave it out"),
        "web_search_options": refused("this server has no web search: leave it out"),
    }
    return fields({**own, **_common()}, ("messages",))


def completions(most_tokens: int) -> Object:
    """Schema of a request to /v1/completions."""
    text = {"type": "string", "minLength": 1}
    token = {"type": "integer", "minimum": 0, "maximum": _INT32}
    tokens = {"type": "array", "items": token, "minItems": 1}
    texts = {"type": "array", "items": text, "minItems": 1, "maxItems": MOST_CHOICES}
    lists = {"type": "array", "items": tokens, "minItems": 1, "maxItems": MOST_CHOICES}
    own = {
        "prompt": {
            "anyOf": [text, texts, tokens, lists],
            "description": "One text or list of tokens, or several.",
        },
        "max_tokens": whole(
            1, most_tokens, f"Longest answer; left out: {min(DEFAULT_COMPLETION, most_tokens)}."
        ),
        "logprobs": whole(
            0, MOST_LOGPROBS["completions"], "Send the log probabilities of so many likely tokens."
        ),
        "parse_special": _PARSE_SPECIAL,
        "echo": refused("the prompt is not sent back: leave it out", False),
        "best_of": refused("all answers are sent, see n: leave it out", 1),
        "suffix": refused("this server cannot fill in: leave it out", ""),
    }
    return fields({**own, **_common()}, ("prompt",))


TOKENIZE = fields(
    {
        "content": {"type": "string", "maxLength": MOST_CHARACTERS},
        "add_special": flag(
            "Begin with the token that begins a text (BOS), as prompts do; left out: false."
        ),
        "parse_special": _PARSE_SPECIAL,
        "with_pieces": flag("Send the text of each token too."),
    },
    ("content",),
)
DETOKENIZE = fields(
    {
        "tokens": {
            "type": "array",
            "items": {"type": "integer", "minimum": 0, "maximum": _INT32},
            "maxItems": MOST_TOKENS,
        }
    },
    ("tokens",),
)
