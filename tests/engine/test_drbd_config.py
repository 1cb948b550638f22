from __future__ import annotations

from dataclasses import replace

import pytest

from twinvault_core.errors import ErrorCode, InvalidError
from twinvault_core.model import ReplicationSettings, ReplicationSpec
from twinvault_engine.drbd_config import (
    check_spec,
    choose_al_extents,
    choose_controller,
    choose_metadata_bytes,
    choose_net_timing,
    render_resource,
    resource_name,
    volume_of_resource,
)
from twinvault_engine.drbd_error import describe_failure
from twinvault_engine.runner import CommandError, Failure

MIB = 1024**2
GIB = 1024**3
TIB = 1024**4
EAST = ReplicationSpec(1000, 7000, "10.76.1.21", "west-1", "10.76.1.22")
WEST = ReplicationSpec(1000, 7000, "10.76.1.22", "east-1", "10.76.1.21")


def render(spec: ReplicationSpec = EAST, version: str = "8.4.11") -> str:
    return render_resource("pg", spec, "/dev/loop0", "/dev/loop1", 10 * GIB, version)


def test_resource_file_freezes_writes_and_never_discards_data() -> None:
    for version in ("8.4.11", "9.2.4"):
        text = render(version=version)
        assert "fencing resource-and-stonith;" in text
        assert "protocol C;" in text
        assert "allow-two-primaries no;" in text
        assert "on-io-error detach;" in text
        assert "on-no-data-accessible io-error;" in text
        assert text.count("disconnect;") == 4
        assert "discard-" not in text.replace("rs-discard-granularity", "")


def test_fencing_is_where_each_version_looks_for_it() -> None:
    def section(text: str, name: str) -> str:
        return text.split(f"  {name} {{\n")[1].split("  }\n")[0]

    assert "fencing" in section(render(), "disk")
    assert "fencing" not in section(render(), "net")
    assert "fencing" in section(render(version="9.2.4"), "net")
    assert "node-id" not in render()
    assert render(version="9.2.4").count("node-id") == 2


def test_both_nodes_write_the_same_hosts_in_the_same_order() -> None:
    assert render(EAST) == render(WEST)


def test_address_of_version_6_is_in_brackets() -> None:
    spec = replace(EAST, address="fd00::1", peer_address="fd00::2")
    assert "floating ipv6 [fd00::1]:7000 {" in render(spec)


@pytest.mark.parametrize(
    "spec",
    [
        replace(EAST, minor=0),
        replace(EAST, minor=1 << 20),
        replace(EAST, port=70000),
        replace(EAST, peer_address=EAST.address),
        replace(EAST, peer_address="fd00::2"),
        replace(EAST, address="east-1"),
        replace(EAST, address="10.0.0.1; }"),
    ],
)
def test_spec_that_cannot_be_is_refused(spec: ReplicationSpec) -> None:
    with pytest.raises(InvalidError):
        check_spec("pg", spec)
    check_spec("pg", EAST)


@pytest.mark.parametrize("size", [MIB, GIB, 100 * GIB, TIB, 16 * TIB])
def test_metadata_has_room_for_the_bitmap_of_every_size(size: int) -> None:
    metadata = choose_metadata_bytes(size)
    assert metadata >= MIB + size * 32 * MIB // TIB
    assert metadata % MIB == 0


def test_activity_log_is_a_part_of_a_small_volume_and_bounded_for_a_large_one() -> None:
    assert choose_al_extents(64 * MIB) == 67
    assert choose_al_extents(10 * GIB) * 4 * MIB <= 10 * GIB // 4
    assert choose_al_extents(100 * TIB) == 1237


@pytest.mark.parametrize("milliseconds", [0, 1, 5, 10, 50, 300])
@pytest.mark.parametrize("ping", [1, 2, 10])
def test_times_fit_one_another(milliseconds: int, ping: int) -> None:
    settings = ReplicationSettings(ping_interval_seconds=ping, round_trip_milliseconds=milliseconds)
    timing = choose_net_timing(settings)
    assert timing["timeout"] < timing["ping-int"] * 10
    assert timing["timeout"] < timing["connect-int"] * 10
    assert timing["ping-timeout"] * 100 >= 3 * milliseconds
    assert timing["ko-count"] * timing["timeout"] >= 100
    controller = choose_controller(settings)
    assert controller.plan_ahead_tenths * 100 >= 5 * milliseconds


def test_resync_is_never_left_at_drbds_own_slow_rates() -> None:
    controller = choose_controller(ReplicationSettings())
    assert controller.min_rate_kib >= 1024
    assert controller.max_rate_kib >= 10 * controller.min_rate_kib
    assert controller.min_rate_kib == 10 * 1024, "1 TiB beside a busy application: 30 hours"
    slow = ReplicationSettings(max_rate_bytes_per_second=MIB, min_rate_bytes_per_second=2 * MIB)
    assert choose_controller(slow).min_rate_kib <= choose_controller(slow).max_rate_kib


def test_line_with_a_long_round_trip_is_kept_full() -> None:
    settings = ReplicationSettings(max_rate_bytes_per_second=100 * MIB, round_trip_milliseconds=100)
    assert choose_controller(settings).fill_target_sectors * 512 >= 10 * MIB


def test_what_a_pair_says_of_its_line_reaches_the_resource_file() -> None:
    metro = replace(EAST, settings=ReplicationSettings(round_trip_milliseconds=500))
    text = render(metro)
    assert "c-plan-ahead 25;" in text
    assert f"c-fill-target {75 * MIB // 512}s;" in text
    assert "ping-timeout 15;" in text
    assert render(metro) != render()


def test_an_activity_log_that_a_pool_asks_for_is_taken_instead_of_the_sizes() -> None:
    assert "al-extents 640;" in render()
    chosen = replace(EAST, settings=ReplicationSettings(al_extents=6433))
    assert "al-extents 6433;" in render(chosen)


def test_resource_names_lead_back_to_their_volume_and_others_do_not() -> None:
    assert volume_of_resource(resource_name("pg")) == "pg"
    assert volume_of_resource("somebody") is None


REFUSED = "1000: State change failed: (-7) Refusing to be Primary while peer is not outdated"
HELD = "1001: State change failed: (-12) Device is held open by someone"
UNKNOWN = "1000: Failure: (127) Device minor not allocated\nadditional info from kernel:\nunknown"


@pytest.mark.parametrize(
    ("said", "code", "number"),
    [
        (REFUSED, ErrorCode.UNAVAILABLE, -7),
        (HELD, ErrorCode.IN_USE, -12),
        (UNKNOWN, ErrorCode.NOT_FOUND, 127),
        ("something new", ErrorCode.INTERNAL, None),
    ],
)
def test_refusals_of_the_tools_are_typed(said: str, code: ErrorCode, number: int | None) -> None:
    failed = CommandError(["drbdsetup", "primary", "1000"], Failure.OTHER, said, 11)
    error = describe_failure("promoting pg", failed)
    assert (error.code, getattr(error, "number", "")) == (code, number)
    assert error.message.startswith("promoting pg")


def test_missing_tools_name_the_package() -> None:
    failed = CommandError(["drbdsetup"], Failure.MISSING, "drbdsetup is not installed")
    error = describe_failure("promoting pg", failed)
    assert error.code is ErrorCode.FAILED_PRECONDITION
    assert "drbd-utils" in error.message
