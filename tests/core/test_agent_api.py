"""The agent's protocol: what is written is read back; garbage is refused, never guessed at."""

from __future__ import annotations

import json
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from twinvault_core.agent_api import (
    REQUESTS,
    Expand,
    NodeInfo,
    Publish,
    Request,
    Stage,
    Stats,
    Unpublish,
    Unstage,
    format_error,
    format_request,
    format_result,
    parse_answer,
    parse_request,
)
from twinvault_core.errors import ErrorCode, InvalidError, TwinvaultError

TEXT = st.text(max_size=40)
OPTIONS = st.lists(TEXT, max_size=3).map(tuple)
ANY_REQUEST: st.SearchStrategy[Request] = st.one_of(
    st.builds(Stage, TEXT, TEXT, TEXT, TEXT, OPTIONS, st.booleans()),
    st.builds(Unstage, TEXT, TEXT),
    st.builds(Publish, TEXT, TEXT, TEXT, TEXT, OPTIONS, st.booleans()),
    st.builds(Unpublish, TEXT, TEXT),
    st.builds(Stats, TEXT, TEXT),
    st.builds(Expand, TEXT, TEXT, st.integers(0, 2**63)),
    st.builds(NodeInfo),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(ANY_REQUEST)
def test_every_request_survives_the_wire(request: Request) -> None:
    line = format_request(request)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert parse_request(line) == request


@given(st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_garbage_is_an_invalid_request(line: bytes) -> None:
    with pytest.raises(InvalidError):
        parse_request(line)


@given(st.sampled_from(sorted(REQUESTS)), JSON)
def test_wrong_arguments_are_refused_or_exactly_typed(operation: str, arguments: Any) -> None:
    line = json.dumps({"operation": operation, "arguments": arguments}).encode()
    try:
        request = parse_request(line)
    except InvalidError:
        return
    assert parse_request(format_request(request)) == request


@pytest.mark.parametrize(
    "arguments",
    [
        {"volume_id": 1, "path": "p"},
        {"volume_id": "v", "path": "p", "size_bytes": "1"},
        {"volume_id": "v", "path": "p", "size_bytes": True},
        {"volume_id": "v", "path": "p", "extra": 1},
        {"volume_id": "v"},
    ],
)
def test_an_argument_of_another_type_is_refused(arguments: dict[str, Any]) -> None:
    line = json.dumps({"operation": "expand", "arguments": arguments}).encode()
    with pytest.raises(InvalidError):
        parse_request(line)


@given(st.dictionaries(TEXT, JSON, max_size=3))
def test_a_result_survives_the_wire(result: dict[str, Any]) -> None:
    assert parse_answer(format_result(result)) == result


@given(st.sampled_from(list(ErrorCode)), TEXT)
def test_an_error_keeps_its_code_and_message(code: ErrorCode, message: str) -> None:
    with pytest.raises(TwinvaultError) as caught:
        parse_answer(format_error(TwinvaultError(message, code)))
    assert (caught.value.code, caught.value.message) == (code, message)


@given(st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_a_garbled_answer_is_an_error_of_ours(line: bytes) -> None:
    try:
        parse_answer(line)
    except TwinvaultError:
        return
    assert isinstance(json.loads(line)["result"], dict)
