"""What a cron expression names, against a naive reading of the calendar."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinvault_core.cron import Cron, parse_cron
from twinvault_core.errors import InvalidError, OutOfRangeError, TwinvaultError

MOMENTS = st.datetimes(datetime(2020, 1, 1), datetime(2110, 1, 1), timezones=st.just(UTC))


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "moment", "expected"),
    [
        ("* * * * *", "2026-03-01 10:00:30", "2026-03-01 10:01"),
        ("0 2 * * *", "2026-03-01 02:00", "2026-03-02 02:00"),
        ("0 2 * * *", "2026-03-01 01:59:59", "2026-03-01 02:00"),
        ("30 2 * * sun", "2026-03-02 00:00", "2026-03-08 02:30"),
        ("30 2 * * 7", "2026-03-02 00:00", "2026-03-08 02:30"),
        ("*/20 8-17 * * mon-fri", "2026-03-06 17:40", "2026-03-09 08:00"),
        ("10/25 0 * * *", "2026-03-06 00:10", "2026-03-06 00:35"),
        ("0 0 29 2 *", "2096-03-01 00:00", "2104-02-29 00:00"),
        ("0 0 31 * *", "2026-03-31 00:00", "2026-05-31 00:00"),
        ("0 0 1 jan,JUL *", "2026-02-01 00:00", "2026-07-01 00:00"),
        # Both day fields restricted: either will do (a Friday, or the 13th).
        ("0 0 13 * fri", "2026-03-07 00:00", "2026-03-13 00:00"),
        ("0 0 13 * fri", "2026-04-11 00:00", "2026-04-13 00:00"),
        ("0 0 */15 * mon", "2026-03-02 00:00", "2026-03-09 00:00"),
        ("@weekly", "2026-03-02 00:00", "2026-03-08 00:00"),
        ("@yearly", "2026-03-02 00:00", "2027-01-01 00:00"),
    ],
)
def test_next_time_is_the_one_a_person_reads(text: str, moment: str, expected: str) -> None:
    assert parse_cron(text).next_after(at(moment)) == at(expected)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "0 fields"),
        ("* * * *", "4 fields"),
        ("* * * * * *", "6 fields"),
        ("60 * * * *", "minute: 60 is outside 0 to 59"),
        ("* 24 * * *", "hour: 24"),
        ("* * 0 * *", "day of month: 0"),
        ("* * * 13 *", "month: 13"),
        ("* * * * 8", "day of week: 8"),
        ("* * * foo *", "'foo' is no month"),
        ("* * * * jan", "'jan' is no day of week"),
        ("*/0 * * * *", "step"),
        ("9-5 * * * *", "ends before it begins"),
        ("1,,2 * * * *", "'' is no number"),
        ("-1 * * * *", "'-1'"),
        ("*-5 * * * *", "no range"),
        ("٣ * * * *", "no number"),
        ("0 0 30 2 *", "never comes"),
        ("0 0 31 4,6,9,11 *", "never comes"),
        ("1 " * 60, "at most 100"),
        ("@reboot", "1 fields"),
    ],
)
def test_a_bad_expression_is_refused_with_the_field_that_is_wrong(text: str, says: str) -> None:
    with pytest.raises(InvalidError, match=says):
        parse_cron(text)


@given(st.text(max_size=120))
def test_any_text_is_either_parsed_or_refused(text: str) -> None:
    try:
        assert isinstance(parse_cron(text), Cron)
    except TwinvaultError as error:
        assert error.message


@st.composite
def items(draw: st.DrawFn, low: int, high: int) -> tuple[str, set[int], bool]:
    """One item of a field, the values that it stands for, and whether it is a plain star."""
    first = draw(st.integers(low, high))
    last = draw(st.integers(first, high))
    step = draw(st.integers(1, 60))
    return draw(
        st.sampled_from(
            [
                ("*", set(range(low, high + 1)), True),
                (f"{first}", {first}, False),
                (f"{first}-{last}", set(range(first, last + 1)), False),
                (f"{first}-{last}/{step}", set(range(first, last + 1, step)), False),
                (f"{first}/{step}", set(range(first, high + 1, step)), False),
                (f"*/{step}", set(range(low, high + 1, step)), step == 1),
            ]
        )
    )


@st.composite
def fields(draw: st.DrawFn, low: int, high: int) -> tuple[str, set[int], bool]:
    parts = draw(st.lists(items(low, high), min_size=1, max_size=3))
    text = ",".join(part[0] for part in parts)
    return text, set().union(*(part[1] for part in parts)), any(part[2] for part in parts)


@given(fields(0, 59), fields(0, 23), fields(1, 31), fields(1, 12), fields(0, 6), MOMENTS)
def test_no_named_minute_is_skipped_and_none_is_made_up(
    minute: tuple[str, set[int], bool],
    hour: tuple[str, set[int], bool],
    day: tuple[str, set[int], bool],
    month: tuple[str, set[int], bool],
    weekday: tuple[str, set[int], bool],
    moment: datetime,
) -> None:
    text = " ".join(part[0] for part in (minute, hour, day, month, weekday))

    def fits(when: datetime) -> bool:
        by_date, by_weekday = when.day in day[1], when.isoweekday() % 7 in weekday[1]
        either = not day[2] and not weekday[2]
        right_day = (
            (by_date or by_weekday)
            if either
            else (by_date or day[2]) and (by_weekday or weekday[2])
        )
        return (
            when.minute in minute[1]
            and when.hour in hour[1]
            and when.month in month[1]
            and right_day
        )

    if len(text) > 100:
        return
    try:
        cron = parse_cron(text)
    except InvalidError as error:
        assert "never comes" in error.message
        leap_year = (datetime(2024, 1, 1) + timedelta(days=count) for count in range(366))
        first = timedelta(hours=min(hour[1]), minutes=min(minute[1]))
        assert not any(fits(date + first) for date in leap_year)
        return
    found = cron.next_after(moment)
    assert found > moment
    assert fits(found)
    # Every minute of the first two days that were passed over, and midnight-to-midnight beyond.
    probe = moment.replace(second=0, microsecond=0) + timedelta(minutes=1)
    for _ in range(600):
        if probe >= found:
            break
        assert not fits(probe)
        probe += timedelta(minutes=1)
    probe = probe.replace(hour=min(hour[1]), minute=min(minute[1])) + timedelta(days=1)
    while probe < found:
        assert not fits(probe)
        probe += timedelta(days=1)


def test_times_of_other_zones_are_taken_for_what_they_are() -> None:
    berlin = timezone(timedelta(hours=2))
    moment = datetime(2026, 7, 1, 1, 30, tzinfo=berlin)
    assert parse_cron("0 0 * * *").next_after(moment) == at("2026-07-01 00:00")


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(InvalidError, match="time zone"):
        parse_cron("* * * * *").next_after(datetime(2026, 1, 1))


def test_the_end_of_the_calendar_is_an_error_and_no_crash() -> None:
    with pytest.raises(OutOfRangeError, match="calendar"):
        parse_cron("0 0 1 1 *").next_after(datetime(9999, 6, 1, tzinfo=UTC))
