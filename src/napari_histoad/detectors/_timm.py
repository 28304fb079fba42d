"""Imports timm, also where torchvision's compiled operators cannot be loaded."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["import_timm"]

_declared: list[torch.library.Library] = []


def import_timm() -> ModuleType:
    """Import timm; it needs torchvision, but none of torchvision's compiled operators.

    If torch and torchvision come from different package indexes (PyPI's builds are for CUDA, CPU builds are elsewhere),
    torchvision cannot load its operators and fails to import because two of their names are missing. This declares these
    names; the operators are never called.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is not None and spec.origin is not None and not _declared:
        try:
            for library in Path(spec.origin).parent.glob("_C*"):
                torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
        except OSError:
            operators = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
            for name in ("nms", "qnms"):
                operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
            _declared.append(operators)  # the definitions exist as long as this object
    return importlib.import_module("timm")
