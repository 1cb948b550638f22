"""Cron expressions: five fields in UTC, and the next minute that one of them names.

The fields are minute, hour, day of month, month, day of week. Each is a list (``1,15``) of ``*``,
numbers, ranges (``8-17``, also of names: ``mon-fri``) and steps (``*/5``, ``10-50/20``, ``10/15``
from 10 to the end). Sunday is 0 or 7. ``@hourly``, ``@daily``, ``@weekly``, ``@monthly`` and
``@yearly`` are short for what they say. As everywhere, when both day fields are restricted a day
that fits one of them will do; a day field is unrestricted if it contains a plain ``*``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from .errors import InvalidError, OutOfRangeError

MAX_EXPRESSION_CHARACTERS = 100

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_LONGEST_MONTH_DAYS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_SHORT = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_PART = re.compile(r"(\*|\?|[0-9]{1,2}|[a-z]{3})(?:-([0-9]{1,2}|[a-z]{3}))?(?:/([0-9]{1,2}))?")


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    low: int
    high: int
    names: dict[str, int]


_FIELDS = (
    _Field("minute", 0, 59, {}),
    _Field("hour", 0, 23, {}),
    _Field("day of month", 1, 31, {}),
    _Field("month", 1, 12, {name: number for number, name in enumerate(_MONTHS, 1)}),
    _Field("day of week", 0, 7, {name: number for number, name in enumerate(_WEEKDAYS)}),
)


@dataclass(frozen=True, slots=True)
class Cron:
    """A parsed expression. ``weekdays`` has Sunday as 0; a day set of None is unrestricted."""

    text: str
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int] | None
    months: frozenset[int]
    weekdays: frozenset[int] | None

    def names_day(self, moment: datetime) -> bool:
        """Whether the day of ``moment`` (taken as it stands) is one of the expression's."""
        if moment.month not in self.months:
            return False
        if self.days is None and self.weekdays is None:
            return True
        by_date = self.days is not None and moment.day in self.days
        by_weekday = self.weekdays is not None and moment.isoweekday() % 7 in self.weekdays
        return by_date or by_weekday

    def next_after(self, moment: datetime) -> datetime:
        """The first minute named that lies strictly after ``moment``, in UTC.

        ``moment`` must be aware (InvalidError). OutOfRangeError only where the calendar ends.
        """
        if moment.tzinfo is None:
            raise InvalidError("a schedule needs a time with a time zone")
        try:
            return self._next_after(moment.astimezone(UTC))
        except OverflowError:
            raise OutOfRangeError(f"{self.text!r} names no time before the calendar ends") from None

    def _next_after(self, moment: datetime) -> datetime:
        earliest = moment.replace(second=0, microsecond=0) + timedelta(minutes=1)
        day = earliest.replace(hour=0, minute=0)
        while True:
            if self.names_day(day):
                for hour in self.hours:
                    for minute in self.minutes:
                        candidate = day.replace(hour=hour, minute=minute)
                        if candidate >= earliest:
                            return candidate
            day += timedelta(days=1)


def parse_cron(text: str) -> Cron:
    """The expression in ``text``. InvalidError says which field is wrong, and what it may hold."""
    if len(text) > MAX_EXPRESSION_CHARACTERS:
        raise InvalidError(f"a schedule has at most {MAX_EXPRESSION_CHARACTERS} characters")
    plain = text.strip().lower()
    parts = _SHORT.get(plain, plain).split()
    if len(parts) != len(_FIELDS):
        raise InvalidError(
            f"schedule {text!r} has {len(parts)} fields, not five: minute hour day-of-month month"
            " day-of-week, for example '30 2 * * sun' for Sundays at 02:30 UTC"
        )
    values = [_parse_field(part, field, text) for part, field in zip(parts, _FIELDS, strict=True)]
    minutes, hours, days, months, weekdays = values
    free_day, free_weekday = _is_free(parts[2]), _is_free(parts[4])
    if not free_day and free_weekday:
        _check_date_exists(days, months, text)
    return Cron(
        text=text.strip(),
        minutes=tuple(sorted(minutes)),
        hours=tuple(sorted(hours)),
        days=None if free_day else days,
        months=months,
        weekdays=None if free_weekday else frozenset(value % 7 for value in weekdays),
    )


def _is_free(part: str) -> bool:
    return any(item in ("*", "?", "*/1", "?/1") for item in part.split(","))


def _parse_field(part: str, field: _Field, text: str) -> frozenset[int]:
    values: set[int] = set()
    for item in part.split(","):
        values.update(_parse_item(item, field, text))
    return frozenset(values)


def _parse_item(item: str, field: _Field, text: str) -> range:
    match = _PART.fullmatch(item)
    if match is None:
        raise _wrong(field, text, f"{item!r} is no number, name, range or step")
    first, last, step_text = match.groups()
    if first in ("*", "?"):
        if last is not None:
            raise _wrong(field, text, f"{item!r} is no range")
        # Day 7 is Sunday again: counting by steps it would add one that nobody asked for.
        start, end = field.low, 6 if field.high == 7 else field.high
    else:
        start = _parse_value(first, field, text)
        end = _parse_value(last, field, text) if last is not None else start
        if last is None and step_text is not None:
            end = 6 if field.high == 7 else field.high
    step = int(step_text) if step_text is not None else 1
    if step == 0:
        raise _wrong(field, text, f"the step of {item!r} is 0")
    if start > end:
        raise _wrong(field, text, f"the range {item!r} ends before it begins")
    return range(start, end + 1, step)


def _parse_value(value: str, field: _Field, text: str) -> int:
    number = field.names.get(value)
    if number is None:
        if not value.isdigit():
            raise _wrong(field, text, f"{value!r} is no {field.name}")
        number = int(value)
    if not field.low <= number <= field.high:
        raise _wrong(field, text, f"{number} is outside {field.low} to {field.high}")
    return number


def _check_date_exists(days: frozenset[int], months: frozenset[int], text: str) -> None:
    if all(min(days) > _LONGEST_MONTH_DAYS[month - 1] for month in months):
        raise InvalidError(f"schedule {text!r} never comes: none of its months has such a day")


def _wrong(field: _Field, text: str, what: str) -> InvalidError:
    return InvalidError(f"schedule {text!r}, {field.name}: {what}")
