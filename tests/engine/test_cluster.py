"""How blocks are dealt out to the workers; what these make of them is tested with whole cohorts."""

from hypothesis import given
from hypothesis import strategies as st

from napari_histoad.engine._cluster import _parts


@given(blocks=st.lists(st.integers(0, 999), unique=True), workers=st.integers(0, 20))
def test_every_block_is_in_one_task_and_the_last_tasks_are_small(blocks, workers):
    parts = list(_parts(blocks, workers))
    assert [block for part in parts for block in part] == blocks
    sizes = [len(part) for part in parts]
    assert sizes == sorted(sizes, reverse=True)
    assert all(1 <= size <= 4 for size in sizes)
    if workers and len(blocks) >= 2 * workers:
        assert sizes[-workers:] == [1] * workers  # no worker waits for another's last task for longer than for one block
