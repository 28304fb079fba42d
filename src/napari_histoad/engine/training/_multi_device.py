"""Runs one job on several devices, one process each, joined by Lightning Fabric."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
from dataclasses import replace
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from lightning_fabric.plugins.environments.lightning import find_free_network_port
from torch import distributed

from napari_histoad.errors import DeviceError, HistoadError
from napari_histoad.jobs import Progress, run
from napari_histoad.system.host import usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

    from lightning_fabric import Fabric
    from torch import nn

    from napari_histoad.engine._device import DeviceChoice
    from napari_histoad.jobs import Job

T = TypeVar("T")
_POLL_SECONDS = 0.5
_PATIENCE_SECONDS = 5.0


def together_job(function: Callable[..., Job[T]], choice: DeviceChoice, *args: Any) -> Job[T]:
    """Run ``function(fabric, choice, *args)`` in one process per device; report progress and return the result of the first.

    The function is module-level and returns a job with the same steps in every process; the arguments are pickled. Raises the
    errors of the job, and `DeviceError` if a process ends unexpectedly.
    """
    context = multiprocessing.get_context("spawn")  # CUDA and torch's threads do not survive a fork
    port = find_free_network_port()
    pipes = [context.Pipe(duplex=False) for _ in range(choice.count)]
    # Pickled here: multiprocessing would share the memory of torch's tensors, and all processes would train the same weights.
    task = pickle.dumps((function, choice, args))
    processes = [context.Process(target=_work, args=(rank, port, pipe[1], task), daemon=True) for rank, pipe in enumerate(pipes)]
    last = Progress("Starting", 0, choice.count, "devices")
    try:
        for process, pipe in zip(processes, pipes, strict=True):
            process.start()
            pipe[1].close()
        open_ends = {pipe[0]: rank for rank, pipe in enumerate(pipes)}
        while True:
            ready = wait(list(open_ends), _POLL_SECONDS)
            if not ready:
                yield last  # a job can be cancelled only where it yields
            for end in [end for end in open_ends if end in ready]:
                try:
                    kind, value = end.recv()
                except EOFError:
                    rank = open_ends.pop(end)
                    processes[rank].join()
                    if processes[rank].exitcode or not open_ends:
                        what = f"process {rank + 1} of {choice.count} ended unexpectedly (exit code {processes[rank].exitcode})"
                        raise DeviceError(what, "train on one device, or see its messages above") from None
                    continue
                if kind == "error":
                    raise value
                if kind == "result":
                    result: T = value
                    return result
                last = value
                yield last
    finally:
        for process in processes:
            if process.pid is not None:
                process.terminate()
                process.join(_PATIENCE_SECONDS)
                process.kill()  # a process that waits for another inside a GPU library ignores terminate()
                process.join()
        for pipe in pipes:
            pipe[0].close()


def _work(rank: int, port: int, connection: Connection, task: bytes) -> None:
    """Run one of the processes of a job."""
    function, choice, args = pickle.loads(task)  # noqa: S301 - from its own parent
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it logs every process
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if choice.device.type == "cpu":
        torch.set_num_threads(max(1, usable_cores() // choice.count))
    try:
        fabric = choice.fabric()
        fabric.launch()
        job = function(fabric, replace(choice, device=fabric.device, count=1), *args)
        result = run(job, (lambda progress: connection.send(("progress", progress))) if rank == 0 else None)
        if rank == 0:
            connection.send(("result", result))
    except HistoadError as err:
        connection.send(("error", err))
    except RuntimeError as err:  # raised by torch: out of memory, or another process has ended
        reason = str(err).strip().partition("\n")[0] or type(err).__name__
        connection.send(("error", DeviceError(f"process {rank + 1} of {choice.count} failed ({reason})", "train on one device")))
    if distributed.is_initialized():
        distributed.destroy_process_group()


def average_gradients(fabric: Fabric, network: nn.Module) -> None:
    """Replace the gradients in every process by their mean over all processes."""
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    # In one call: a network has hundreds of gradients, and each call waits for the slowest process.
    mean = fabric.all_reduce(torch.cat([gradient.flatten() for gradient in gradients]), reduce_op="mean")
    assert isinstance(mean, torch.Tensor)
    start = 0
    for gradient in gradients:
        gradient.copy_(mean[start : start + gradient.numel()].view_as(gradient))
        start += gradient.numel()


def share_buffers(network: nn.Module) -> None:
    """Copy the buffers of the first process to all: batch statistics, codebooks with moving averages, counters."""
    for buffer in network.buffers():
        distributed.broadcast(buffer, 0)
