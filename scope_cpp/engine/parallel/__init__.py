"""Many sequences in one llama.cpp context: continuous batching within a hard number of cells.

One module per concern: `request` what goes in and comes out, `row` one running sequence,
`demand` what it needs, `cells` who gets which sequence and which cells, `prefixes` prompts that
begin alike, `engine` one step after the other.
"""

from scope_cpp.engine.parallel.engine import ParallelEngine
from scope_cpp.engine.parallel.request import Alternative, Event, Request

__all__ = ["Alternative", "Event", "ParallelEngine", "Request"]
