"""Short words for tables: a column shows one value, so lists become a string."""

from __future__ import annotations

from collections.abc import Sequence

SHOWN = 4
"""Of a list in a table; the rest is counted."""


def join_some(words: Sequence[str], most: int = SHOWN) -> str:
    """``a,b,c,d,+3``; empty for nothing."""
    shown = list(words[:most])
    if len(words) > most:
        shown.append(f"+{len(words) - most}")
    return ",".join(shown)
