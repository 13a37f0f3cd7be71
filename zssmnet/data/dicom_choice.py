"""Which stacks of a study become T2W, ADC and DWI.

The rule. Of several candidates, the first in this order is taken:

- T2W: complete; without fat saturation; 2-D before 3-D; finest (smallest voxel); latest.
- DWI: complete; b-value of at least `lowest_b`, nearest to `high_b`; finest; latest. Where all are lower, the high
  b-value is computed from them if `compute_high_b` is set.
- ADC: complete; of the same acquisition grid as the DWI; finest; latest.

Voxels that differ by less than 1 % are equally fine; "latest" is the later series, acquisition and time, so a repeat
replaces what it repeats. Where nothing decides between images that differ, the study is refused.
"""

import math
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, TypeAdapter, ValidationError

from zssmnet.config import SeriesConfig
from zssmnet.data.dicom_roles import Role
from zssmnet.data.dicom_series import TOLERANCE_MM, Stack, Study, same_pixels, same_plane
from zssmnet.errors import DicomError

Rank = Callable[[Stack], tuple[Any, ...]]
ChoiceRow = tuple[Stack, str, str]


class Pick(BaseModel, frozen=True, extra="forbid"):
    """The stacks of a series, or those with an acquisition number, kind (as in ``choices.csv``) or b-value of these."""

    series: int
    acquisition: int | None = None
    kind: str | None = None
    b: float | None = None

    def names(self, stack: Stack) -> bool:
        """Whether the stack is one of these."""
        words = set((self.kind or "").upper().split())
        return (
            stack.first.number == self.series
            and self.acquisition in (None, stack.first.acquisition)
            and words <= set(stack.kind.split())
            and (self.b is None or _is_near(stack, self.b))
        )


_Pick = Annotated[Pick | None, BeforeValidator(lambda value: {"series": value} if isinstance(value, int) else value)]


class Override(BaseModel, frozen=True, extra="forbid"):
    """A manual choice for one case: numbers of series, or tables that name a stack of one."""

    t2w: _Pick = None
    adc: _Pick = None
    dwi: _Pick = None
    b: float | None = Field(None, description="B-value of the DWI image, where its series has several")
    leave_out: Annotated[str, Field(min_length=1)] | None = Field(None, description="Why the case is left out")


@dataclass(frozen=True)
class Choice:
    """What becomes of a study."""

    t2w: Stack | None
    adc: Stack | None
    dwi: tuple[Stack, ...]  # several, where a high b-value is computed from them
    computed_b: float | None  # None if DWI is taken as it is
    rows: tuple[ChoiceRow, ...]  # all stacks, each with what it is chosen as (or nothing), and the reason
    fault: str  # why the study makes no case; empty if it does


def read_overrides(text: bytes, source: str) -> dict[str, Override]:
    """Read manual choices: TOML tables named after cases, with ``t2w``, ``adc``, ``dwi``, ``b`` or ``leave_out``.

    Raises:
        DicomError: not TOML, or not that form.
    """
    try:
        return TypeAdapter(dict[str, Override]).validate_python(tomllib.loads(text.decode("utf-8-sig")))
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

    def take(role: Role, rank: Rank, by_hand: Pick | None, words: str) -> None:
        candidates = _candidates(study, role, by_hand)
        if role == "DWI" and override.b is not None:
            candidates = [stack for stack in candidates if _is_near(stack, override.b)]
        usable = sorted((stack for stack in candidates if not stack.fault), key=rank, reverse=True)
        if not usable:
            faults.append(_none(study, role, candidates, by_hand))
            return
        if alike := [stack for stack in usable[1:] if _is_alike(stack, usable[0], rank)]:
            faults.append(_alike(role, [usable[0], *alike]))
        chosen[role] = usable[0]
        reasons[role] = _why(candidates, by_hand, words)

    take("T2W", _rank_t2w, override.t2w, "without fat saturation, 2-D, finest, latest")
    nearest = f"b-value nearest to {config.high_b:g}, finest, latest"
    take("DWI", partial(_rank_dwi, config=config), override.dwi, nearest)
    take("ADC", lambda stack: _rank_adc(stack, chosen.get("DWI")), override.adc, "DWI's grid, finest, latest")
    dwi, computed_b = _sources(study, chosen.get("DWI"), config, override, faults)
    if computed_b is not None:
        reasons["DWI"] = f"b {computed_b:g} is computed from b {', '.join(f'{one.first.b:g}' for one in dwi)}"
    used: dict[int, Role] = {id(stack.slices): role for role, stack in chosen.items()}
    used |= {id(stack.slices): "DWI" for stack in dwi}
    rows = tuple(_row(stack, used.get(id(stack.slices)), reasons, chosen) for stack in study.stacks)
    note = f"{study.note}: " if faults and study.note else ""
    return Choice(chosen.get("T2W"), chosen.get("ADC"), dwi, computed_b, rows, note + "; ".join(faults))


def _candidates(study: Study, role: Role, by_hand: Pick | None) -> list[Stack]:
    if by_hand is None:
        return [stack for stack in study.stacks if stack.role == role]
    named = [stack for stack in study.stacks if by_hand.names(stack)]
    same = [stack for stack in named if stack.role == role]
    return same or [replace(stack, role=role) for stack in named]


def _is_alike(one: Stack, best: Stack, rank: Rank) -> bool:
    """Whether only chance decides between two stacks: they differ in no rank, or may be two gradient directions."""
    is_unmarked = one.role == "DWI" and bool(best.first.b) and not (one.first.diffusion or best.first.diffusion)
    maybe_directions = is_unmarked and one.first.series == best.first.series and _is_near(one, best.first.b or 0)
    return (maybe_directions or rank(one) == rank(best)) and not same_pixels(one, best)


def _alike(role: Role, stacks: list[Stack]) -> str:
    first = stacks[0].first
    keys = ((one.first.number, one.first.acquisition, one.kind) for one in stacks)
    named = list(dict.fromkeys('{{series = {}, acquisition = {}, kind = "{}"}}'.format(*key) for key in keys))
    shown = f"choose by hand, {role.lower()} = {'; '.join(named[:3])}{_more(len(named))}"
    b = f" b {first.b:g}" if role == "DWI" else ""
    way = shown if len(named) > 1 else "leave one of them out of the folder"
    return f"{len(stacks)} {role}{b} images are alike but for their voxels: {way}"


def _more(count: int) -> str:
    return f" and {count - 3} more" if count > 3 else ""


def _none(study: Study, role: Role, candidates: list[Stack], by_hand: Pick | None) -> str:
    if candidates:
        shown = "; ".join(f"{stack.name} {stack.fault}" for stack in candidates[:3])
        return f"no {role} image is whole: {shown}{_more(len(candidates))}"
    if by_hand is not None:
        return f"there is no series {by_hand.series} to take as {role}, with the acquisition, kind and b asked for"
    return f"no axial {role} image among {len({stack.first.series for stack in study.stacks})} series"


def _why(candidates: list[Stack], by_hand: Pick | None, words: str) -> str:
    if by_hand is not None:
        return "chosen manually"
    return "the only one" if len(candidates) == 1 else f"first of {len(candidates)} by: complete, {words}"


def _fineness(stack: Stack) -> int:
    """Larger for smaller voxels; equal, as a rule, for those that differ by less than 1 %."""
    return -round(math.log(math.prod(stack.spacing_mm)) / math.log(1.01))


def _rank_t2w(stack: Stack) -> tuple[Any, ...]:
    return "FS" not in stack.first.traits, "3D" not in stack.first.traits, _fineness(stack), stack.made


def _rank_dwi(stack: Stack, config: SeriesConfig) -> tuple[Any, ...]:
    b = round(stack.first.b or 0.0)
    is_high = b >= config.lowest_b or _is_near(stack, config.lowest_b)
    return is_high, -abs(b - config.high_b) if is_high else b, _fineness(stack), stack.made


def _rank_adc(stack: Stack, dwi: Stack | None) -> tuple[Any, ...]:
    return dwi is not None and _same_grid(stack, dwi), _fineness(stack), stack.made


def _is_near(stack: Stack, b: float) -> bool:
    """Whether a stack has a b-value, but for the difference between effective and nominal ones."""
    return stack.first.b is not None and abs(stack.first.b - b) <= 0.02 * b + 1


def _same_grid(one: Stack, other: Stack) -> bool:
    is_near = math.dist(one.first.position, other.first.position) < TOLERANCE_MM
    return is_near and len(one.slices) == len(other.slices) and same_plane(one.first, other.first)


def _sources(
    study: Study, dwi: Stack | None, config: SeriesConfig, override: Override, faults: list[str]
) -> tuple[tuple[Stack, ...], float | None]:
    """What DWI is read or computed from, and the b-value to compute."""
    b = dwi.first.b or 0.0 if dwi else 0.0
    by_hand = override.b is not None or (override.dwi is not None and override.dwi.b is not None)
    if dwi is None or by_hand or b >= config.lowest_b or _is_near(dwi, config.lowest_b):
        return ((dwi,) if dwi else ()), None
    if not config.compute_high_b:
        faults.append(
            f"its highest b-value is {b:g} s/mm2, wanted are {config.lowest_b:g} or more; "
            "--compute_high_b computes it from lower ones, --lowest_b takes lower ones as they are"
        )
        return (dwi,), None
    in_series = [stack for stack in study.stacks if stack.role == "DWI" and stack.first.series == dwi.first.series]
    sisters = [stack for stack in in_series if not stack.fault and _same_grid(stack, dwi)]
    rank = partial(_rank_dwi, config=config)
    sources = {round(stack.first.b or 0): stack for stack in sorted(sisters, key=rank)}
    for best in (stack for stack in sources.values() if stack is not dwi):
        alike = [one for one in sisters if one is not best and _is_alike(one, best, rank)]
        faults += [_alike("DWI", [best, *alike])] if alike else []
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
