from __future__ import annotations

from hypothesis import settings

# two shared cores: no deadline, as a slow machine is not a bug
settings.register_profile("policies", deadline=None, max_examples=40)
settings.load_profile("policies")
