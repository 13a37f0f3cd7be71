"""The probe's result as a picture and as a table."""

import io
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from zssmnet.probe.result import Comparison, ProbeResult, case_auroc, mean_of
from zssmnet.report.palette import FAINT, INK
from zssmnet.report.style import heading, new_figure, without_axes, without_frame

_COLOURS = (
    "#20262e",
    "#8a94a0",
    "#2f78a8",
    "#9cc3dc",
    "#d1495b",
    "#eeaab3",
    "#3d8f5f",
    "#a5d3b7",
    "#b07d2b",
    "#e0c795",
)
_SHORT = {"lesions": "average precision", "zones": "Dice"}


def probe_picture(result: ProbeResult) -> bytes:
    """Draw the learning curves of all arms, a panel for each number of labelled cases, and what each arm finds.

    Lines are means over seeds, points are seeds, dashed lines need no network.
    """
    arms, counts = result.arms(), result.config.labelled
    shown = [(arm, one.example) for arm in arms for one in result.trials_of(arm) if one.example]
    if result.truth:
        shown = [("to be found", result.truth), *shown]
    figure = new_figure(max(9.0, 3.4 * len(counts)), 7.2)
    parts: Any = figure.subfigures(2, 1, height_ratios=[2.6, 1])
    above, below = parts
    panels = above.subplots(1, len(counts), sharey=True, squeeze=False)
    colours = dict(zip(arms, _COLOURS * len(arms), strict=False))
    for ax, labelled in zip(panels[0], counts, strict=True):
        for arm in arms:
            _draw_curve(ax, result, arm, labelled, colours[arm])
        ax.set_title(f"{labelled} labelled cases", fontsize=9, color=INK)
        ax.set_xlabel("steps", fontsize=8, color=FAINT)
        without_frame(ax)
    panels[0][0].set_ylabel(_SHORT[result.task], fontsize=9, color=FAINT)
    handles, names = panels[0][0].get_legend_handles_labels()
    above.legend(handles, names, loc="outside upper left", ncols=3, frameon=False, fontsize=8)
    row = below.subplots(1, max(1, len(shown)), squeeze=False)[0]
    for ax, (arm, example) in zip(row, shown, strict=False):
        ax.imshow(np.array(example), "gray", vmin=0, vmax=2 if result.task == "zones" else 1, interpolation="nearest")
        ax.set_title(arm.replace(" ", "\n"), fontsize=6, color=FAINT)
        without_axes(ax)
    heading(figure, f"Probe, {result.task}: curves, and what each arm finds in one slice")
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=90)
    return stream.getvalue()


def probe_table(result: ProbeResult) -> str:
    """The result in Markdown: verdicts, figures of each arm, comparisons, and how it was done."""
    config = result.config
    lines = [
        *(f"- {one.sentence}" for one in result.verdicts),
        "",
        f"Endpoint: {result.endpoint}; {_setting(result)}.",
        "",
    ]
    others = "Dice | AP of lesions | AUROC of cases" if result.task == "lesions" else "surface distance, mm"
    lines += [f"| arm | learning rate | {' | '.join(f'{n} labelled' for n in config.labelled)} | {others} |"]
    lines += ["| --- " * (lines[-1].count("|") - 1) + "|"]
    for arm in result.arms():
        each = [[one.mean(result.task) for one in result.trials_of(arm, n)] for n in config.labelled]
        cells = [f"{np.mean(one):.3f} ± {np.std(one, ddof=1):.3f}" for one in each]
        rate = result.learning_rates.get(arm)
        lines.append(f"| {arm} | {rate if rate else ''} | {' | '.join(cells)} | {_other_figures(result, arm)} |")
    lines += ["", "| difference | mean | 95 % interval | p | p after Holm |", "| --- | --- | --- | --- | --- |"]
    lines += [_compared(one) for one in (*result.comparisons, result.control)]
    lines += ["", *(_origin(result))]
    return "\n".join(lines) + "\n"


def _setting(result: ProbeResult) -> str:
    config = result.config
    by_picai = any(one.picai for one in result.trials)
    return (
        f"{len(result.test_cases)} test cases, {config.seeds} seeds, {config.looks[-1]} steps, after the last of which "
        "it is taken; ± is the standard deviation over seeds"
        + ("; AP of lesions and AUROC of cases are PI-CAI's, by picai_eval" if by_picai else "")
    )


def _other_figures(result: ProbeResult, arm: str) -> str:
    trials = result.trials_of(arm)
    name = "dice" if result.task == "lesions" else "surface_mm"
    values = [case[name] for one in trials for case in one.looks[-1].cases.values()]
    first = _figure(mean_of(values))
    if result.task == "zones":
        return first
    ap, auroc = (mean_of([one.picai[name] for one in trials if one.picai]) for name in ("ap", "auroc"))
    return f"{first} | {_figure(ap)} | {_figure(case_auroc(trials) if auroc is None else auroc)}"


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _compared(one: Comparison) -> str:
    found = one.difference
    adjusted = "" if one.adjusted_p is None else f"{one.adjusted_p:.3f}"
    interval = f"{found.low:+.3f} to {found.high:+.3f}"
    return f"| {one.first} − {one.second} | {found.mean:+.3f} | {interval} | {found.p:.3f} | {adjusted} |"


def _origin(result: ProbeResult) -> list[str]:
    """Origin of each weight file, as far as recorded."""
    lines = []
    for one in result.weights:
        explained = ", ".join(f"{share:.1%}" for share in one.explained) or "unknown"
        cases = (
            "no record of its training cases, so test cases may be among them"
            if one.trained_cases is None
            else f"trained with {one.trained_cases} cases, none of whose patients is tested"
        )
        lines.append(f"- {one.name}: explained variance {explained}; {cases}.")
    return lines


def _draw_curve(ax: Axes, result: ProbeResult, arm: str, labelled: int, colour: str) -> None:
    trials = result.trials_of(arm, labelled)
    steps = [look.step for look in trials[0].looks]
    values_SL = np.array([[one.mean(result.task, look) for look in range(len(steps))] for one in trials])
    if steps == [0]:
        ax.axhline(values_SL.mean(), color=colour, linewidth=1.2, linestyle="--", label=arm)
        return
    ax.plot(steps, values_SL.mean(axis=0), color=colour, linewidth=1.6, label=arm)
    ax.plot(steps, values_SL.T, ".", color=colour, markersize=4, alpha=0.6)
