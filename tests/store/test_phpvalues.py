"""PHP's serialized arrays and scalars, against a table and against PHP itself."""

import base64
import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leadctl.store.phpvalues import MAX_DEPTH, PhpError, is_serialized, serialize, unserialize
from tests.support.laravel import Laravel, running_laravel

INT_MAX, INT_MIN = 2**63 - 1, -(2**63)


@pytest.fixture(scope="module")
def laravel() -> Iterator[Laravel]:
    with running_laravel() as running:
        yield running


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(INT_MIN, INT_MAX)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4)
    ),
    max_leaves=20,
)


def as_php(value: Any) -> Any:
    """PHP has one kind of array: keys 0 to n-1 make a list, and none an empty one."""
    if isinstance(value, list):
        return [as_php(item) for item in value]
    if isinstance(value, dict):
        items = [as_php(item) for item in value.values()]
        return (
            items
            if list(value) == [str(place) for place in range(len(value))]
            else dict(zip(value, items, strict=True))
        )
    return value


def exactly(value: Any) -> str:
    """Equal only where the types are equal too: 1, True and 1.0 are not."""
    return json.dumps(value)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"N;", None),
        (b"b:1;", True),
        (b"b:0;", False),
        (b"i:5;", 5),
        (b"i:-5;", -5),
        (b"i:9223372036854775807;", INT_MAX),
        (b"i:-9223372036854775808;", INT_MIN),
        (b"d:0.5;", 0.5),
        (b"d:-1.5E-7;", -1.5e-7),
        (b"d:1.0E+25;", 1e25),
        (b"d:.5;", 0.5),
        (b"d:100;", 100.0),
        (b"d:INF;", math.inf),
        (b"d:-INF;", -math.inf),
        (b's:0:"";', ""),
        (b's:4:"5";X";', '5";X'),
        ('s:4:"жэ";'.encode(), "жэ"),
        (b"a:0:{}", []),
        (b"a:2:{i:0;N;i:1;b:1;}", [None, True]),
        (b"a:2:{i:1;N;i:0;b:1;}", {"1": None, "0": True}),
        (b"a:2:{i:0;N;i:2;b:1;}", {"0": None, "2": True}),
        (b"a:2:{i:5;N;i:1;b:1;}", {"5": None, "1": True}),
        (b"a:1:{i:5;N;}", {"5": None}),
        (b'a:2:{s:1:"a";i:1;i:-7;s:1:"1";}', {"a": 1, "-7": "1"}),
        (b'a:2:{s:1:"a";i:1;s:1:"a";i:2;}', {"a": 2}),
        (b'a:1:{s:1:"a";a:1:{i:0;a:0:{}}}', {"a": [[]]}),
    ],
)
def test_read(data: bytes, value: Any) -> None:
    assert is_serialized(data)
    assert exactly(unserialize(data)) == exactly(value)


def test_not_a_number() -> None:
    assert math.isnan(unserialize(b"d:NAN;"))
    assert serialize(math.nan) == b"d:NAN;"


@pytest.mark.parametrize(
    "data",
    [
        b'O:8:"stdClass":0:{}',
        b'O:+8:"stdClass":0:{}',
        b'C:3:"Foo":2:{ab}',
        b'E:11:"Suit:Hearts";',
        b"R:1;",
        b"r:1;",
        b'a:1:{s:1:"a";O:8:"stdClass":0:{}}',
        b'a:2:{i:0;s:1:"a";i:1;R:2;}',
    ],
)
def test_objects_and_references_are_refused(data: bytes) -> None:
    assert is_serialized(data)
    with pytest.raises(PhpError, match=r"^a serialized PHP object or reference, which is never read$"):
        unserialize(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"N",
        b"N;N;",
        b"b:2;",
        b"i:;",
        b"i:5",
        b"i:9223372036854775808;",
        b"i:-9223372036854775809;",
        b"i:" + b"9" * 5000 + b";",
        b"d:;",
        b"d:e5;",
        b"d:nan;",
        b"d:Infinity;",
        b"d:1_0.5;",
        b's:999999999:"a";',
        b's:99999999999:"a";',
        b's:2:"a";',
        b's:1:"ab";',
        b"s:1:'a';",
        b's:1:"a"',
        b's:1:"aXX',
        b"a:0:{X",
        b"XX",
        b's:-1:"a";',
        b'S:1:"a";',
        b"a:999999999:{}",
        b"a:1:{}",
        b"a:0:{i:0;N;}",
        b"a:1:{i:0;N;",
        b"a:1:{i:0;}",
        b"a:1:{N;N;}",
        b"a:1:{d:1;N;}",
        b"a:1:{a:0:{}N;}",
        b"a:-1:{}",
        b"x:1;",
    ],
)
def test_damaged(data: bytes) -> None:
    with pytest.raises(PhpError, match=r"^damaged PHP data$"):
        unserialize(data)


@pytest.mark.parametrize("data", [b's:1:"\xff";', b'a:1:{s:1:"\xff";N;}', b's:3:"\xed\xa0\x80";'])
def test_text_is_utf_8(data: bytes) -> None:
    with pytest.raises(PhpError, match=r"^text that is not UTF-8$"):
        unserialize(data)


def test_depth_is_bounded() -> None:
    def nested(depth: int) -> bytes:
        return b"a:1:{i:0;" * depth + b"N;" + b"}" * depth

    unserialize(nested(MAX_DEPTH))
    for depth in (MAX_DEPTH + 1, 100_000):
        with pytest.raises(PhpError, match=r"^arrays nested too deeply$"):
            unserialize(nested(depth))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"a:1",
        b"N",
        b"N;x",
        b"xN;",
        b"s:3",
        b"i:5; and more",
        b"O:",
        b'{"a": 1}',
        b"[]",
        b'"s:1:a"',
        b"d:{};",
        b"r:x;",
    ],
)
def test_other_text_is_not_taken_for_serialized(data: bytes) -> None:
    assert not is_serialized(data)


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (
            {"a": 1, "5": "5", "05": 0, "-5": 0, "-0": 0},
            b'a:5:{s:1:"a";i:1;i:5;s:1:"5";s:2:"05";i:0;i:-5;i:0;s:2:"-0";i:0;}',
        ),
        ({"9223372036854775807": 0}, b"a:1:{i:9223372036854775807;i:0;}"),
        ({"9223372036854775808": 0}, b'a:1:{s:19:"9223372036854775808";i:0;}'),
        ({"1\n": 0, "٣": 0}, 'a:2:{s:2:"1\n";i:0;s:2:"٣";i:0;}'.encode()),
        ([None, True, 1e25, math.inf, -math.inf], b"a:5:{i:0;N;i:1;b:1;i:2;d:1E+25;i:3;d:INF;i:4;d:-INF;}"),
        ("ж", 's:2:"ж";'.encode()),
        ({}, b"a:0:{}"),
        ([], b"a:0:{}"),
    ],
)
def test_written(value: Any, data: bytes) -> None:
    assert serialize(value) == data


@pytest.mark.parametrize("value", [INT_MAX + 1, INT_MIN - 1, "\ud800", {"\ud800": 1}, {1, 2}, b"bytes", object()])
def test_what_php_has_no_value_for(value: Any) -> None:
    with pytest.raises(PhpError):
        serialize(value)


@given(values)
def test_what_is_written_is_read(value: Any) -> None:
    data = serialize(value)
    assert is_serialized(data)
    assert exactly(unserialize(data)) == exactly(as_php(value))


@given(st.binary() | st.text(alphabet='0123456789-+:;{}"aisdbNORC.eE').map(str.encode))
def test_rubbish_is_refused(data: bytes) -> None:
    try:
        unserialize(data)
    except PhpError as error:
        assert str(error)  # noqa: PT017 - nothing but this is raised


@given(values, st.data())
def test_damage_is_refused(value: Any, data: st.DataObject) -> None:
    whole = bytearray(serialize({"key": value}))
    whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        unserialize(bytes(whole))
    except PhpError as error:
        assert str(error)  # noqa: PT017 - nothing but this is raised


@settings(max_examples=60, deadline=None)
@given(values)
def test_php_reads_what_is_written_and_is_read(laravel: Laravel, value: Any) -> None:
    ours = laravel.unserialize(base64.b64encode(serialize(value)).decode())
    assert exactly(ours) == exactly(as_php(value))
    theirs = unserialize(base64.b64decode(laravel.serialize(value)))
    assert exactly(theirs) == exactly(as_php(value))
