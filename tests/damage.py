"""Ways in which a file may be damaged: changed bytes, and hand-written wrong values."""

import copy

from hypothesis import strategies as st

_NUMBERS = (True, -1, 0, 1, 3.5, 2**40, -(2**70), 1e300, float("nan"), float("inf"))
ODD = (*_NUMBERS, None, "", "x", "\udcff", [], [[]], ["a"], {}, {"a": {}})
"""Replacements for any value. JSON and YAML can hold all of them."""


def places(data, path=()):
    """The path of every value in nested dicts and lists; in long lists, only of the first two and the last."""
    if path:
        yield path
    if isinstance(data, dict):
        inner = data.items()
    elif isinstance(data, (list, tuple)):
        inner = {index: data[index] for index in (0, 1, len(data) - 1) if index < len(data)}.items() if data else ()
    else:
        return
    for key, value in inner:
        yield from places(value, (*path, key))


def put(data, path, value, *, remove=False):
    """A copy of nested plain data with one value replaced or removed."""
    if not path:
        return value
    made = list(data) if isinstance(data, tuple) else copy.copy(data)
    if len(path) == 1 and remove:
        del made[path[0]]
    else:
        made[path[0]] = put(made[path[0]], path[1:], value, remove=remove)
    return tuple(made) if isinstance(data, tuple) else made


@st.composite
def odd_values(draw, data):
    """Nested plain data in which one or two values are replaced or removed."""
    for _ in range(draw(st.integers(1, 2))):
        path = draw(st.sampled_from(list(places(data)) or [()]))
        data = put(data, path, draw(st.sampled_from(ODD)), remove=bool(path) and draw(st.integers(0, 4)) == 0)
        if not isinstance(data, (dict, list)):
            break
    return data


@st.composite
def odd_bytes(draw, content):
    """Bytes that are truncated, overwritten, or have others inserted; often at the ends, where directories are."""
    made = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        ends = st.integers(0, min(200, len(made))).map(lambda back: len(made) - back)
        at = draw(st.one_of(st.integers(0, len(made)), st.integers(0, min(2000, len(made))), ends))
        kind = draw(st.sampled_from(("cut", "overwrite", "overwrite", "insert")))
        new = draw(st.binary(min_size=1, max_size=8))
        if kind == "cut":
            del made[at:]
        else:
            made[at : at + len(new) * (kind == "overwrite")] = new
    return bytes(made)
