"""Messages between the window and its background process: one JSON document per line, no pickle.

A line to the process is a `Request`, which carries the arguments of one job, or a `Cancel`. A line back is an `Event`: any
number of `Progressed`, then one of `Finished`, `Failed` and `Cancelled`.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path  # noqa: TC003 - pydantic evaluates the annotations
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    TypeAdapter,
    ValidationError,
    ValidatorFunctionWrapHandler,
    model_validator,
)

from napari_histoad import errors
from napari_histoad.errors import HistoadError, SettingsError, first_error
from napari_histoad.jobs import Progress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


def _decode_picture(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    import numpy as np
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(base64.b64decode(value))))


def _encode_picture(picture: Any) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _decode_progress(value: Any) -> Progress:
    if isinstance(value, Progress):
        return value
    pixels, box = value["preview"], value["updated"]
    return Progress(**value | {"preview": pixels and _decode_picture(pixels), "updated": box and tuple(box)})


def _encode_progress(progress: Progress) -> dict[str, Any]:
    preview = progress.preview
    return vars(progress) | {"preview": None if preview is None else _encode_picture(preview)}


if TYPE_CHECKING:
    Picture = NDArray[np.uint8]
    SentProgress = Progress
else:  # without importing NumPy
    Picture = Annotated[Any, PlainValidator(_decode_picture), PlainSerializer(_encode_picture)]
    SentProgress = Annotated[Any, PlainValidator(_decode_progress), PlainSerializer(_encode_progress)]


# -- requests: the arguments of each job


class Arguments(_Message):
    """Arguments of one job; a one-line `SettingsError` if one is missing, unknown or of the wrong type."""

    job: str

    @model_validator(mode="wrap")
    @classmethod
    def _refuse_in_one_line(cls, values: Any, handler: ValidatorFunctionWrapHandler) -> Self:
        try:
            found: Self = handler(values)
        except ValidationError as err:
            raise SettingsError(f"{cls.__name__}: {first_error(err)}", f"its fields are {', '.join(cls.model_fields)}") from err
        return found


class SlideArguments(Arguments):
    """Arguments of a job on a slide: its path or URL, µm per pixel if the file does not say them, and where to compute."""

    slide: str
    slide_mpp: float | None = None
    device: str = "auto"


class FindTissue(SlideArguments):
    """Find the tissue of a slide and write its mask to `out` (.npy)."""

    job: Literal["tissue"] = "tissue"
    out: Path


class Train(SlideArguments):
    """Train a detector on the normal regions of a slide, on all its tissue if there are none."""

    job: Literal["train"] = "train"
    out: Path
    regions: Path | None = None
    detector: str = "best"
    mpp: float | None = None
    refine: str | None = None
    settings: dict[str, Any] | None = None


class Recalibrate(SlideArguments):
    """Set the thresholds of a detector by other normal regions and save it as `out`."""

    job: Literal["recalibrate"] = "recalibrate"
    model: Path
    regions: Path
    out: Path


class DescribeEncoder(SlideArguments):
    """Look for the weights of a timm model on this machine; with `fetch` download them."""

    job: Literal["encoder"] = "encoder"
    name: str
    fetch: bool = False


class ListDetectors(Arguments):
    """List the detectors of all installed packages."""

    job: Literal["detectors"] = "detectors"


class CheckModel(Arguments):
    """Open the file of a detector, so that one that cannot be used is refused when it is chosen."""

    job: Literal["check"] = "check"
    model: Path


class TrainClassifier(SlideArguments):
    """Train a classifier on verdicts; `normal` holds outlines of normal tissue that it learns from as well."""

    job: Literal["classify"] = "classify"
    model: Path
    verdicts: Path
    normal: Path | None = None
    out: Path


class Explain(SlideArguments):
    """Explain the score of the tile around `centre` (y, x) in level-0 pixels."""

    job: Literal["explain"] = "explain"
    model: Path
    centre: tuple[float, float]


class ComputeMap(SlideArguments):
    """Compute the anomaly map of a slide in the folder `out`; without a model, one is learnt from the slide itself."""

    job: Literal["map"] = "map"
    out: Path
    model: Path | None = None
    stride_px: int | None = None
    artefacts: Literal["mark", "leave-out", "ignore"] = "mark"


class SaveResults(SlideArguments):
    """Write exports of a map (paths by name) and a report at a false-positive rate, and save the rate in the map.

    `valid_for` is what the rate is valid for, ``"similar"`` or ``"new-slide"``; `extrapolated`, whether a fitted tail gives it;
    see `Calibration`.
    """

    job: Literal["save"] = "save"
    map: Path
    rate: float
    valid_for: Literal["similar", "new-slide"] | None = None
    extrapolated: bool = False
    exports: dict[str, Path]
    report: Path | None = None


class RecalibrateMap(SlideArguments):
    """Set the rates of a finished map by outlines of normal tissue on its slide."""

    job: Literal["recalibrate_map"] = "recalibrate_map"
    map: Path
    regions: Path


class DrawSample(Arguments):
    """Draw the sample slide."""

    job: Literal["sample"] = "sample"
    path: Path
    size_px: int


class Request(_Message):
    """A job to run, and the number that its events carry."""

    id: int
    args: Annotated[
        FindTissue | Train | Recalibrate | DescribeEncoder | ListDetectors | CheckModel | TrainClassifier | Explain | ComputeMap
        | SaveResults | RecalibrateMap | DrawSample,
        Field(discriminator="job"),
    ]  # fmt: skip


class Cancel(_Message):
    """Stop the job of this number."""

    cancel: int


# -- results: what each job returns


class TissueFound(_Message):
    """Where the mask was written, level-0 pixels per mask pixel (y, x), and area."""

    path: Path
    scale_yx: tuple[float, float]
    area_mm2: float


class Trained(_Message):
    """A detector's file, what its thresholds rest on, and the table of tiles that were left out as suspicious."""

    path: Path
    calibration: str
    suspicious: Path | None = None


class EncoderDescribed(_Message):
    """An encoder's licence, where its weights come from, and their file, if it is on this machine."""

    name: str
    licence: str
    origin: str
    file: Path | None


class DetectorsListed(_Message):
    """Fields of the `DetectorDescription` of each detector."""

    detectors: list[dict[str, Any]]


class ClassifierTrained(_Message):
    """A classifier's file, its cross-validated AUROC with interval, and what limits that figure."""

    path: Path
    auroc: str
    verdicts: int
    note: str


class TileExplained(_Message):
    """Titles and pictures (H, W, 3) uint8, and the explanation in words."""

    panels: list[tuple[str, Picture]]
    words: str


class MapComputed(_Message):
    """A map's folder."""

    path: Path


Result = TissueFound | Trained | EncoderDescribed | DetectorsListed | ClassifierTrained | TileExplained | MapComputed


# -- events


class Progressed(_Message):
    """A report of the running job."""

    event: Literal["progress"] = "progress"
    id: int
    progress: SentProgress


class Finished(_Message):
    """The job has ended; its result is None if the arguments say all there is to know."""

    event: Literal["result"] = "result"
    id: int
    result: Result | None


class Failed(_Message):
    """The job, or the process itself, has ended with an error: the name of its class, what happened, and the remedy."""

    event: Literal["error"] = "error"
    id: int
    kind: str
    what: str
    remedy: str

    @classmethod
    def of(cls, number: int, err: HistoadError) -> Self:
        """Return the event that reports an error of a job."""
        return cls(id=number, kind=type(err).__name__, what=err.what, remedy=err.remedy)

    @property
    def error(self) -> HistoadError:
        """The error as it was raised."""
        known = getattr(errors, self.kind, HistoadError)
        return (known if isinstance(known, type) and issubclass(known, HistoadError) else HistoadError)(self.what, self.remedy)


class Cancelled(_Message):
    """The job was cancelled."""

    event: Literal["cancelled"] = "cancelled"
    id: int


Event = Progressed | Finished | Failed | Cancelled

_EVENTS: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event")])


def parse_event(line: str) -> Event:
    """Return the event that a line from the process holds; ValueError if it is none."""
    return _EVENTS.validate_json(line)
