"""What is computed in several threads is what one computes, in its order, and leaves torch as it was."""

import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from napari_histoad.networks import threads as threads_module
from napari_histoad.networks.threads import map_in_threads, thread_count

CPU = torch.device("cpu")


@pytest.fixture(params=[1, 3])
def count(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    assert torch.get_num_threads() == request.param
    torch.set_num_threads(before)


@given(items=st.lists(st.integers(), max_size=100), share=st.sampled_from([0, 0.3, 1, 3]))
def test_map_in_threads_keeps_the_order_of_the_items(items, share):
    doubled = map_in_threads(lambda item: 2 * item, items, CPU, total=int(share * len(items)))
    assert list(doubled) == [2 * item for item in items]


@pytest.mark.parametrize(("seconds", "together"), [(0.0, True), (0.02, False)])
def test_map_in_threads_joins_only_quick_items(monkeypatch, seconds, together):
    taken, clock = [], threading.local()  # a clock per thread that only moves while it computes

    def now():
        return getattr(clock, "now", 0.0)

    def work(item):
        clock.now = now() + seconds
        return item

    monkeypatch.setattr(threads_module.time, "perf_counter", now)

    def items():
        for i in range(40):
            taken.append(i)
            yield i

    stream = map_in_threads(work, items(), CPU, 2, 40)
    ahead = [len(taken) - item - 1 for item in stream]
    assert (max(ahead) > 2) == together


def test_worker_threads_share_the_threads_of_torch():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        assert set(map_in_threads(lambda _: torch.get_num_threads(), range(6), CPU, 2)) == {2}
    finally:
        torch.set_num_threads(before)


def test_map_in_threads_computes_one_item_per_thread_and_limits_items_in_flight(count):
    assert thread_count() == count
    taken, together = [], threading.Barrier(count, timeout=300)

    def items():
        for i in range(4 * count):
            taken.append(i)
            yield i

    def work(item):
        together.wait()  # passes only if all threads compute at the same time
        assert torch.get_num_threads() == 1
        return item

    for item in map_in_threads(work, items(), CPU):
        assert len(taken) <= item + count + 1


def test_map_in_threads_raises_the_first_error(count):
    def work(item):
        if item == 2:
            raise KeyError(item)
        return item

    stream = map_in_threads(work, range(100), CPU)
    assert [next(stream), next(stream)] == [0, 1]
    with pytest.raises(KeyError):
        next(stream)


def test_map_in_threads_waits_for_items_in_flight_when_closed(count):
    begun, ended = [], []

    def work(item):
        begun.append(item)
        ended.append(item)

    stream = map_in_threads(work, range(100), CPU)
    next(stream)
    stream.close()
    assert sorted(ended) == sorted(begun)
    assert len(ended) <= count + 1
    begun.clear()
    list(map_in_threads(str, range(count), CPU))  # the same threads take work in its order: nothing was left before this
    assert begun == []


def test_worker_threads_are_reused(count):
    def work(_):
        together.wait()
        return threading.current_thread()

    together = threading.Barrier(count, timeout=300)
    first, second = (set(map_in_threads(work, range(count), CPU)) for _ in range(2))
    assert first == second
    assert len(first) == count


def test_threads_started_later_keep_the_number_of_torch_threads(count):
    found = []
    list(map_in_threads(str, range(3), CPU))
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert found == [count]


def test_worker_thread_starts_no_threads(count):
    def inner(_):
        return threading.current_thread()

    def outer(_):
        return all(found is threading.current_thread() for found in map_in_threads(inner, range(3), CPU))

    assert all(map_in_threads(outer, range(2 * count), CPU))


def test_worker_threads_use_the_precision_and_inference_mode_of_the_caller():
    def work(_):
        return torch.ones(2, 2) @ torch.ones(2, 2)

    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        (reduced,) = map_in_threads(work, [0], CPU)
    (plain,) = map_in_threads(work, [0], CPU)
    assert (reduced.dtype, reduced.is_inference()) == (torch.bfloat16, True)
    assert (plain.dtype, plain.is_inference()) == (torch.float32, False)


def test_another_device_is_given_one_after_the_other():
    thread = threading.current_thread()
    assert all(found is thread for found in map_in_threads(lambda _: threading.current_thread(), range(3), torch.device("meta")))
