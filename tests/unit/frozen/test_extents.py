"""What two lists of extents say of the bytes of two clones."""

import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given
from hypothesis import strategies as some

from shared.frozen.extents import (
    DELALLOC,
    ENCODED,
    ENCRYPTED,
    INLINE,
    LAST,
    MERGED,
    NOT_ALIGNED,
    SHARED,
    TAIL,
    UNKNOWN,
    UNWRITTEN,
    Comparison,
    Extent,
    Span,
    compare,
)

BLOCK = 8
#: Extents with one of these may have any bytes, whatever their place is.
PROVING_NOTHING = [
    *(UNKNOWN, DELALLOC, ENCODED, ENCRYPTED, NOT_ALIGNED, INLINE, TAIL),
    0x4000,  # what no kernel says yet
]


@dataclass
class File:
    """A file of which is known what it holds, and what its file system says of it.

    `blocks` has for each block its place, None for zeros; `words` what is said of it.
    """

    blocks: list[int | None]
    words: list[int]
    size: int
    secrets: list[bytes] = field(default_factory=list)

    def content(self) -> bytes:
        """Bytes of believed blocks follow from their place alone."""
        pieces = []
        for number, (place, word) in enumerate(zip(self.blocks, self.words, strict=True)):
            if word in PROVING_NOTHING:
                pieces.append(self.secrets[number])
            elif place is None or word & UNWRITTEN:
                pieces.append(bytes(BLOCK))
            else:
                pieces.append(b"%08d" % place)
        return b"".join(pieces)[: self.size]

    def extents(self) -> list[Extent]:
        """As a file system tells them: neighbours that lie together are one."""
        found: list[Extent] = []
        for number, (place, word) in enumerate(zip(self.blocks, self.words, strict=True)):
            if place is None and word not in PROVING_NOTHING and not word & UNWRITTEN:
                continue
            start, physical = number * BLOCK, (place or 0) * BLOCK
            last = found[-1] if found else None
            if last and (last.end, last.flags, last.physical + last.end - last.start) == (
                start,
                word,
                physical,
            ):
                found[-1] = Extent(last.start, start + BLOCK, last.physical, word)
            else:
                found.append(Extent(start, start + BLOCK, physical, word))
        return found


words = some.sampled_from([0, 0, 0, SHARED, MERGED, LAST, UNWRITTEN, *PROVING_NOTHING])


@some.composite
def files(draw: some.DrawFn) -> tuple[File, File]:
    """A file, and what became of it: most of it stays."""
    count = draw(some.integers(0, 12))
    places = some.none() | some.integers(0, 9)
    old_blocks = draw(some.lists(places, min_size=count, max_size=count))
    new_count = max(0, count + draw(some.integers(-2, 2)))
    new_blocks = (old_blocks + [None] * 2)[:new_count]
    for number in draw(some.sets(some.integers(0, max(0, new_count - 1)), max_size=new_count)):
        if number < new_count:
            new_blocks[number] = draw(places)

    def made(blocks: list[int | None]) -> File:
        length = len(blocks)
        said = draw(some.lists(words, min_size=length, max_size=length))
        secrets = draw(
            some.lists(
                some.sampled_from([b"secret 1", b"secret 2", bytes(BLOCK)]),
                min_size=length,
                max_size=length,
            )
        )
        size = max(0, length * BLOCK - draw(some.integers(0, BLOCK - 1))) if length else 0
        return File(blocks, said, size, secrets)

    return made(old_blocks), made(new_blocks)


def proven(comparison: Comparison, size: int) -> list[bool]:
    equal = [True] * size
    for span in (*comparison.differing, *comparison.unproven):
        assert 0 <= span.start < span.end <= size
        assert all(equal[span.start : span.end]), "nothing is told twice"
        equal[span.start : span.end] = [False] * (span.end - span.start)
    return equal


@pytest.mark.broad
@given(files())
def test_what_is_not_told_has_the_same_bytes(pair: tuple[File, File]) -> None:
    old, new = pair
    comparison = compare(old.extents(), old.size, new.extents(), new.size)
    before, after = old.content(), new.content()
    for position, equal in enumerate(proven(comparison, new.size)):
        if equal:
            assert before[position : position + 1] == after[position : position + 1]


@pytest.mark.broad
@given(files())
def test_a_file_is_as_it_was_where_its_extents_are_believed(pair: tuple[File, File]) -> None:
    """The comparison is of use: what lies where it lay is not told."""
    old, _ = pair
    comparison = compare(old.extents(), old.size, old.extents(), old.size)
    assert comparison.differing == ()
    unproven = {
        position
        for number, word in enumerate(old.words)
        if word in PROVING_NOTHING
        for position in range(number * BLOCK, min((number + 1) * BLOCK, old.size))
    }
    told = {at for span in comparison.unproven for at in range(span.start, span.end)}
    assert told == unproven


@given(
    some.lists(
        some.builds(
            Extent,
            some.integers(0, 50),
            some.integers(0, 50),
            some.integers(0, 9),
            some.sampled_from([0, LAST, UNWRITTEN]),
        )
    ),
    some.integers(0, 60),
)
@example([Extent(0, 10, 0), Extent(5, 20, 100)], 20)
@example([Extent(0, 10, 0), Extent(0, 10, 0)], 20)
def test_extents_that_no_file_has_prove_nothing(extents: list[Extent], size: int) -> None:
    in_order = all(extent.start < extent.end for extent in extents) and all(
        first.end <= second.start for first, second in itertools.pairwise(extents)
    )
    comparison = compare(extents, size, extents, size)
    if not in_order:
        assert comparison == Comparison((), (Span(0, size),) if size else ())
    else:
        assert comparison == Comparison((), ())


@pytest.mark.parametrize("word", PROVING_NOTHING)
def test_one_side_that_proves_nothing_is_enough(word: int) -> None:
    believed, other = [Extent(0, 8, 64)], [Extent(0, 8, 64, word)]
    for old, new in ((believed, other), (other, believed), (other, other)):
        assert compare(old, 8, new, 8) == Comparison((), (Span(0, 8),))


def test_a_hole_and_what_was_never_written_are_zeros() -> None:
    hole: list[Extent] = []
    allocated = [Extent(0, 16, 4096, UNWRITTEN)]
    for old, new in ((hole, allocated), (allocated, hole)):
        assert compare(old, 16, new, 16) == Comparison((), ())
    assert compare(hole, 16, [Extent(0, 8, 0)], 16) == Comparison((Span(0, 8),), ())


def test_what_a_file_has_grown_by_counts_as_changed() -> None:
    old = [Extent(0, 8, 64)]
    assert compare(old, 8, [Extent(0, 16, 64)], 16) == Comparison((Span(8, 16),), ())
    assert compare(old, 8, old, 16) == Comparison((Span(8, 16),), ()), "zeros that are new, too"
    assert compare([], 0, old, 8) == Comparison((Span(0, 8),), ())


def test_neighbours_are_one_span() -> None:
    old = [Extent(0, 8, 0), Extent(8, 16, 800), Extent(16, 24, 1600)]
    new = [Extent(0, 8, 80), Extent(8, 16, 880), Extent(16, 24, 1600)]
    assert compare(old, 24, new, 24).differing == (Span(0, 16),)
