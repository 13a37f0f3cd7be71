"""Configuration: frozen, validated values. Defaults are the published method's (Z-SSMNet, arXiv 2212.05808).

Every field carries a description, which Prefect's UI shows in the run form.
Axis order of all triples is (x, y, z) unless a name says otherwise.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PreparationConfig(_Frozen):
    """Resampling and cropping of one case."""

    spacing_mm: tuple[float, float, float] = Field((0.5, 0.5, 3.0), description="Target spacing x, y, z in mm")
    margin_mm: float = Field(25.0, ge=0, description="Margin kept around the gland on every side, in mm")

    @model_validator(mode="after")
    def _positive_spacing(self) -> Self:
        if min(self.spacing_mm) <= 0:
            raise ValueError(f"spacing_mm must be positive, not {self.spacing_mm}")
        return self


class CubesConfig(_Frozen):
    """Cutting of cubes from prepared cases."""

    cubes_per_case: int = Field(12, ge=1, le=10_000, description="Number of cubes cut from each case")
    size: tuple[int, int, int] = Field((64, 64, 16), description="Size of a cube x, y, z in voxels")
    dtype: Literal["float16", "float32", "float64"] = Field(
        "float16", description="Number type on disk; the published program wrote float64"
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the cubes' positions")

    @model_validator(mode="after")
    def _positive_size(self) -> Self:
        if min(self.size) < 1:
            raise ValueError(f"size must be at least 1 voxel on each axis, not {self.size}")
        return self


class FlipConfig(_Frozen):
    """Random flips of corrupted and target alike."""

    probability: Probability = Field(0.4, description="Chance of each flip; the first miss ends the row")
    most: int = Field(3, ge=0, description="Most flips in a row")


class ShufflingConfig(_Frozen):
    """Local shuffling of voxels within many small windows."""

    probability: Probability = Field(0.5, description="Chance for each channel to be shuffled")
    windows: int = Field(10_000, ge=1, le=16_384, description="Number of windows in a shuffled channel")
    largest_divisor: int = Field(
        10, ge=1, description="A window's largest size on an axis is the cube's divided by this"
    )


class IntensityConfig(_Frozen):
    """Monotonous intensity map along a cubic Bezier curve."""

    probability: Probability = Field(0.9, description="Chance of the map, one for the three images together")
    rising_probability: Probability = Field(0.5, description="Chance that the map rises; it falls otherwise")
    table_size: int = Field(1000, ge=16, description="Points of the curve's table, interpolated linearly")


class PaintingConfig(_Frozen):
    """In-painting (boxes of noise) and out-painting (noise around boxes)."""

    probability: Probability = Field(0.9, description="Chance for each channel to be painted")
    outer_probability: Probability = Field(0.8, description="Chance that painting is out-painting")
    box_probability: Probability = Field(0.95, description="Chance of each further box; the first miss ends the row")
    most_boxes: int = Field(5, ge=1, le=8, description="Most boxes of one painting")
    border: int = Field(
        3,
        ge=0,
        description="Smallest distance of a box from the cube's border, in voxels; less where a cube is too small",
    )


class CorruptionConfig(_Frozen):
    """The pretext task: how a cube is corrupted before the network restores it."""

    recipe: Literal["reference", "per-channel"] = Field(
        "reference",
        description="reference: as the published program, which shuffles every channel from T2W and loses most "
        "zones; per-channel: each channel from itself, zones kept in step",
    )
    flip: FlipConfig = Field(FlipConfig(), description="Flips")
    shuffling: ShufflingConfig = Field(ShufflingConfig(), description="Local shuffling")
    intensity: IntensityConfig = Field(IntensityConfig(), description="Intensity map")
    painting: PaintingConfig = Field(PaintingConfig(), description="In- and out-painting")


class NetworkConfig(_Frozen):
    """MNet's free choices."""

    channels: tuple[int, int, int, int, int] = Field(
        (32, 48, 64, 80, 96), description="Number of kernels on the five levels"
    )
    merge: Literal["sub", "sum", "cat"] = Field(
        "sub", description="Feature merging unit: absolute difference, sum or concatenation"
    )

    @model_validator(mode="after")
    def _positive_channels(self) -> Self:
        if min(self.channels) < 1:
            raise ValueError(f"channels must be at least 1 on each level, not {self.channels}")
        return self


class TrainingConfig(_Frozen):
    """The training recipe."""

    epochs: int = Field(1000, ge=1, description="Most epochs")
    batch_size: int = Field(24, ge=1, description="Cubes in a batch; a last partial batch is dropped in training")
    learning_rate: float = Field(0.1, gt=0, description="Initial learning rate of SGD")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of SGD")
    halve_every: int = Field(12, ge=1, description="The learning rate is halved every so many epochs")
    patience: int = Field(20, ge=1, description="Epochs without a better validation loss before training stops")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of initial weights, order of cubes and corruption")
    validation_seed: int = Field(
        0, ge=0, lt=2**63, description="Seed of the validation cubes' corruption, the same in every run"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where to train; auto takes a GPU if there is one"
    )
    processes: int = Field(
        0, ge=0, description="Processes that share each batch, one a GPU; 0: as many as there are GPUs, else one"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Number type of the convolutions; auto takes bfloat16 on GPUs that compute in it"
    )
    compile: Literal["off", "cudagraphs", "default", "reduce-overhead", "max-autotune"] = Field(
        "off", description="Mode of torch.compile; cudagraphs: CUDA graphs alone (see make bench-gpu for what pays)"
    )
    cubes_in: Literal["auto", "device", "host"] = Field(
        "auto", description="Where cubes lie: in the GPU's memory, or on disk and read ahead; auto: there if they fit"
    )


class PretrainConfig(_Frozen):
    """Everything that decides which weights come out, given the cubes."""

    network: NetworkConfig = Field(NetworkConfig(), description="The network")
    corruption: CorruptionConfig = Field(CorruptionConfig(), description="The pretext task")
    training: TrainingConfig = Field(TrainingConfig(), description="The training recipe")
