"""How blocks are dealt out to the workers; what these make of them is tested with whole cohorts."""

from collections import Counter
from concurrent.futures import Future

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_histoad.engine.mapping import _cluster
from napari_histoad.engine.mapping._cluster import _deal, _parts, _result
from napari_histoad.errors import WorkerError


@given(blocks=st.lists(st.integers(0, 999), unique=True), workers=st.integers(0, 20))
def test_parts_put_each_block_in_one_task_and_end_with_small_tasks(blocks, workers):
    parts = list(_parts(blocks, workers))
    assert [block for part in parts for block in part] == blocks
    sizes = [len(part) for part in parts]
    assert sizes == sorted(sizes, reverse=True)
    assert all(1 <= size <= 4 for size in sizes)
    if workers and len(blocks) >= 2 * workers:
        assert sizes[-workers:] == [1] * workers  # no worker waits for another's last task for longer than for one block


@pytest.mark.parametrize(("long_s", "most"), [(0.0, 1), (1e9, 2)])
@given(data=st.data())
def test_deal_submits_tasks_in_order_to_the_least_busy_worker(long_s, most, data):
    threads = data.draw(st.dictionaries(st.sampled_from("abcd"), st.integers(1, 3), min_size=1))
    count, submitted, pending, given_to = data.draw(st.integers(0, 30)), [], [], {}
    fetched = 0

    def submit(task, worker):
        load = Counter(given_to.values())
        each = most if fetched else 2  # at first nobody knows how long a task takes
        assert load[worker] / threads[worker] == min(load[other] / n for other, n in threads.items())
        assert load[worker] < each * threads[worker]
        submitted.append(task)
        future = Future()
        pending.append(future)
        given_to[future] = worker
        # Some are done by now; in the end, and before all threads are busy, all.
        last = task == count - 1 or len(given_to) >= sum(threads.values())
        for _ in range(len(pending) if last else data.draw(st.integers(0, len(pending)))):
            pending.pop(data.draw(st.integers(0, len(pending) - 1))).set_result(None)
        return future

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_cluster, "_LONG_S", long_s)
        for future in _deal(submit, range(count), lambda: threads):
            assert future.done()
            del given_to[future]
            fetched += 1
    assert fetched == count
    assert submitted == list(range(count))


def test_deal_waits_without_workers_and_cancels_remaining_tasks(monkeypatch):
    monkeypatch.setattr(_cluster, "_NEWS_S", 0.001)
    answers, futures = iter([{}, {}, {"a": 1}, {"a": 1}]), []

    def submit(_, worker):
        assert worker == "a"
        futures.append(Future())
        return futures[-1]

    dealt = _deal(submit, range(5), lambda: next(answers))
    assert [next(dealt) for _ in range(3)] == [None] * 3
    assert len(futures) == 2
    dealt.close()
    assert all(future.cancelled() for future in futures)


def test_cluster_reports_a_lost_scheduler_in_one_line():
    pytest.importorskip("distributed")
    future = Future()
    future.cancel()
    with pytest.raises(WorkerError, match="connection to the scheduler was lost; start it"):
        _result(future)
