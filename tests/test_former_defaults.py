"""A run that began under other defaults goes on under them."""

from dataclasses import dataclass, field

from s3prl_pruned.config import from_dict, to_dict
from s3prl_pruned.former_defaults import as_before, former_values, is_default, with_values


@dataclass(kw_only=True)
class Part:
    """A section."""

    old: int = 1
    """There from the beginning."""
    changed: float = field(default=7.0, metadata={"before": 4.6})
    """Another default."""
    new: int = field(default=5, metadata={"before": 0})
    """Came later."""


@dataclass(kw_only=True)
class Whole:
    """A recipe."""

    part: Part = field(default_factory=Part)
    """Always there."""
    maybe: Part | None = None
    """Or not."""


def test_what_a_record_lacks_or_had_by_default_is_what_it_was():
    record = {"part": {"old": 2, "changed": 4.6}, "maybe": None}
    assert former_values(Whole, record) == {"part.changed": 4.6, "part.new": 0}
    assert as_before(Whole, record)["part"] == {"old": 2, "changed": 4.6, "new": 0} and "new" not in record["part"]
    wanted = with_values(to_dict(Whole()), former_values(Whole, record))
    assert from_dict(Whole, wanted, "wanted").part == Part(old=1, changed=4.6, new=0)


def test_what_a_record_says_of_its_own_stays():
    record = {"part": {"old": 1, "changed": 6.0, "new": 3}, "maybe": {"old": 1, "changed": 4.6}}
    assert former_values(Whole, record) == {"maybe.changed": 4.6, "maybe.new": 0}
    assert as_before(Whole, record)["part"] == record["part"]


def test_damaged_data_are_left_to_what_reads_them():
    assert as_before(Whole, ["no mapping"]) == ["no mapping"]
    assert as_before(Whole, {"part": 3}) == {"part": 3}


def test_defaults_of_both_times_are_defaults():
    assert is_default(Part()) and is_default(Part(changed=4.6, new=0))
    assert not is_default(Part(old=2)) and not is_default(Part(changed=5.0))
