"""Which stacks of a study become T2W, ADC and DWI: the first by `_rank` of those that make a volume.

Where nothing decides between images that differ, the study is refused.
"""

import math
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, TypeAdapter, ValidationError

from zssmnet.config import SeriesConfig
from zssmnet.data.dicom_headers import Role
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
        return (
            stack.first.number == self.series
            and self.acquisition in (None, stack.first.acquisition)
            and {*(self.kind or "").upper().split()} <= {*stack.kind.split()}
            and (self.b is None or _may_have(stack, self.b))
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
    faults += [study.fault] if study.fault else []
    chosen: dict[Role, Stack] = {}
    taken: dict[int, tuple[Role, str]] = {}
    by: dict[Role, str] = {
        "T2W": "without fat saturation, 2-D, finest, latest",
        "DWI": f"b-value nearest to {config.high_b:g}, finest, latest",
        "ADC": "DWI's grid, finest, latest",
    }

    def rank(stack: Stack) -> tuple[Any, ...]:
        return _rank(stack, config, chosen.get("DWI"))

    for role, order in by.items():
        by_hand: Pick | None = getattr(override, role.lower())
        candidates = _candidates(study, role, by_hand)
        if role == "DWI" and override.b is not None:
            candidates = [stack for stack in candidates if _may_have(stack, override.b)]
        usable = sorted((stack for stack in candidates if not stack.fault), key=rank, reverse=True)
        if not usable:
            faults.append(_none(study, role, candidates, by_hand))
            continue
        faults += _alike(usable[0], usable[1:], rank)
        chosen[role] = usable[0]
        first_of = "the only one" if len(candidates) == 1 else f"first of {len(candidates)} by: complete, {order}"
        taken[id(usable[0].slices)] = role, "chosen manually" if by_hand else first_of
    dwi = chosen.get("DWI")
    computed_b: float | None = None
    sources: tuple[Stack, ...] = (dwi,) if dwi else ()
    has_chosen_b = override.b is not None or (override.dwi is not None and override.dwi.b is not None)
    if dwi and not has_chosen_b and not _is_high(dwi, config):
        if config.compute_high_b:
            computed_b = config.high_b
            sources = _sources(study, dwi, computed_b, rank, faults)
            reason = f"b {computed_b:g} is computed from b {', '.join(f'{one.b:g}' for one in sources)}"
            taken |= {id(one.slices): ("DWI", reason) for one in sources}
        else:
            highest = "unknown (b = 1400 beside dwi tells it)" if dwi.first.b is None else f"{dwi.b:g} s/mm2"
            faults.append(
                f"its highest b-value is {highest}, wanted are {config.lowest_b:g} or more; "
                "--compute_high_b computes it from lower ones, --lowest_b takes lower ones as they are"
            )
    rows = tuple(_rows(study, chosen, taken))
    note = f"{study.note}: " if faults and study.note else ""
    return Choice(chosen.get("T2W"), chosen.get("ADC"), sources, computed_b, rows, note + "; ".join(faults))


def _candidates(study: Study, role: Role, by_hand: Pick | None) -> list[Stack]:
    named = [stack for stack in study.stacks if by_hand is None or by_hand.names(stack)]
    same = [stack for stack in named if stack.role == role]
    return same if same or by_hand is None else [replace(stack, role=role) for stack in named]


def _rank(stack: Stack, config: SeriesConfig, dwi: Stack | None) -> tuple[Any, ...]:
    """Larger for what is taken first.

    - T2W: without fat saturation; 2-D before 3-D; finest (smallest voxel); latest.
    - DWI: b-value of at least `lowest_b`, nearest to `high_b`, or the highest; finest; latest.
    - ADC: of the same acquisition grid as the DWI; finest; latest.

    Voxels that differ by less than 1 % are equally fine, as a rule. "Latest" is the later series, acquisition and time:
    a repeat replaces what it repeats.
    """
    order: tuple[Any, ...] = ()
    if stack.role == "T2W":
        order = "FS" not in stack.first.traits, "3D" not in stack.first.traits
    elif stack.role == "DWI":
        order = (True, -abs(round(stack.b) - config.high_b)) if _is_high(stack, config) else (False, round(stack.b))
    elif dwi:
        order = (_same_grid(stack, dwi),)
    return *order, -round(math.log(math.prod(stack.spacing_mm)) / math.log(1.01)), stack.made


def _is_high(stack: Stack, config: SeriesConfig) -> bool:
    return stack.b >= config.lowest_b or _is_near(stack, config.lowest_b)


def _is_near(stack: Stack, b: float) -> bool:
    """Whether a stack has a b-value, but for the difference between effective and nominal ones."""
    return stack.first.b is not None and abs(stack.first.b - b) <= 0.02 * b + 1


def _may_have(stack: Stack, b: float) -> bool:
    """Whether a choice by hand may say that a stack has a b-value: it has it, or none is known."""
    return stack.first.b is None or _is_near(stack, b)


def _same_grid(one: Stack, other: Stack) -> bool:
    is_near = math.dist(one.first.position, other.first.position) < TOLERANCE_MM
    return is_near and len(one.slices) == len(other.slices) and same_plane(one.first, other.first)


def _alike(best: Stack, others: list[Stack], rank: Rank) -> list[str]:
    """A fault if only chance decides between stacks: they differ in no rank, or may be two gradient directions."""
    is_unmarked = best.role == "DWI" and best.b > 0 and not best.first.diffusion
    alike = [best]
    for one in others:
        maybe_directions = is_unmarked and not one.first.diffusion and one.first.series == best.first.series
        if (rank(one) == rank(best) or (maybe_directions and _is_near(one, best.b))) and not same_pixels(one, best):
            alike.append(one)
    if len(alike) == 1:
        return []
    keys = ((one.first.number, one.first.acquisition, one.kind) for one in alike)
    named = list(dict.fromkeys('{{series = {}, acquisition = {}, kind = "{}"}}'.format(*key) for key in keys))
    by_hand = f"choose by hand, {str(best.role).lower()} = {_listed(named)}"
    way = by_hand if len(named) > 1 else "leave one of them out of the folder"
    b = f" b {best.b:g}" if best.role == "DWI" else ""
    return [f"{len(alike)} {best.role}{b} images are alike but for their voxels: {way}"]


def _listed(names: list[str]) -> str:
    return "; ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _none(study: Study, role: Role, candidates: list[Stack], by_hand: Pick | None) -> str:
    if candidates:
        return f"no {role} image is whole: {_listed([f'{stack.name} {stack.fault}' for stack in candidates])}"
    if by_hand is not None:
        return f"there is no series {by_hand.series} to take as {role}, with the acquisition, kind and b asked for"
    return f"no axial {role} image among {len({stack.first.series for stack in study.stacks})} series"


def _sources(study: Study, dwi: Stack, b: float, rank: Rank, faults: list[str]) -> tuple[Stack, ...]:
    """The stacks from which a high b-value is computed, one for each lower one."""
    in_series = [stack for stack in study.stacks if stack.role == "DWI" and stack.first.series == dwi.first.series]
    sisters = [stack for stack in in_series if not stack.fault and _same_grid(stack, dwi)]
    sources = {round(stack.b): stack for stack in sorted(sisters, key=rank)}
    for best in (stack for stack in sources.values() if stack is not dwi):
        faults += _alike(best, [one for one in sisters if one is not best], rank)
    if len(sources) < 2:
        faults.append(f"b {b:g} cannot be computed: {dwi.name} has no second b-value in its series")
    return tuple(sources.values())


def _rows(study: Study, chosen: dict[Role, Stack], taken: dict[int, tuple[Role, str]]) -> Iterator[ChoiceRow]:
    for stack in study.stacks:
        if id(stack.slices) in taken:
            yield stack, *taken[id(stack.slices)]
        elif stack.role is None or stack.fault:
            yield stack, "", stack.fault if stack.role else stack.reason
        else:
            winner = chosen.get(stack.role)
            yield stack, "", f"{winner.name} comes first" if winner else ""
