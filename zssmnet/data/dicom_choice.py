"""Which stacks of a study become T2W, ADC and DWI.

The rule. Of several candidates, the first in this order is taken:

- T2W: complete; without fat saturation; 2-D before 3-D; finest (smallest voxel); latest.
- DWI: complete; b-value of at least `lowest_b`, nearest to `high_b`; finest; latest. Where all are lower, the high
  b-value is computed from them if `compute_high_b` is set.
- ADC: complete; of the same acquisition grid as the DWI; finest; latest.

Voxels that differ by less than 1 % are equally fine; "latest" is the later series, so a repeat replaces what it
repeats.
"""

import math
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from zssmnet.config import SeriesConfig
from zssmnet.data.dicom_series import Role, Stack, Study
from zssmnet.errors import DicomError

Rank = Callable[[Stack], tuple[Any, ...]]
ChoiceRow = tuple[Stack, str, str]


class Override(BaseModel, frozen=True, extra="forbid"):
    """A manual choice for one case: numbers of series."""

    t2w: int | None = None
    adc: int | None = None
    dwi: int | None = None
    b: float | None = Field(None, description="B-value of the DWI image, where its series has several")
    leave_out: Annotated[str, Field(min_length=1)] | None = Field(None, description="Why the case is left out")


@dataclass(frozen=True)
class Choice:
    """What becomes of a study.

    Attributes:
        t2w, adc, dwi: the chosen stacks; DWI several, where a high b-value is computed from them.
        computed_b: the b-value to compute; None if DWI is taken as it is.
        rows: all stacks, each with what it is chosen as (or nothing), and the reason.
        fault: why the study makes no case; empty if it does.
    """

    t2w: Stack | None
    adc: Stack | None
    dwi: tuple[Stack, ...]
    computed_b: float | None
    rows: tuple[ChoiceRow, ...]
    fault: str


def read_overrides(text: bytes, source: str) -> dict[str, Override]:
    """Read manual choices: TOML tables named after cases, with ``t2w``, ``adc``, ``dwi``, ``b`` or ``leave_out``.

    Raises:
        DicomError: not TOML, or not that form.
    """
    try:
        return TypeAdapter(dict[str, Override]).validate_python(tomllib.loads(text.decode()))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DicomError(f"{source}: not a TOML file: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise DicomError(f"{source}: {place}: {first['msg']}; expected tables like [10001_1000001] t2w = 4") from error


def choose(study: Study, config: SeriesConfig, override: Override | None = None) -> Choice:
    """Apply the rule, and the manual choice."""
    override = override or Override()
    faults: list[str] = [f"excluded manually: {override.leave_out}"] if override.leave_out else []
    chosen: dict[Role, Stack] = {}
    reasons: dict[Role, str] = {}

    def take(role: Role, rank: Rank, by_hand: int | None, words: str) -> None:
        candidates = _candidates(study, role, by_hand)
        if role == "DWI" and override.b is not None:
            candidates = [stack for stack in candidates if stack.first.b == override.b]
        usable = sorted((stack for stack in candidates if not stack.fault), key=rank, reverse=True)
        if not usable:
            faults.append(_none(study, role, candidates, by_hand))
            return
        chosen[role] = usable[0]
        reasons[role] = _why(candidates, by_hand, words)

    take("T2W", _rank_t2w, override.t2w, "without fat saturation, 2-D, finest, latest")
    nearest = f"b-value nearest to {config.high_b:g}, finest, latest"
    take("DWI", lambda stack: _rank_dwi(stack, config), override.dwi, nearest)
    take("ADC", lambda stack: _rank_adc(stack, chosen.get("DWI")), override.adc, "DWI's grid, finest, latest")
    dwi, computed_b = _sources(study, chosen.get("DWI"), config, override, faults)
    if computed_b is not None:
        reasons["DWI"] = f"b {computed_b:g} is computed from b {', '.join(f'{one.first.b:g}' for one in dwi)}"
    used: dict[int, Role] = {id(stack.slices): role for role, stack in chosen.items()}
    used |= {id(stack.slices): "DWI" for stack in dwi}
    rows = tuple(_row(stack, used.get(id(stack.slices)), reasons, chosen) for stack in study.stacks)
    return Choice(chosen.get("T2W"), chosen.get("ADC"), dwi, computed_b, rows, "; ".join(faults))


def _candidates(study: Study, role: Role, by_hand: int | None) -> list[Stack]:
    if by_hand is None:
        return [stack for stack in study.stacks if stack.role == role]
    named = [stack for stack in study.stacks if stack.first.number == by_hand]
    same = [stack for stack in named if stack.role == role]
    return same or [replace(stack, role=role) for stack in named]


def _none(study: Study, role: Role, candidates: list[Stack], by_hand: int | None) -> str:
    if candidates:
        return f"no {role} image is whole: " + "; ".join(f"{stack.name} {stack.fault}" for stack in candidates)
    if by_hand is not None:
        return f"there is no series {by_hand} to take as {role}, with the b-value asked for"
    return f"no axial {role} image among {len({stack.first.series for stack in study.stacks})} series"


def _why(candidates: list[Stack], by_hand: int | None, words: str) -> str:
    if by_hand is not None:
        return "chosen manually"
    return "the only one" if len(candidates) == 1 else f"first of {len(candidates)} by: complete, {words}"


def _fineness(stack: Stack) -> int:
    """Larger for smaller voxels; equal, as a rule, for those that differ by less than 1 %."""
    return -round(math.log(math.prod(stack.spacing_mm)) / math.log(1.01))


def _latest(stack: Stack) -> tuple[str, int, str]:
    return stack.first.taken, stack.first.number, stack.first.series


def _rank_t2w(stack: Stack) -> tuple[Any, ...]:
    return not stack.first.fat_saturated, not stack.first.is_3d, _fineness(stack), _latest(stack)


def _rank_dwi(stack: Stack, config: SeriesConfig) -> tuple[Any, ...]:
    b = stack.first.b or 0.0
    is_high = b >= config.lowest_b
    return is_high, -abs(b - config.high_b) if is_high else b, _fineness(stack), _latest(stack)


def _rank_adc(stack: Stack, dwi: Stack | None) -> tuple[Any, ...]:
    return dwi is not None and _same_grid(stack, dwi), _fineness(stack), _latest(stack)


def _same_grid(one: Stack, other: Stack) -> bool:
    ours, theirs = one.first, other.first
    return (len(one.slices), ours.shape, ours.spacing) == (len(other.slices), theirs.shape, theirs.spacing) and all(
        math.dist(a, b) < 1e-3 for a, b in ((ours.position, theirs.position), (ours.orientation, theirs.orientation))
    )


def _sources(
    study: Study, dwi: Stack | None, config: SeriesConfig, override: Override, faults: list[str]
) -> tuple[tuple[Stack, ...], float | None]:
    """What DWI is read or computed from, and the b-value to compute."""
    b = dwi.first.b or 0.0 if dwi else 0.0
    if dwi is None or b >= config.lowest_b or override.b is not None:
        return ((dwi,) if dwi else ()), None
    if not config.compute_high_b:
        faults.append(
            f"its highest b-value is {b:g} s/mm2, wanted are {config.lowest_b:g} or more; "
            "--compute_high_b computes it from lower ones, --lowest_b takes lower ones as they are"
        )
        return (dwi,), None
    sisters = [stack for stack in study.stacks if stack.role == "DWI" and not stack.fault and _same_grid(stack, dwi)]
    sources = {stack.first.b: stack for stack in sorted(sisters, key=_latest) if stack.first.series == dwi.first.series}
    if len(sources) < 2:
        faults.append(f"b {config.high_b:g} cannot be computed: {dwi.name} has no second b-value in its series")
    return tuple(sources.values()), config.high_b


def _row(stack: Stack, used_as: Role | None, reasons: dict[Role, str], chosen: dict[Role, Stack]) -> ChoiceRow:
    if used_as:
        return stack, used_as, reasons[used_as]
    if stack.role is None or stack.fault:
        return stack, "", stack.fault if stack.role else stack.reason
    winner = chosen.get(stack.role)
    return stack, "", f"{winner.name} comes first" if winner else ""
