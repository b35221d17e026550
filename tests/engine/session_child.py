"""Another process, for test_session.py: holds conversations, saves them and is killed; or goes on.

Arguments: ``save`` or ``resume``, a folder, and a JSON list of cases ``[model, fields]``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from scope_cpp.engine.conversation import Conversation
from scope_cpp.engine.model import Model
from scope_cpp.engine.sampling import SamplingParams
from scope_cpp.engine.settings import Settings

BEFORE = ["abc def", "the other thing", "an and on"]
AFTER = ["ring the end", "is it"]

THREADS = {"n_threads": 1, "n_threads_batch": 1}
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def open_conversation(model: Model, sampling: dict[str, Any], **fields: Any) -> Conversation:
    """Open one on one thread, with answers of 60 tokens."""
    fields["options"] = tuple(fields.get("options", ()))
    return Conversation(
        model,
        settings=Settings(**THREADS, **fields),
        sampling=SamplingParams(**{"temp": 0, "ignore_eos": True, **sampling}),
        system="be th",
        template=TEMPLATE,
        n_predict=60,
    )


def tokens(conversation: Conversation, text: str) -> list[int | None]:
    """Ask, and return the tokens of the answer."""
    return [response.token for response in conversation.ask(text)]


def main() -> None:
    """Do what the arguments say."""
    what, folder, cases = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    written = []
    for i, (path, sampling, fields) in enumerate(cases):
        with Model.load(path) as model:
            if what == "save":
                with open_conversation(model, sampling, **fields) as conversation:
                    for text in BEFORE:
                        tokens(conversation, text)
                    conversation.save(folder / str(i))
            else:
                compute = Settings(**THREADS)
                with Conversation.resume(model, folder / str(i), compute=compute) as conversation:
                    written.append([tokens(conversation, text) for text in AFTER])
    if what == "save":
        os.kill(os.getpid(), signal.SIGKILL)
    print(json.dumps(written))


if __name__ == "__main__":
    main()
