"""The journal holds the blocks that were noted, whatever was cut short before."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_histoad.maps._journal import Journal

_BLOCKS = st.lists(st.integers(0, 10**6), max_size=5)


@given(before=_BLOCKS, cut=st.sampled_from([b"", b"1", b"37", b"\0\0\0", b"\0\n\0"]), after=_BLOCKS)
def test_journal_ignores_a_line_that_was_cut_short(tmp_path_factory, before, cut, after):
    store = tmp_path_factory.mktemp("map")
    first = Journal(store)
    first.begin()
    first.add(before)
    with first.path.open("ab") as handle:
        handle.write(cut)
    assert first.blocks() == set(before)
    second = Journal(store)
    second.begin()
    second.add(after)
    assert second.blocks() == {*before, *after}


def test_journal_without_a_file_has_no_blocks(tmp_path):
    assert Journal(tmp_path).blocks() == set()
    Journal(tmp_path).begin()
    assert Journal(tmp_path).blocks() == set()


def test_journal_is_not_recreated_for_a_deleted_map(tmp_path):
    with pytest.raises(FileNotFoundError):
        Journal(tmp_path / "gone").begin()
    assert not (tmp_path / "gone").exists()
