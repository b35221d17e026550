"""The process that renders chat templates, started by `jinja_sandbox` as a file.

A template comes with a stranger's file and is a program. Jinja's sandbox keeps it from files and
from Python's internals; nothing within a Python process keeps it from running without end or from
filling the memory. So it runs here, where the system can stop it, and nothing but Jinja is loaded.

Each line of stdin is a request, each line of stdout its reply, both JSON.
"""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import sys
from datetime import datetime
from functools import lru_cache
from typing import Any


class Refusal(Exception):
    """The template called ``raise_exception``."""


def main() -> None:
    """Answer until stdin ends; ``argv``: bytes of memory."""
    limit_memory(int(sys.argv[1]))
    for line in sys.stdin.buffer:
        reply = json.dumps(answer(**json.loads(line)))
        sys.stdout.buffer.write(reply.encode() + b"\n")
        sys.stdout.buffer.flush()


def limit_memory(n_bytes: int) -> None:
    """Let the system refuse more memory than that; macOS does not, there the time must do."""
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (n_bytes, n_bytes))


def answer(source: str, context: dict[str, Any], max_chars: int, seconds: float) -> dict[str, Any]:
    """Return the prompt, or why there is none; the process is killed after `seconds` of work."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        return {"prompt": render(source, context, max_chars)}
    except MemoryError:
        return {"error": "it takes too much memory"}
    except RecursionError:
        return {"error": "it calls itself or nests without end"}
    except Exception as err:  # a template is a program: any exception is its author's
        cause = str(err) or type(err).__name__
        return {"error": cause, "line": line_of(err), "refused": isinstance(err, Refusal)}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def render(source: str, context: dict[str, Any], max_chars: int) -> str:
    """Return what the template writes, up to `max_chars`."""
    parts, n_chars = [], 0
    for part in compiled(source).generate(**context):
        parts.append(part)
        n_chars += len(part)
        if n_chars > max_chars:
            raise ValueError(f"it writes more than {max_chars} characters")
    return "".join(parts)


@lru_cache(maxsize=1)
def compiled(source: str) -> Any:
    """Return the template, compiled as transformers and llama-cpp-python do."""
    from jinja2 import FunctionLoader, TemplateRuntimeError, ext
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(ext.Extension):
        """``{% generation %}``, which marks what a model is trained on, and means nothing here."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            parser.stream.skip(1)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def load(name: str) -> Any:
        raise TemplateRuntimeError(f"it asks for {name!r}: a chat template cannot load another")

    environment = ImmutableSandboxedEnvironment(
        loader=FunctionLoader(load),
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[Generation, ext.loopcontrols],
    )
    environment.filters["tojson"] = tojson
    environment.globals.update(raise_exception=refuse, strftime_now=strftime_now)
    return environment.from_string(source)


def tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    """Return JSON as it is, where Jinja's own filter would escape it for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def refuse(message: object) -> None:
    """``raise_exception``."""
    raise Refusal(str(message))


def strftime_now(form: str) -> str:
    """Return the date and time of now."""
    return datetime.now().strftime(form)


def line_of(err: BaseException) -> int | None:
    """Return the line of the template that failed, if it is known."""
    line: int | None = getattr(err, "lineno", None)
    at = err.__traceback__
    while at is not None:
        if at.tb_frame.f_code.co_filename == "<template>":
            line = at.tb_lineno
        at = at.tb_next
    return line


if __name__ == "__main__":
    main()
