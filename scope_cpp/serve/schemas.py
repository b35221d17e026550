"""Where the JSON schemas of requests are compiled."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from scope_cpp.engine.model import Model
from scope_cpp.engine.schema.matcher import CompiledSchema
from scope_cpp.engine.threads import give_way
from scope_cpp.errors import UsageError
from scope_cpp.serve.errors import bad_request
from scope_cpp.serve.form import Asked


class Schemas:
    """One thread that compiles schemas, one after the other.

    The largest that is accepted takes some tenths of a second, nearly all of it without Python's
    lock: only requests with schemas wait for it. The thread starts with the first of them.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._pool = ThreadPoolExecutor(1, "scope-schema", give_way)

    async def compiled(self, asked: Asked) -> Asked:
        """Return what is asked with its schema compiled, once for all of its answers.

        Raises
        ------
        ApiError
            400 for what is no schema, or cannot be enforced.
        """
        text = asked.rows[0].sampling.json_schema
        if text is None:
            return asked
        loop = asyncio.get_running_loop()
        try:
            schema = await loop.run_in_executor(self._pool, CompiledSchema, self._model, text)
        except UsageError as err:
            raise bad_request(str(err), "response_format", "invalid_json_schema") from None
        return replace(asked, rows=[replace(row, schema=schema) for row in asked.rows])
