"""The probe's result as a picture and as a table."""

import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from zssmnet.probe.arms import POSITIVE
from zssmnet.probe.floor import RIDGE, RULE
from zssmnet.probe.result import Comparison, ProbeResult, case_auroc, mean_of
from zssmnet.report.markdown import table
from zssmnet.report.palette import FAINT, INK
from zssmnet.report.style import heading, new_figure, outline_zones, without_frame

_SHORT = {"lesions": "average precision", "zones": "Dice"}
_ABOVE, _BELOW, _CONTROL = "#3d8f5f", "#d1495b", "#8a94a0"
_MOST_SLICES = 12
_CONDITIONS = (
    "scratch beats what needs no network",
    "many labels beat few, by twice what is detectable",
    "the positive control helps",
    "scratch again and the control permuted do not",
)


def probe_picture(result: ProbeResult) -> bytes:
    """Draw the differences that are judged, with their 95 % intervals, and what each arm finds in one slice of T2W.

    Small points are seeds. The slice is of a test case of median difficulty.
    """
    rows = [one for one in _shown(result) if one.second not in (RIDGE, RULE)]  # far off, and on the table
    slices = [("to be found", result.picture.truth)]
    slices += [(arm, one.example) for arm in result.shown_arms() for one in result.trials_of(arm)[:1] if one.example]
    slices = slices[:_MOST_SLICES]
    across = min(6, len(slices))
    down = -(-len(slices) // across)
    figure = new_figure(9.0, 1.2 + 0.3 * len(rows) + 1.75 * down)
    parts: Any = figure.subfigures(2, 1, height_ratios=[0.8 + 0.3 * len(rows), 1.75 * down])
    _draw_differences(parts[0].subplots(), rows, _SHORT[result.task])
    for ax, (arm, found) in zip(parts[1].subplots(down, across, squeeze=False).flat, slices, strict=False):
        ax.imshow(np.array(result.picture.t2w), "gray", interpolation="nearest")
        outline_zones(ax, np.array(found), (-0.5, -0.5), np.shape(found)[::-1])
        ax.set_title(arm.replace(", ", "\n"), fontsize=7, color=FAINT)
    for ax in parts[1].axes:
        ax.set_axis_off()
    heading(figure, f"Probe, {result.task}: differences with 95 % intervals, and what each arm finds in one slice")
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=90)
    return stream.getvalue()


def _shown(result: ProbeResult) -> list[Comparison]:
    """The comparisons that may be shown: without an open gate none of weights but the positive control."""
    arms = result.shown_arms()
    return [one for one in (*result.comparisons, result.control) if one.first in arms and one.second in arms]


def _draw_differences(ax: Axes, rows: Sequence[Comparison], unit: str) -> None:
    for y, one in enumerate(reversed(rows)):
        found = one.difference
        colour = _ABOVE if found.low > 0 else _BELOW if found.high < 0 else _CONTROL
        ax.plot([found.low, found.high], [y, y], color=colour, linewidth=2)
        ax.plot(found.mean, y, "o", color=colour, markersize=5)
        ax.plot(found.each_seed, [y] * len(found.each_seed), "|", color=colour, markersize=8, alpha=0.6)
    ax.axvline(0, color=INK, linewidth=0.8)
    names = [f"{one.first} \N{MINUS SIGN} {one.second}" for one in reversed(rows)]
    ax.set_yticks(range(len(rows)), names, fontsize=8, color=INK)
    ax.set_xlabel(f"difference in {unit}; thin marks: seeds", fontsize=8, color=FAINT)
    without_frame(ax)


def probe_table(result: ProbeResult) -> str:
    """The result in Markdown: gate, verdicts, figures of each arm, comparisons, and how it was done."""
    gate = [
        (f"({letter}) {name}", "yes" if one.holds else "**no**", one.sentence)
        for letter, name, one in zip("abcd", _CONDITIONS, result.gate, strict=True)
    ]
    others = ("Dice", "AUROC of cases") if result.task == "lesions" else ("surface distance, mm",)
    config, spacing_mm = result.config, result.config.scale.spacing_mm
    parts = [
        table(("the probe can tell if", "", ""), gate),
        f"Endpoint: {result.endpoint}; {len(result.test_cases)} test cases, {config.seeds} seeds, {config.steps} "
        f"steps, at {' x '.join(f'{mm:.3g}' for mm in spacing_mm)} mm near the gland, so that no figure can be "
        "compared with the challenge's; ± is the standard deviation over seeds.",
        table(
            ("arm", "labelled", "learning rate", _SHORT[result.task], "worst seed", *others),
            (_figures(result, arm) for arm in result.shown_arms()),
        ),
        table(("difference", "mean", "95 % interval", "p", "p after Holm"), map(_compared, _shown(result))),
        "\n".join(_origin(result)),
    ]
    if result.can_tell:
        parts.insert(1, "\n".join(f"- {one.sentence}" for one in result.verdicts))
    else:
        parts.insert(0, "**This probe cannot tell, because not all conditions hold: no verdict counts.**")
    return "\n\n".join(parts) + "\n"


def _figures(result: ProbeResult, arm: str) -> list[str]:
    trials = result.trials_of(arm)
    each = [one.mean(result.task) for one in trials]
    spread = f"{np.mean(each):.3f} ± {np.std(each, ddof=1):.3f}"
    name = "dice" if result.task == "lesions" else "surface_mm"
    others: list[float | None] = [mean_of(case[name] for one in trials for case in one.cases.values())]
    others += [case_auroc(trials)] if result.task == "lesions" else []
    shown = ["none" if one is None else f"{one:.3f}" for one in others]
    return [arm, str(trials[0].labelled), str(trials[0].rate or ""), spread, f"{min(each):.3f}", *shown]


def _compared(one: Comparison) -> tuple[str, ...]:
    found = one.difference
    interval = f"{found.low:+.3f} to {found.high:+.3f}"
    values = ["" if p is None else "< 0.001" if p < 0.0005 else f"{p:.3f}" for p in (found.p, one.adjusted_p)]
    return f"{one.first} − {one.second}", f"{found.mean:+.3f}", interval, *values


def _origin(result: ProbeResult) -> Iterator[str]:
    """Origin of each weight file, as far as recorded."""
    for one in result.weights:
        if one.name == POSITIVE:
            yield f"- {one.name}: {len(one.sha256)} trainings with labels of other cases; no record of which."
            continue
        explained = ", ".join(f"{share:.1%}" for share in one.explained) or "unknown"
        cases = (
            "no record of its training cases, so test cases may be among them"
            if one.trained_cases is None
            else f"trained with {one.trained_cases} cases, none of whose patients is tested"
        )
        blank = "; has never seen blank zone channels" if result.task == "zones" and not one.knows_blank_zones else ""
        yield f"- {one.name}: explained variance {explained}; {cases}{blank}."
    if result.pool < result.config.seeds * result.config.labelled:
        yield (
            f"- The labelled cases of the seeds overlap, since there are {result.pool} to learn from: the intervals do "
            "not cover other labelled cases."
        )
