"""The demo as one object, for scripts."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from scope_cpp.demo.request import Request
from scope_cpp.demo.run import Demo
from scope_cpp.demo.story import story


def record(demo: Demo, request: Request, model: str, *, texts: bool = False) -> dict[str, Any]:
    """Return everything that the screen shows, in full precision.

    Parameters
    ----------
    demo
        Finished or interrupted; rows that were not begun are left out.
    request
        What was asked for.
    model
        Path as the user gave it.
    texts
        Whether prompts, right answers and outputs are part of it.
    """
    begun = [outcome for outcome in demo.outcomes if outcome.texts]
    return {
        "model": model,
        "request": asdict(request),
        "samples": [
            {
                "id": sheet.sample.id,
                "questions": len(sheet.sample.answers),
                "prompt_tokens": sheet.n_prompt,
                "output_tokens": sheet.n_output,
                "cells": sheet.n_cells,
            }
            for sheet in demo.sheets
        ],
        "rows": [outcome.record(texts) for outcome in begun],
        "story": story(demo.outcomes),
        "warnings": demo.warnings,
        "seconds": demo.seconds,
        "interrupted": demo.interrupted,
    }
