"""Figures of two sites: taken from fio, /proc/drbd, the pair's status and /proc, without a lab."""

from __future__ import annotations

from typing import Any

import pytest

from bench.footprint import Sample, choose_rows, choose_worst
from bench.resync_figures import (
    Counters,
    choose_within,
    compare_p99,
    count_moved,
    parse_counters,
    parse_latencies,
)
from bench.rto import choose_operators_phases
from bench.sync_path import (
    ALONE,
    BARE,
    DEPTHS,
    ROUND_TRIPS_MS,
    SYNC,
    Turn,
    choose_figures,
    choose_ratios,
    plan_turns,
    summarize_turns,
)

MIB = 1 << 20
PROC = """version: 8.4.11 (api:1/proto:86-101)
srcversion: 0
 500: cs:Connected ro:Primary/Secondary ds:UpToDate/UpToDate C r-----
    ns:7 nr:8 dw:9 dr:1 al:1 bm:0 lo:0 pe:0 ua:0 ap:0 ep:1 wo:f oos:0

1001: cs:SyncSource ro:Primary/Secondary ds:UpToDate/Inconsistent C r-----
    ns:2048 nr:16 dw:9 dr:1 al:1 bm:0 lo:0 pe:0 ua:0 ap:0 ep:1 wo:f oos:512
	[>....................] sync'ed:  5.0% (400/512)K
"""


def test_each_side_of_a_case_has_as_many_turns_and_goes_first_as_often() -> None:
    turns = list(plan_turns(4))
    for round_trip in ROUND_TRIPS_MS:
        for depth in DEPTHS:
            case = [t.side for t in turns if (t.round_trip_ms, t.depth) == (round_trip, depth)]
            assert case.count(SYNC) == case.count(BARE) == 4
            assert case.count(ALONE) == (4 if round_trip == 0 else 0)
            width = 3 if round_trip == 0 else 2
            firsts = [case[start] for start in range(0, len(case), width)]
            assert firsts[0] != firsts[1]
            assert len(set(firsts)) == 2
    delays = [t.round_trip_ms for t in turns]
    assert delays == sorted(delays)


def test_write_figures_are_medians_and_ratios_only_of_what_both_have() -> None:
    def job(iops: float) -> dict[str, Any]:
        percentiles = {"50.000000": 1_000_000, "99.000000": 5_000_000}
        return {"write": {"iops": iops, "clat_ns": {"percentile": percentiles}}}

    near, far = Turn(0, 1, SYNC), Turn(10, 1, SYNC)
    done = [(near, choose_figures(job(iops))) for iops in (90.0, 500.0, 100.0)]
    done += [(far, choose_figures(job(50.0)))]
    done += [(Turn(0, 1, ALONE), choose_figures(job(400.0)))]
    sides = summarize_turns(done)
    assert sides[SYNC]["rtt 0 ms QD1"] == {"iops": 100.0, "p50_ms": 1.0, "p99_ms": 5.0}
    assert choose_ratios(sides, SYNC, ALONE) == {"rtt 0 ms QD1": 0.25}
    assert choose_ratios(sides, SYNC, BARE) == {}


def test_counters_are_of_the_minor_that_was_asked_for() -> None:
    found = parse_counters(PROC, 1001, "100\n200\n")
    assert found == Counters(2 * MIB, 16 * 1024, 100, 200)
    assert parse_counters(PROC, 500, "1\n2").drbd_sent == 7 * 1024
    with pytest.raises(ValueError):
        parse_counters(PROC, 1, "1\n2")


def test_moved_is_the_larger_count_and_a_counter_may_begin_anew() -> None:
    moved = count_moved(Counters(10, 5, 1000, 100), Counters(110, 5, 1130, 120))
    assert moved == {"drbd": 100, "interface": 150, "moved": 150}
    moved = count_moved(Counters(1000, 5, 0, 0), Counters(70, 6, 20, 10))
    assert moved == {"drbd": 71, "interface": 30, "moved": 71}


def test_a_write_counts_for_the_resync_that_it_waited_in() -> None:
    all_ = parse_latencies("10.0 0.5\n10.9 0.3\n12.0 0.1\n13.0 0.1\n")
    assert choose_within(all_, 11.0, 12.5) == [0.3, 0.1]
    assert parse_latencies("") == []


def test_p99_is_told_in_milliseconds_with_its_ratio() -> None:
    assert compare_p99([0.001] * 100, [0.001] * 98 + [0.003] * 2) == {
        "before_ms": 1.0,
        "during_ms": 3.0,
        "ratio": 3.0,
    }
    with pytest.raises(ValueError):
        compare_p99([0.001], [])


def test_a_failover_told_before_the_cut_is_not_taken_for_this_one() -> None:
    phases = [{"name": "detect", "seconds": 5.1}, {"name": "total", "seconds": 9.0}]
    last = {"from": "east-1", "to": "west", "time": "2026-01-01T00:00:10Z", "phases": phases}
    pairs = [{"status": {"lastFailover": last}}, {}]
    at = 1767225610.0
    assert choose_operators_phases(pairs, "east-1", at + 0.9) == {"detect": 5.1, "total": 9.0}
    assert choose_operators_phases(pairs, "east-1", at + 30) == {}
    assert choose_operators_phases(pairs, "west-1", at - 5) == {}
    phases.append({"name": "evict", "unknown": True})
    assert choose_operators_phases(pairs, "east-1", at + 0.9) == {"detect": 5.1, "total": 9.0}


def test_footprint_of_a_node_has_the_agents_child_in_it() -> None:
    def sample(name: str, ticks: int, node: str = "east-1", pid: str = "") -> Sample:
        return Sample(name, node, pid or name, ticks, 10 * 1024, 5 * 1024)

    names = ["twinvault-agent", "twinvault-csi-node", "drbdsetup", "twinvault-operator"]
    before = {(s.node, s.pid): s for s in (sample(name, 100) for name in names)}
    after = [sample(name, 160) for name in names] + [sample("twinvault-agent", 9, pid="new")]
    rows = choose_rows(before, after, 60.0)
    assert [row["cpu_percent"] for row in rows] == [1.0] * 4
    assert choose_worst(rows, "rss_mib") == {
        "operator": 10.0,
        "csi-controller": 0.0,
        "agent+csi-node": 30.0,
    }
