"""What is known of published encoders: the input they were trained on, how their tokens are pooled, and their licence.

The facts are those of the model cards and of the code that their authors published.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from napari_histoad.detectors._weights import WEIGHT_FILES

__all__ = ["FOLDER", "HUB", "KNOWN_ENCODERS", "KnownEncoder", "Pooling", "known_encoder", "name_of_folder"]

FOLDER, HUB = "folder:", "hf-hub:"

Pooling = Literal["class", "class+mean", "mean"]

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_OPTIMUS = ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))
_HIBOU = ((0.7068, 0.5755, 0.722), (0.195, 0.2316, 0.1816))
_NON_COMMERCIAL, _OWKIN = "cc-by-nc-nd-4.0", "Owkin non-commercial licence"


@dataclass(frozen=True)
class KnownEncoder:
    """A published encoder.

    Attributes
    ----------
    repository : str
        Its name on the Hugging Face hub, owner/name.
    licence : str
        As its authors state it.
    gated : bool
        Whether its authors asked for a registration before the download when this was written.
    scaling : (mean, std)
        Mean and deviation of red, green and blue by which pixels in [0, 1] are standardised.
    pooling : {"class", "class+mean", "mean"}
        Features of a tile: the class token, the mean of the patch tokens, or both.
    side : int
        Input size in pixels.
    mpp : float or None
        µm per pixel of the tiles that it is meant for; None for photographs.
    heads : int or None
        Number of attention heads, which weights do not show, where the configuration on the hub may not state it.
    architecture : str
        timm's architecture, where there is no configuration on the hub.
    """

    repository: str
    licence: str
    gated: bool
    scaling: tuple[tuple[float, float, float], tuple[float, float, float]] = _IMAGENET
    pooling: Pooling = "class"
    side: int = 224
    mpp: float | None = 0.5
    heads: int | None = None
    architecture: str = ""


KNOWN_ENCODERS = (
    KnownEncoder("bioptimus/H-optimus-0", "apache-2.0", gated=True, scaling=_OPTIMUS),
    KnownEncoder("bioptimus/H-optimus-1", _NON_COMMERCIAL, gated=True, scaling=_OPTIMUS),
    KnownEncoder("bioptimus/H0-mini", _NON_COMMERCIAL, gated=True, scaling=_OPTIMUS, pooling="class+mean"),
    KnownEncoder("paige-ai/Virchow", "apache-2.0", gated=True, pooling="class+mean"),
    KnownEncoder("paige-ai/Virchow2", _NON_COMMERCIAL, gated=True, pooling="class+mean"),  # 0.25 to 2 µm per pixel
    KnownEncoder("histai/hibou-b", "apache-2.0", gated=False, scaling=_HIBOU),
    KnownEncoder("histai/hibou-L", "apache-2.0", gated=True, scaling=_HIBOU),
    KnownEncoder("kaiko-ai/midnight", "mit", gated=False, scaling=_HALF, pooling="class+mean"),  # 0.25 to 2 µm per pixel
    KnownEncoder("owkin/phikon", _OWKIN, gated=False),
    KnownEncoder("owkin/phikon-v2", _OWKIN, gated=False),
    KnownEncoder("MahmoodLab/UNI", _NON_COMMERCIAL, gated=True),
    KnownEncoder("MahmoodLab/UNI2-h", _NON_COMMERCIAL, gated=True, heads=24),
    KnownEncoder(
        "MahmoodLab/CONCH",
        _NON_COMMERCIAL,
        gated=True,
        scaling=_CLIP,
        pooling="class+mean",
        side=448,
        architecture="vit_base_patch16_224",
    ),
    KnownEncoder("prov-gigapath/prov-gigapath", "apache-2.0, for research", gated=True),
    *(
        KnownEncoder(f"facebook/{name}-{size}", "apache-2.0", gated=False, pooling="class+mean", mpp=None)
        for name in ("dinov2", "dinov2-with-registers")
        for size in ("small", "base", "large", "giant")
    ),
)


def known_encoder(name: str) -> KnownEncoder | None:
    """Return what is known of an encoder, or None.

    Parameters
    ----------
    name : str
        ``hf-hub:owner/name`` or ``folder:name``, upper or lower case; or a folder.
    """
    kind, colon, rest = (name_of_folder(Path(name)) or name).casefold().partition(":")
    if kind + colon not in {HUB, FOLDER} or not rest:
        return None
    whole = kind + colon == HUB
    return next((e for e in KNOWN_ENCODERS if (e.repository if whole else e.repository.split("/")[1]).casefold() == rest), None)


def name_of_folder(folder: Path) -> str | None:
    """Return the name of the encoder in a folder of the hub's layout, without its path, or None if it has no weights.

    It is ``hf-hub:owner/name`` in the hub's own cache, elsewhere ``folder:`` and the name of the folder.
    """
    if not any((folder / file).is_file() for file in WEIGHT_FILES):
        return None
    place = folder.absolute()
    owner, _, repository = place.parent.parent.name.removeprefix("models--").partition("--")
    return f"{HUB}{owner}/{repository}" if place.parent.name == "snapshots" and repository else f"{FOLDER}{place.name}"
