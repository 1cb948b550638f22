"""The registration desk of the PostgreSQL image: what needs no database."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import pytest

from tools.lint_chart import ROOT


@pytest.fixture
def hospital_load(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script of the image; its database library is Debian's and is not needed here."""
    monkeypatch.setitem(sys.modules, "psycopg2", ModuleType("psycopg2"))
    path = ROOT / "images" / "postgresql" / "hospital_load.py"
    spec = importlib.util.spec_from_file_location("hospital_load", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_patient_is_the_same_each_time_and_another_for_each_desk(
    hospital_load: ModuleType,
) -> None:
    make = hospital_load.make_patient
    assert make("east", 7) == make("east", 7)
    assert make("east", 7) != make("west", 7)
    assert len({make("east", number)[0] for number in range(2000)}) > 1990


def test_only_acknowledged_numbers_are_asked_for(hospital_load: ModuleType) -> None:
    log = ["acknowledged 3\n", "waiting for the database: x\n", "acknowledged 4\n", "\n"]
    assert hospital_load.parse_numbers(log) == [3, 4]
