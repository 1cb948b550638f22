"""Named steps of the engine's work, so that tests can kill it between every two of them.

``step`` costs one comparison when nothing is installed.
"""

from __future__ import annotations

from collections.abc import Callable

_hook: Callable[[str], None] | None = None


def step(name: str) -> None:
    """Mark the point just before ``name`` happens."""
    if _hook is not None:
        _hook(name)


def install(hook: Callable[[str], None] | None) -> None:
    """Call ``hook`` at every step from now on; None removes it. For tests only."""
    global _hook
    _hook = hook
