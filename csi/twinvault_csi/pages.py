"""Pages of a sorted list: the token names the last entry that was given.

It stays good when entries come and go between two pages, and after a restart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from twinvault_core.errors import BusyError, InvalidError
from twinvault_core.ids import is_valid_id

_PREFIX = "after:"


class TokenError(BusyError):
    """A starting token that we did not give; the caller must list from the start."""


@dataclass(frozen=True)
class Page:
    ids: tuple[str, ...]
    next_token: str


def parse_token(token: str) -> str:
    """The id that the page comes after, empty for the first page; TokenError if it is not ours."""
    if not token:
        return ""
    last = token.removeprefix(_PREFIX)
    if not token.startswith(_PREFIX) or not is_valid_id(last):
        raise TokenError("the starting token was not given by this driver; list from the start")
    return last


def choose_page(ids: Sequence[str], token: str, max_entries: int) -> Page:
    """The ids after ``token`` in sorted order, at most ``max_entries`` (0: all of them)."""
    if max_entries < 0:
        raise InvalidError(f"max_entries is {max_entries}; give 0 for all or a positive number")
    after = parse_token(token)
    rest = [one for one in sorted(ids) if one > after]
    if not max_entries or len(rest) <= max_entries:
        return Page(tuple(rest), "")
    page = tuple(rest[:max_entries])
    return Page(page, f"{_PREFIX}{page[-1]}")
