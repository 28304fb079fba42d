"""The device to compute on, its precision and its batch size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Literal

import torch

from napari_histoad.errors import DeviceError
from napari_histoad.networks.threads import thread_count
from napari_histoad.system.host import keep_freed_memory, usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    import numpy as np
    from lightning_fabric import Fabric
    from numpy.typing import NDArray

    from napari_histoad.detectors import Detector

_BATCH = 8


@dataclass(frozen=True)
class DeviceChoice:
    """A device and how it is used."""

    device: torch.device
    bf16: bool  # it is fast in bfloat16
    title: str  # name to show
    batch: int  # default by kind of device only: the last digits of scores may depend on it
    worker_threads: int = 1  # batches that a CPU scores at the same time, each with a part of torch's threads
    count: int = 1  # such devices that train together

    @property
    def name(self) -> str:
        """Name for `choose_device`: ``cpu``, ``cuda:0``, …."""
        return str(self.device)

    @property
    def pace(self) -> str:
        """Batch size and number of threads, to show."""
        return f"{self.batch} tiles at a time" + (f" in each of {self.worker_threads} threads" if self.worker_threads > 1 else "")

    @property
    def ahead(self) -> int:
        """Number of batches in flight besides the one that is waited for, see `score_stream`."""
        return self.worker_threads if self.device.type == "cpu" else int(self.device.type == "cuda")

    @property
    def precision(self) -> Literal["bf16-mixed", "32-true"]:
        """Precision by its name in Lightning Fabric."""
        return "bf16-mixed" if self.bf16 else "32-true"

    def fabric(self) -> Fabric:
        """Return a Lightning Fabric for these devices of this machine; environment variables of a cluster are ignored."""
        from lightning_fabric import Fabric
        from lightning_fabric.plugins.environments.lightning import LightningEnvironment

        return Fabric(
            accelerator=self.device.type,
            devices=[self.device.index] if self.device.type == "cuda" and self.device.index is not None else self.count,
            strategy="ddp" if self.count > 1 else "auto",
            precision=self.precision,
            plugins=[LightningEnvironment()],
        )

    @property
    def allocate(self) -> Callable[[tuple[int, ...]], NDArray[np.uint8]] | None:
        """Function that allocates pinned memory of a shape for tiles; None if the device needs no pinned memory."""
        if self.device.type != "cuda":
            return None
        return lambda shape: torch.empty(shape, dtype=torch.uint8, pin_memory=True).numpy()

    def upload(self, images: NDArray[np.uint8]) -> torch.Tensor:
        """Return a batch on the device; a GPU copies it on a separate stream while it computes the previous batch.

        Parameters
        ----------
        images : (B, H, W, 3) uint8
            Allocated by `allocate`; must not change until the results of the batch have been fetched.
        """
        batch = torch.from_numpy(images)
        if self.device.type != "cuda":
            return batch.to(self.device)
        computing, copying = torch.cuda.current_stream(self.device), _copy_stream(self.device)
        with torch.cuda.stream(copying):
            copied = batch.to(self.device, non_blocking=True)
        computing.wait_stream(copying)
        copied.record_stream(computing)  # its memory is not reused before that stream has finished with it
        return copied

    def autocast(self, detector: Detector) -> AbstractContextManager[None]:
        """Return a context that runs a detector in the device's fast precision, if its scores are stable in it."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16 and detector.allows_bfloat16)


@cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def choose_device(name: str = "auto", count: int = 1) -> DeviceChoice:
    """Return a device by name: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``; or ``count`` of them to train on.

    Raises
    ------
    DeviceError
        If it is not available, or not ``count`` of them.
    """
    choice = _choose(name)
    if count == 1:
        return choice
    kind = choice.device.type
    available = {"cuda": torch.cuda.device_count(), "cpu": usable_cores()}.get(kind, 1)
    if ":" in name or not 1 <= count <= available:
        what = f"{count} devices named {name} cannot train together: {available} of kind {kind} available"
        raise DeviceError(what, f"choose 1 to {available} devices, and --device {kind} without a number")
    return replace(choice, count=count, title=f"{count} × {choice.title}")


def _choose(name: str) -> DeviceChoice:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as err:
        raise DeviceError(f"unknown device {name!r}", "choose auto, cpu, cuda or mps") from err
    if device.type == "cuda":
        if not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count():
            raise DeviceError(f"the GPU {name} is not available to torch", "use --device cpu, or install a CUDA build of torch")
        return DeviceChoice(device, torch.cuda.is_bf16_supported(), torch.cuda.get_device_name(device), batch=64)
    if device.type == "mps":
        if not torch.backends.mps.is_available():
            raise DeviceError("Apple's GPU is not available to torch", "use --device cpu")
        return DeviceChoice(device, bf16=False, title="Apple GPU", batch=_BATCH)
    if device.type != "cpu":
        raise DeviceError(f"devices of kind {device.type!r} are not supported", "choose auto, cpu, cuda or mps")
    keep_freed_memory()
    bf16 = _cpu_has_bf16()
    title = f"CPU, {torch.get_num_threads()} threads, {'bfloat16' if bf16 else 'float32'}"
    return DeviceChoice(device, bf16, title, batch=_BATCH, worker_threads=thread_count())


def _cpu_has_bf16() -> bool:
    """Return whether the CPU computes bfloat16 in hardware; emulated, it is slower than float32."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, check, bool)() for check in checks)
