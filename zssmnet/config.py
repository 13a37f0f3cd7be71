"""Configuration: frozen, validated values. Defaults are the published method's (Z-SSMNet, arXiv 2212.05808).

Every field carries a description, which Prefect's run form and the command line's help show; a `Flag` beside it gives
the field a flag of the command line, with the field's own type, choices and default.
Axis order of all triples is (x, y, z) unless a name says otherwise.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from zssmnet.errors import ConfigError

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
ArchiveFormat = Literal["nnunet", "picai", "bids"]
SplitMode = Literal["reference", "stable"]
Recipe = Literal["reference", "per-channel", "masked"]
IntensityScaling = Literal["maximum", "percentile"]
Device = Literal["auto", "cpu", "cuda"]
CompileChoice = Literal["auto", "off", "cudagraphs", "default", "reduce-overhead", "max-autotune"]

PICAI_PATIENT = r"^(?P<patient>\d+)_\d+$"
"""Pattern of PI-CAI's case ids, ``<patient>_<study>`` in digits."""


@dataclass(frozen=True)
class Flag:
    """A flag of the command line for a field.

    Attributes:
        metavar: what stands for the value in the help: ``D`` folder, ``F`` file, ``N`` number.
        name: with underscores, if it is not the field's: ``batch_size`` is ``--batch_size`` and ``--batch-size``.
    """

    metavar: str | None = None
    name: str = ""


def fault_of(error: ValidationError) -> str:
    """What is wrong with settings, in one line: the first fault, with its setting and value."""
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    reason = "no such setting" if first["type"] == "extra_forbidden" else first["msg"]
    setting = f"{name} = {first['input']!r}: " if name else ""  # without one, it is about several of them
    return setting + reason.removeprefix("Value error, ")


class _RaisesConfigError(type(BaseModel)):  # type: ignore[misc]
    """Makes a direct call of a class raise a ConfigError; where pydantic validates a model, it makes no such call."""

    def __call__(cls, *args: Any, **settings: Any) -> Any:
        try:
            return super().__call__(*args, **settings)
        except ValidationError as error:
            raise ConfigError(f"{cls.__name__}: {fault_of(error)}") from error


_METACLASS: Any = _RaisesConfigError


class _Frozen(BaseModel, metaclass=_METACLASS):  # type: ignore[metaclass]
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    @classmethod
    def of(cls, settings: Self | None) -> Self:
        """The settings as given, or the defaults for None; ConfigError where they are of another class."""
        if settings is not None and not isinstance(settings, cls):
            raise ConfigError(f"give a {cls.__name__}, not a {type(settings).__name__}")
        return cls() if settings is None else settings


def check_choice(name: str, value: str | None, kind: Any) -> None:
    """Check that a value is one of a Literal's, or None; ConfigError names them."""
    if value is not None and value not in get_args(kind):
        raise ConfigError(f"{name} = {value!r}: choose one of {', '.join(get_args(kind))}")


ImagesPath = Annotated[
    str,
    Field(min_length=1, description="Folder or s3://bucket/prefix of an nnU-Net raw, PI-CAI MHA or BIDS archive"),
    Flag("D"),
]
MaskPath = Annotated[
    str,
    Field(min_length=1, description="Folder or s3://bucket/prefix of zonal masks, CASE.nii.gz"),
    Flag("D"),
]
SplitsPath = Annotated[
    str | None,
    Field(description="splits.json with five folds (default: subsets by a hash of the patient)"),
    Flag("F"),
]
SplitModeChoice = Annotated[
    SplitMode | None,
    Field(
        description="reference: as published, needs splits.json; stable: by a hash of the patient (default: reference "
        "with a splits.json, else stable)"
    ),
    Flag(),
]
FormatChoice = Annotated[
    ArchiveFormat | None, Field(description="Kind of archive (default: detected automatically)"), Flag()
]
PatientPattern = Annotated[
    str,
    Field(description="Regular expression whose group 'patient' names a case's patient; no match: the whole id"),
    Flag("RE"),
]
Strict = Annotated[
    bool,
    Field(description="Stop on any unusable case or warning"),
    Flag(),
]
MaxWarnings = Annotated[
    int | None,
    Field(ge=0, description="Largest number of cases with warnings (default: no limit; 0 with --strict)"),
    Flag("N"),
]

Force = Annotated[bool, Field(description="Replace files that this command did not make"), Flag()]

NO_MASKS = "no zonal masks: give --zonal_mask_path, or --zones-model to make them, or both"

CasesPerTask = Annotated[
    int | None,
    Field(ge=1, description="Cases per Prefect task (default: 1; more above 2,000 cases)"),
    Flag("N"),
]


class _ImagesConfig(_Frozen):
    """Where examinations are, how they are split into subsets, and their preparation into tasks."""

    images_path: ImagesPath
    splits_path: SplitsPath = None
    split_mode: SplitModeChoice = None
    archive_format: FormatChoice = None
    patient_pattern: PatientPattern = PICAI_PATIENT
    cases_per_task: CasesPerTask = None


class ArchiveConfig(_ImagesConfig):
    """An archive with zonal masks."""

    zonal_mask_path: MaskPath


class MaskedArchiveConfig(_ImagesConfig):
    """An archive with zonal masks, or with networks that make them for the cases that have none."""

    zonal_mask_path: Annotated[str | None, Flag("D")] = Field(
        None, description="Folder or s3://bucket/prefix of zonal masks, CASE.nii.gz; not needed with --zones-model"
    )
    zones_model: Annotated[str | None, Flag("F")] = Field(
        None, description="Root of 'train-zones', or its zones.model: makes masks for cases that have none"
    )

    @model_validator(mode="after")
    def _has_masks(self) -> Self:
        if not (self.zonal_mask_path or self.zones_model):
            raise ValueError(NO_MASKS)
        return self


class StrictConfig(_Frozen):
    """When a run stops because of unusable cases or warnings."""

    strict: Strict = False
    max_warnings: MaxWarnings = None

    @property
    def most_warnings(self) -> int | None:
        """Largest number of cases that may have warnings; None: no limit."""
        return 0 if self.max_warnings is None and self.strict else self.max_warnings


class MaskChecksConfig(_Frozen):
    """Which zonal masks are checked, and against which images."""

    zonal_mask_path: MaskPath
    images_path: Annotated[str | None, Flag("D")] = Field(
        None, description="Folder or s3://bucket/prefix of the images, to check where the glands lie"
    )
    archive_format: FormatChoice = None
    force: Force = False


class PreparationConfig(_Frozen):
    """Resampling and cropping of one case."""

    spacing_mm: tuple[float, float, float] = Field((0.5, 0.5, 3.0), description="Target spacing x, y, z in mm")
    margin_mm: float = Field(25.0, ge=0, le=1000, description="Margin kept around the gland on every side, in mm")
    convert_adc: bool = Field(
        False, description="Convert ADC to 1e-6 mm2/s where its median in the gland shows another unit of ADC"
    )
    stray_mask_parts: Literal["ignore", "keep", "refuse"] = Field(
        "ignore",
        description="Parts of the mask more than 10 mm from the gland: ignore (if they are tiny), keep, or leave the "
        "case out; a warning in any case",
    )
    uncovered_gland: tuple[Probability, Probability] = Field(
        (0.01, 0.2), description="Share of the gland that ADC or DWI does not cover: warn above, leave out above"
    )
    uncovered_region: tuple[Probability, Probability] = Field(
        (0.25, 0.75),
        description="Share of gland and margin that ADC or DWI does not cover: warn above, leave out above",
    )

    @model_validator(mode="after")
    def _plausible_spacing(self) -> Self:
        if not 0.01 <= min(self.spacing_mm) <= max(self.spacing_mm) <= 100:
            raise ValueError(f"spacing_mm must be positive, 0.01 to 100 mm on each axis, not {self.spacing_mm}")
        if max(self.spacing_mm[:2]) > 2 * min(self.spacing_mm[:2]):
            raise ValueError(f"spacing_mm is x, y, z, the slices' distance last, not {self.spacing_mm}")
        return self


class CubesConfig(_Frozen):
    """Cutting of cubes from prepared cases."""

    cubes_per_case: Annotated[int, Flag("N", "scale")] = Field(
        12, ge=1, le=10_000, description="Number of cubes cut from each case"
    )
    size: tuple[int, int, int] = Field((64, 64, 16), description="Size of a cube x, y, z in voxels")
    dtype: Annotated[Literal["float16", "float32", "float64"], Flag()] = Field(
        "float16", description="dtype on disk; the published program wrote float64"
    )
    intensity_scaling: Annotated[IntensityScaling, Flag()] = Field(
        "maximum",
        description="T2W and DWI to 0..1: maximum: by minimum and maximum, as published; percentile: by the 0.1th and "
        "99.9th percentiles, clipped",
    )
    seed: Annotated[int, Flag("N")] = Field(0, ge=0, lt=2**63, description="Seed of the cubes' positions")

    @model_validator(mode="after")
    def _positive_size(self) -> Self:
        if min(self.size) < 1:
            raise ValueError(f"size must be at least 1 voxel on each axis, not {self.size}")
        if math.prod(self.size) > 2**26:
            raise ValueError(f"size must be 67 million voxels at most, not {self.size}")
        if max(self.size[:2]) > 2 * min(self.size[:2]):
            raise ValueError(f"size is x, y, z, the number of slices last, not {self.size}")
        return self


class FlipConfig(_Frozen):
    """Random flips of corrupted and target alike."""

    probability: Probability = Field(0.4, description="Probability of each further flip; stops at the first failure")
    most: int = Field(3, ge=0, le=1000, description="Largest number of flips")


class ShufflingConfig(_Frozen):
    """Local shuffling of voxels within many small windows."""

    probability: Probability = Field(0.5, description="Probability that a channel is shuffled")
    windows: int = Field(10_000, ge=1, le=16_384, description="Number of windows in a shuffled channel")
    largest_divisor: int = Field(
        10, ge=1, le=10_000, description="A window's largest size on an axis is the cube's divided by this"
    )


class IntensityConfig(_Frozen):
    """Monotonic intensity map along a cubic Bezier curve."""

    probability: Probability = Field(0.9, description="Probability of the map, drawn once for the three images")
    rising_probability: Probability = Field(0.5, description="Probability that the map rises; it falls otherwise")
    table_size: int = Field(1000, ge=16, le=1_000_000, description="Points of the curve's table, interpolated linearly")


class PaintingConfig(_Frozen):
    """In-painting (boxes of noise) and out-painting (noise around boxes)."""

    probability: Probability = Field(0.9, description="Probability that a channel is painted")
    outer_probability: Probability = Field(0.8, description="Probability that painting is out-painting")
    box_probability: Probability = Field(
        0.95, description="Probability of each further box; stops at the first failure"
    )
    most_boxes: int = Field(5, ge=1, le=8, description="Largest number of boxes in one painting")
    border: int = Field(
        3,
        ge=0,
        le=10_000,
        description="Smallest distance of a box from the cube's border, in voxels; less where a cube is too small",
    )


class MaskingConfig(_Frozen):
    """Blocks of the images that the masked recipe hides."""

    ratio: float = Field(0.65, gt=0, le=1, description="Share of the blocks that are hidden; at least one is")
    block: tuple[int, int, int] = Field((8, 8, 2), description="Size of a block x, y, z in voxels")
    jointly: bool | Probability = Field(
        False,
        description="Share of the cubes in which T2W, ADC and DWI hide the same blocks (true: all; false: none); in "
        "the others each image hides its own",
    )
    loss: Literal["all", "hidden"] = Field("all", description="Voxels that the loss counts: all, or the hidden ones")

    @model_validator(mode="after")
    def _positive_block(self) -> Self:
        if not 1 <= min(self.block) <= max(self.block) <= 2**26:
            raise ValueError(f"block must be at least 1 voxel on each axis, and 67 million at most, not {self.block}")
        return self


class ZoneTaskConfig(_Frozen):
    """The co-task: the network segments the zones of cubes whose zone channels are blank, beside restoring them."""

    share: Probability = Field(0.0, description="Share of the cubes whose zones are segmented; 0: no co-task")
    weight: float = Field(0.1, gt=0, le=1000, description="Weight of the zones' cross-entropy beside the squared error")


class CorruptionConfig(_Frozen):
    """The pretext task: how a cube is corrupted before the network restores it."""

    recipe: Annotated[Recipe, Flag()] = Field(
        "reference",
        description="reference: as the published program, which shuffles every channel from T2W and loses most "
        "zones; per-channel: each channel from itself, zones kept in step; masked: blocks of the images are hidden, "
        "zones kept whole",
    )
    flip: FlipConfig = Field(FlipConfig(), description="Flips")
    shuffling: ShufflingConfig = Field(ShufflingConfig(), description="Local shuffling")
    intensity: IntensityConfig = Field(IntensityConfig(), description="Intensity map")
    painting: PaintingConfig = Field(PaintingConfig(), description="In- and out-painting")
    masking: MaskingConfig = Field(MaskingConfig(), description="Hidden blocks, in the recipe masked alone")
    zone_task: ZoneTaskConfig = Field(ZoneTaskConfig(), description="Co-task: segment the zones")


class NetworkConfig(_Frozen):
    """MNet's free choices."""

    channels: Annotated[tuple[int, int, int, int, int], Flag("A,B,C,D,E")] = Field(
        (32, 48, 64, 80, 96), description="Number of kernels on the five levels"
    )
    merge: Annotated[Literal["sub", "sum", "cat"], Flag()] = Field(
        "sub", description="Feature merging unit: absolute difference, sum or concatenation"
    )

    @model_validator(mode="after")
    def _positive_channels(self) -> Self:
        if not 1 <= min(self.channels) <= max(self.channels) <= 4096:
            raise ValueError(f"channels must be at least 1 on each level, and 4096 at most, not {self.channels}")
        return self


_ADAMW = {
    "optimizer": "adamw",
    "weight_decay": 0.01,
    "schedule": "cosine",
    "warm_up_epochs": 5,
    "calibrated_head": True,
}


class TrainingConfig(_Frozen):
    """The training recipe."""

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "adamw": {**_ADAMW, "learning_rate": 0.001, "epochs": 200, "patience": 200}
    }

    preset: Annotated[Literal["published", "adamw"], Flag()] = Field(
        "published",
        description="Defaults of the training recipe; adamw: AdamW with a warm-up, a cosine and a calibrated head; "
        "what is set beside it takes precedence",
    )
    epochs: Annotated[int, Flag("N")] = Field(1000, ge=1, le=1_000_000, description="Largest number of epochs")
    batch_size: Annotated[int, Flag("N")] = Field(
        24, ge=1, le=100_000, description="Cubes in a batch; a last partial batch is dropped in training"
    )
    accumulate: Annotated[int, Flag("N")] = Field(
        1,
        ge=1,
        le=100_000,
        description="Parts of a batch that are computed one after another, for a GPU with little memory (gradient "
        "accumulation); the weights are the same",
    )
    learning_rate: Annotated[float, Flag("X")] = Field(0.1, gt=0, le=1e30, description="Initial learning rate")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of SGD; first beta of AdamW")
    halve_every: int = Field(12, ge=1, le=1_000_000, description="Epochs after which the learning rate is halved")
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="sgd, as published, or adamw")
    weight_decay: float = Field(0.0, ge=0, le=1000, description="Weight decay of the optimizer")
    schedule: Literal["halving", "cosine"] = Field(
        "halving",
        description="Learning rate: halved every halve_every epochs, as published, or a cosine over all epochs",
    )
    warm_up_epochs: int = Field(
        0, ge=0, le=1_000_000, description="Epochs over which the cosine's learning rate first rises"
    )
    calibrated_head: bool = Field(
        False,
        description="Start from each channel's mean as prediction, so that no training starts saturated",
    )
    loss_weighting: Annotated[Literal["equal", "variance"], Flag()] = Field(
        "equal",
        description="Weights of T2W, ADC and DWI in the loss: equal, as published, or the inverse of each one's "
        "variance in the training cubes",
    )
    patience: Annotated[int, Flag("N")] = Field(
        20, ge=1, le=1_000_000, description="Epochs without a better validation loss before training stops"
    )
    seed: Annotated[int, Flag("N")] = Field(
        0, ge=0, lt=2**63, description="Seed of initial weights, order of cubes and corruption"
    )
    validation_seed: int = Field(
        0, ge=0, lt=2**63, description="Seed of the validation cubes' corruption, the same in every run"
    )
    device: Annotated[Literal["auto", "cpu", "cuda", "mps"], Flag()] = Field(
        "auto", description="Device to train on; auto: a CUDA GPU if there is one; mps: Apple's GPU, in float32"
    )
    deterministic: Annotated[bool, Flag()] = Field(
        False,
        description="On a GPU, algorithms that give the same bits every time, so that an interrupted run ends as an "
        "uninterrupted one; slower",
    )
    processes: Annotated[int, Flag("N")] = Field(
        0, ge=0, le=1024, description="Processes that share each batch, one per GPU; 0: one per GPU, else one"
    )
    precision: Annotated[Literal["auto", "float32", "tf32", "bfloat16", "float16"], Flag()] = Field(
        "auto",
        description="Precision of the convolutions; auto takes bfloat16 on GPUs that support it, else float32; "
        "tf32: float32 with TF32-rounded inputs; float16 has a loss scale that adapts",
    )
    compile: Annotated[CompileChoice, Flag()] = Field(
        "auto",
        description="Mode of torch.compile; auto takes reduce-overhead on a GPU in trainings of 10,000 steps or more, "
        "else off; cudagraphs: no compiler, a step is one CUDA graph with kernels of our own (not yet measured)",
    )
    cubes_in: Literal["auto", "device", "host"] = Field(
        "auto", description="Where cubes lie: device: GPU memory; host: on disk, read ahead; auto: device if they fit"
    )

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, values: Any) -> Any:
        return cls.presets.get(str(values.get("preset")), {}) | values if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _has_what_mps_has(self) -> Self:
        plain = {"precision": ("auto", "float32"), "compile": ("auto", "off"), "deterministic": (False,)}
        for name, choices in plain.items() if self.device == "mps" else ():
            if (asked := getattr(self, name)) not in choices:
                raise ValueError(
                    f"device = 'mps' has no {name} = {asked!r}; choose another device, or leave {name} out"
                )
        return self


class PretrainConfig(_Frozen):
    """Everything that decides which weights come out, given the cubes."""

    network: NetworkConfig = Field(NetworkConfig(), description="The network")
    corruption: CorruptionConfig = Field(CorruptionConfig(), description="The pretext task")
    training: TrainingConfig = Field(TrainingConfig(), description="The training recipe")


class ChallengerTrainingConfig(TrainingConfig):
    """The training recipe of a challenger, which starts from trained weights: a small learning rate, fewer epochs."""

    presets: ClassVar[dict[str, dict[str, Any]]] = {"adamw": {**_ADAMW, "learning_rate": 0.0001}}

    epochs: Annotated[int, Flag("N")] = Field(100, ge=1, le=1_000_000, description="Largest number of epochs")
    learning_rate: Annotated[float, Flag("X")] = Field(0.01, gt=0, le=1e30, description="Initial learning rate")
    patience: Annotated[int, Flag("N")] = Field(
        10, ge=1, le=1_000_000, description="Epochs without a better validation loss before training stops"
    )


class ChallengerConfig(PretrainConfig):
    """Everything that decides which weights a challenger has, given the cubes and the champion."""

    training: ChallengerTrainingConfig = Field(ChallengerTrainingConfig(), description="The training recipe")


class DemoConfig(_Frozen):
    """The demonstration on synthetic examinations."""

    cases: Annotated[int, Flag("N")] = Field(12, ge=6, description="Synthetic examinations")
    epochs: Annotated[int, Flag("N")] = Field(8, ge=1, description="Epochs")
    seed: Annotated[int, Flag("N")] = Field(0, ge=0, lt=2**63, description="Seed of everything")


class SeriesConfig(_Frozen):
    """What is wanted of the diffusion images of a DICOM study."""

    high_b: Annotated[float, Flag("B")] = Field(
        1400.0, gt=0, description="Wanted b-value of the DWI image, s/mm2; the nearest high one is taken"
    )
    lowest_b: Annotated[float, Flag("B")] = Field(1000.0, gt=0, description="Lowest b-value that counts as high, s/mm2")
    compute_high_b: Annotated[bool, Flag()] = Field(
        False, description="Compute the wanted b-value from lower ones (one ADC a voxel) where there is no high one"
    )


class DicomConfig(SeriesConfig):
    """Where DICOM files are, and which ids they get."""

    dicom_path: Annotated[str, Flag("D")] = Field(
        min_length=1, description="Folder of DICOM files, in any order and depth"
    )
    key_file: Annotated[str | None, Flag("F")] = Field(
        None, description="Secret key: new ids are keyed hashes (HMAC) of the old"
    )
    ids: Annotated[str | None, Flag("F")] = Field(
        None, description="CSV table of new ids instead: patient_id,study,case_id"
    )
    overrides: Annotated[str | None, Flag("F")] = Field(
        None, description="TOML file of manual choices, by case: [10001_1000001] t2w = 4 (number of a series)"
    )

    @model_validator(mode="after")
    def _one_source_of_ids(self) -> Self:
        if (self.ids is None) == (self.key_file is None):
            raise ValueError("new ids come either from --key-file or from --ids; give one of them")
        return self


class NnunetDatasetConfig(_Frozen):
    """A raw data set for nnU-Net v2."""

    number: Annotated[int, Flag("N", "dataset")] = Field(501, ge=1, le=999, description="Number of nnU-Net's data set")
    name: Annotated[str, Flag("NAME")] = Field(
        "csPCa", pattern=r"^[A-Za-z0-9_-]+$", description="Name of nnU-Net's data set"
    )
    labels: Annotated[Literal["binary", "isup"], Flag()] = Field(
        "binary", description="binary: any lesion is csPCa; isup: a class for each of the ISUP grades 2 to 5"
    )
    volume: Annotated[Literal["prepared", "cropped", "native"], Flag()] = Field(
        "prepared",
        description="prepared: resampled and cropped as for pre-training; cropped: on T2W's grid, cropped around the "
        "gland; native: on T2W's grid, whole",
    )
    preparation: PreparationConfig = Field(PreparationConfig(), description="Target spacing and margin")
    intensity_scaling: IntensityScaling = Field("maximum", description="Scaling of T2W and DWI, as in `CubesConfig`")
    model: Annotated[str | None, Flag("F")] = Field(
        None,
        description="Weights to fine-tune (.model, .pth or package): spacing and intensities as in their cubes",
    )
    lesion_path: Annotated[str | None, Flag("D")] = Field(
        None, description="Folder or s3://bucket/prefix of csPCa labels on T2W's grid, CASE.nii.gz"
    )
    predict: Annotated[bool, Flag()] = Field(
        False, description="Add new cases without labels to imagesTs, prepared as the data set there"
    )
    force: Force = False
    splits_path: SplitsPath = None
    archive_format: FormatChoice = None
    patient_pattern: PatientPattern = PICAI_PATIENT


class EvaluationConfig(_Frozen):
    """Detection figures of predictions."""

    output: Annotated[str | None, Flag("F")] = Field(None, description="JSON file for the figures")
    force: Force = False


class UploadConfig(_Frozen):
    """Copying of a folder."""

    force: Force = False


class ExportConfig(_Frozen):
    """Weights in a file for another program."""

    to: Annotated[Literal["nnunet-v2", "nnunet-v1"], Flag()] = Field(
        "nnunet-v2", description="Program that reads the file"
    )
    classes: Annotated[int | None, Flag("N")] = Field(
        None, ge=1, description="For nnU-Net v2: classes of new heads, background included (default: no heads)"
    )
    force: Force = False


class PackageConfig(_Frozen):
    """A folder of weights with a model card."""

    name: Annotated[str, Flag("NAME")] = Field("zssmnet-mnet", pattern=r"^.+$", description="Name on the card")
    licence: Annotated[str, Flag("ID")] = Field(
        "fill-in", pattern=r"^[A-Za-z0-9.+-]+$", description="Licence of the weights, as model hubs name it"
    )
    probe_path: Annotated[str | None, Flag("F", "probe")] = Field(
        None, description="JSON file with the probe's result, for the card"
    )
    force: Force = False


class ProbeScale(_Frozen):
    """Spacing, windows and batches of the probe's networks."""

    spacing_mm: tuple[float, float, float] = Field(description="Spacing x, y, z of the cases in mm")
    window: tuple[int, int, int] = Field(description="Size of a window x, y, z in voxels")
    windows: tuple[int, int, int] = Field(description="Windows along x, y, z that make the box around the gland")
    batch_size: int = Field(ge=1, description="Windows in a batch")

    @property
    def box(self) -> tuple[int, int, int]:
        """Size of the box around the gland x, y, z in voxels."""
        (x, y, z), (nx, ny, nz) = self.window, self.windows
        return x * nx, y * ny, z * nz


PROBE_SCALES = {
    "cpu": ProbeScale(spacing_mm=(1.0, 1.0, 3.0), window=(32, 32, 8), windows=(2, 2, 2), batch_size=4),
    "coarse": ProbeScale(spacing_mm=(8 / 3, 8 / 3, 4.0), window=(24, 24, 12), windows=(1, 1, 1), batch_size=2),
    "gpu": ProbeScale(spacing_mm=(0.5, 0.5, 3.0), window=(64, 64, 16), windows=(2, 2, 1), batch_size=8),
}


class ProbeConfig(_Frozen):
    """Whether weights help: what is compared, and on how many cases."""

    task: Annotated[Literal["lesions", "zones"], Flag()] = Field(
        "lesions", description="lesions: csPCa, needs labels; zones: the zonal masks, from the images alone"
    )
    preset: Annotated[Literal["cpu", "coarse", "gpu"] | None, Flag()] = Field(
        None,
        description="cpu: 1 x 1 x 3 mm in small windows; coarse: 2.7 x 2.7 x 4 mm, a whole gland in one window; "
        "gpu: 0.5 x 0.5 x 3 mm (default: the spacing of the weights, by their record)",
    )
    labelled: Annotated[int, Flag("N")] = Field(4, ge=1, description="Labelled cases to train on")
    many_labelled: Annotated[int, Flag("N")] = Field(
        64, ge=1, description="Labelled cases, or all there are, of the arm that shows what more labels gain"
    )
    seeds: Annotated[int, Flag("N")] = Field(
        5, ge=3, description="Paired repetitions with other labelled cases, order and heads"
    )
    steps: Annotated[int, Flag("N")] = Field(200, ge=1, description="Steps of fine-tuning")
    learning_rates: Annotated[tuple[Annotated[float, Field(gt=0, le=1000)], ...], Flag("X,Y,...")] = Field(
        (0.001, 0.003, 0.01, 0.02), min_length=1, description="Candidate learning rates of the body, tuned per arm"
    )
    head_factors: Annotated[tuple[Annotated[float, Field(gt=0, le=1000)], ...], Flag("X,Y,...")] = Field(
        (1.0, 20.0), min_length=1, description="By how much faster the new heads learn: candidates, tuned per arm"
    )
    test_cases: Annotated[int, Flag("N")] = Field(32, ge=1, description="Test cases")
    tuning_cases: Annotated[int, Flag("N")] = Field(
        8, ge=0, description="Cases for tuning the learning rates, not tested"
    )
    force: Annotated[bool, Flag()] = Field(False, description="Also probe weights with explained variance <= 0")
    seed: Annotated[int, Flag("N")] = Field(0, ge=0, lt=2**31, description="Seed of the choice of cases")
    device: Annotated[Device, Flag()] = Field("auto", description="Device to train on")

    @property
    def scale(self) -> ProbeScale:
        """That of the preset; ValueError without one."""
        if self.preset is None:
            raise ValueError("a probe without weights needs a preset")
        return PROBE_SCALES[self.preset]

    @model_validator(mode="after")
    def _tuned(self) -> Self:
        if len(self.learning_rates) * len(self.head_factors) > 1 and not self.tuning_cases:
            raise ValueError(
                "without tuning_cases no learning rate can be chosen: give one of learning_rates and of head_factors"
            )
        return self


class ZonesScale(_Frozen):
    """Spacing, windows, network and length of training with which zones are found in a box around the gland."""

    spacing_mm: tuple[float, float, float] = Field(description="Spacing x, y, z in mm")
    window: tuple[int, int, int] = Field(description="Size of a window x, y, z in voxels")
    batch_size: int = Field(ge=1, description="Windows in a batch")
    kernels: tuple[int, int, int, int, int] = Field(description="Kernels of MNet's five levels, without weights")
    epochs: int = Field(ge=1, description="Epochs where none are chosen")


ZONES_SCALES = {
    "cpu": ZonesScale(
        spacing_mm=(1.0, 1.0, 3.0), window=(48, 48, 16), batch_size=2, kernels=(8, 12, 16, 20, 24), epochs=16
    ),
    "gpu": ZonesScale(
        spacing_mm=(0.5, 0.5, 3.0), window=(128, 128, 16), batch_size=4, kernels=(32, 48, 64, 80, 96), epochs=80
    ),
}


class ZonesConfig(_Frozen):
    """Training of networks that make zonal masks."""

    channels: Annotated[Literal["t2w", "t2w,adc,dwi"], Flag("t2w|t2w,adc,dwi")] = Field(
        "t2w", description="Images that zones are found in"
    )
    preset: Annotated[Literal["cpu", "gpu"], Flag()] = Field(
        "gpu", description="cpu: zones at 1 x 1 x 3 mm by a small MNet; gpu: at 0.5 x 0.5 x 3 mm, as in pre-training"
    )
    members: Annotated[int, Flag("N")] = Field(
        3, ge=2, le=10, description="Networks of the ensemble; each holds out another share of the patients"
    )
    epochs: Annotated[int | None, Flag("N")] = Field(
        None,
        ge=1,
        le=100_000,
        description="Largest number of epochs, of 25 batches each (default: 16 or 80, by preset)",
    )
    patience: Annotated[int, Flag("N")] = Field(
        10, ge=1, le=100_000, description="Epochs without a better loss on held-out patients before training stops"
    )
    learning_rate: Annotated[float, Flag("X")] = Field(0.01, gt=0, le=1e3, description="Highest learning rate")
    seed: Annotated[int, Flag("N")] = Field(0, ge=0, lt=2**31, description="Seed of everything")
    device: Annotated[Device, Flag()] = Field("auto", description="Device to train on")

    @property
    def scale(self) -> ZonesScale:
        """That of the preset."""
        return ZONES_SCALES[self.preset]


class LabelledConfig(_Frozen):
    """What a training of zones begins with, and whose cases are whose."""

    weights: Annotated[str | None, Flag("F")] = Field(
        None, description="Pre-trained weights to begin with (default: from scratch)"
    )
    archive_format: FormatChoice = None
    patient_pattern: PatientPattern = PICAI_PATIENT


class GivenMasksConfig(_Frozen):
    """Masks that are there already."""

    zonal_mask_path: Annotated[str | None, Flag("D")] = Field(
        None, description="Folder of masks that are there already: their cases keep them, as copies"
    )
    archive_format: FormatChoice = None


class SegmentConfig(_Frozen):
    """Making of zonal masks for an archive."""

    bound: Annotated[Probability, Flag("X")] = Field(
        0.7, description="Dice of the zones between the ensemble's members below which a mask is doubtful"
    )
    device: Annotated[Device, Flag()] = Field("auto", description="Device to predict on")


MarginPercent = Annotated[
    float,
    Field(
        ge=0,
        lt=100,
        description="Percent by which a challenger's validation loss must be below that of the published model",
    ),
    Flag("X"),
]

MinNewCases = Annotated[
    int,
    Field(ge=1, description="Smallest number of new or changed cases for a training"),
    Flag("N"),
]


class RetrainingConfig(_Frozen):
    """When a challenger is trained, how, and when it wins."""

    min_new_cases: MinNewCases = 10
    margin_percent: MarginPercent = 2.0
    pretraining: ChallengerConfig = Field(
        ChallengerConfig(), description="The challenger's budget; its network is that of the published model"
    )
