"""One model behind OpenAI's HTTP interface; many clients share one bounded cache.

One module per concern: `options` what the server is asked to be; `schema` and `check` what a
request may say, `limits`, `bounds` and `auth` what is refused, `errors` in what words; `serving`
what answers are made with, `rows` from a request's fields to the engine's rows; `openai_chat` and
`openai_completions` the two forms of question and answer, on `form`; `choice` one answer as it
comes, `streaming` how it is sent; `desk` and `schemas` where requests are read; `worker`
the one thread that has the engine, `ticket` what goes between, `fair` who comes next; `app` the
routes, `gate` what is around them, `openapi` their description, `static` the page, `metrics` and
`picture` what is told of the cache; `wire` connections, `lifespan` start and end.
"""

from importlib.util import find_spec

from scope_cpp.errors import ScopeError
from scope_cpp.extras import install


def require_extra() -> None:
    """Raise `ScopeError` if what the server needs beside the package is not installed."""
    missing = [name for name in ("starlette", "uvicorn") if find_spec(name) is None]
    if missing:
        raise ScopeError(f"scope serve needs {' and '.join(missing)}: {install('serve')}")
