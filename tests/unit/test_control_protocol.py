"""The daemon's language: what is sent is what arrives, and nothing malformed gets further than an
error.
"""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapfs import errors
from snapfs.control.socket import protocol
from snapfs.control.socket.protocol import ControlError, Request

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda values: st.lists(values) | st.dictionaries(st.text(), values),
    max_leaves=8,
)


@given(st.text(), st.dictionaries(st.text(), JSON))
def test_a_request_arrives_as_it_was_sent_on_one_line(command: str, arguments: dict) -> None:
    line = protocol.encode_request(command, arguments)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert protocol.decode_request(line) == Request(command, arguments)


def test_a_name_that_is_not_utf8_survives() -> None:
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    assert (
        protocol.decode_request(protocol.encode_request("x", {"name": name})).arguments["name"]
        == name
    )


@given(st.binary(max_size=200))
def test_garbage_raises_control_errors_and_nothing_else(line: bytes) -> None:
    for decode in (protocol.decode_request, protocol.decode_answer):
        with pytest.raises(ControlError):
            decode(line)


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"v": 1},
        {"v": 2, "command": "x", "arguments": {}},
        {"v": 1, "command": 3, "arguments": {}},
        {"v": 1, "command": "x"},
        {"v": 1, "command": "x", "arguments": []},
        [],
        "x",
    ],
)
def test_other_json_is_no_request(message: object) -> None:
    with pytest.raises(ControlError):
        protocol.decode_request(json.dumps(message).encode())


def test_deep_nesting_is_an_error_and_not_a_crash() -> None:
    with pytest.raises(ControlError):
        protocol.decode_request(b"[" * 60_000)


def test_a_request_that_is_too_long_is_not_sent() -> None:
    with pytest.raises(ControlError):
        protocol.encode_request("x", {"name": "a" * protocol.REQUEST_LIMIT})


def test_every_error_of_the_tree_arrives_as_its_class() -> None:
    kinds = protocol.error_kinds()
    assert {
        "NameTaken",
        "VolumeBusy",
        "NoSpace",
        "CorruptBlock",
        "SnapfsError",
        "ControlError",
    } <= set(kinds)
    for kind in kinds.values():
        with pytest.raises(kind, match="what happened") as caught:
            protocol.decode_answer(protocol.encode_error(kind("what happened")))
        assert type(caught.value) is kind


def test_kinds_are_unique_names() -> None:
    classes = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.SnapfsError)
    ]
    assert {kind.__name__: kind for kind in classes}.items() <= protocol.error_kinds().items()


def test_what_breaks_inside_tells_its_kind_only() -> None:
    with pytest.raises(ControlError, match="KeyError") as caught:
        protocol.decode_answer(protocol.encode_error(KeyError("a secret")))
    assert "secret" not in str(caught.value)


def test_an_unknown_kind_is_an_error_with_its_message() -> None:
    with pytest.raises(ControlError, match="from the future"):
        protocol.decode_answer(b'{"v":1,"error":{"kind":"Strange","message":"from the future"}}')


def test_an_answer_that_is_too_long_becomes_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "ANSWER_LIMIT", 100)
    with pytest.raises(ControlError, match="too long"):
        protocol.decode_answer(protocol.encode_result({"a": "b" * 100}))
