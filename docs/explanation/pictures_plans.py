"""Pictures of plans: windows, noise levels, strategies, pipelines; no network runs."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
import yaml
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from common.bundles import bundles_dir
from common.diffusion.overlap import Imposer, KnownNoise, KnownSlices, Level
from common.diffusion.schedules import build_schedule, select_timesteps
from common.diffusion.windows import WindowPlan, plan_windows

KNOWN, START, FORWARD, BACKWARD = "#c7c7c7", "#2ca02c", "#1f77b4", "#ff7f0e"


def walk(label_DHW: np.ndarray, palette: np.ndarray, start: int) -> Figure:
    """Show the windows of MC-DPM over a volume, above the sagittal middle of what they made."""
    depth = len(label_DHW)
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(8, 5.2), sharex=True, height_ratios=[1.15, 1], gridspec_kw={"hspace": 0.05}
    )
    windows(above, plan_windows(depth, 6, 2, start))
    middle = palette[label_DHW[:, :, label_DHW.shape[2] // 2].T[::-1].astype(int)]
    below.imshow(middle, extent=(0, depth, 0, middle.shape[0]), aspect="auto")
    below.set(xlabel="slice, back to front", yticks=[], ylabel="sagittal middle")
    return figure


def directions(depth: int, start: int) -> Figure:
    """Show the windows of GEM-3D over a volume."""
    figure, axes = plt.subplots(figsize=(8, 2.1))
    windows(axes, plan_windows(depth, 16, 1, start))
    axes.set_xlabel("slice")
    return figure


def windows(axes: Any, plan: WindowPlan) -> None:
    """Draw a plan: a row per round, known slices grey, new ones in the colour of the direction."""
    for number, round_ in enumerate(plan):
        for window in round_:
            new = START if not number else BACKWARD if window.backward else FORWARD
            for slices, colour in ((window.known, KNOWN), (window.new, new)):
                for z in slices:
                    axes.barh(number, 1, left=z, color=colour, edgecolor="white", linewidth=0.7)
    for colour, name in (
        (START, "start window"),
        (FORWARD, "new, forward"),
        (BACKWARD, "new, backward"),
        (KNOWN, "known"),
    ):
        axes.barh(0, 0, color=colour, label=name)
    axes.set(ylabel="round", xlim=(0, plan.depth), yticks=range(len(plan)))
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False)


def known_noise() -> Figure:
    """Plot the noise of the known slices in the correct and in the released way."""
    schedule = build_schedule("scaled_linear", 1000, beta_start=0.00085, beta_end=0.012)
    times = select_timesteps(1000, 200)
    levels = [Level(t, *schedule.alpha_sigma(t)) for t in times] + [Level(-1, 1.0, 0.0)]
    one = torch.ones(1, 1, 1, 1, 1)
    figure, axes = plt.subplots(figsize=(6, 2.6))
    kinds: list[tuple[KnownNoise, str, str]] = [
        ("correct", FORWARD, "as the other slices have it"),
        ("official", BACKWARD, "released code"),
    ]
    for kind, colour, name in kinds:
        overlap = KnownSlices(0 * one, one.bool(), known_noise=kind)
        imposer = Imposer(overlap, levels, schedule, lambda *_: one, fresh=True)
        sigma = [float(imposer.impose(0 * one, stop, stop)) for stop in range(len(levels))]
        axes.plot(sigma[1:], color=colour, label=name)
    axes.set(xlabel="step of the sampler", ylabel="noise of the\nknown slice")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def strategies() -> Figure:
    """Draw what the strategies E2 train on, and how long."""
    path = bundles_dir() / "segmentation_eval" / "configs" / "strategies.yaml"
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))["strategies"]
    chosen = {name: entry for name, entry in entries.items() if name.startswith("E2")}
    total = {n: sum(lengths(e)) for n, e in chosen.items() if n != "E2-1-equal"}
    colours = {"real": FORWARD, "synthetic": BACKWARD, "real and synthetic": "#9467bd"}
    figure, axes = plt.subplots(figsize=(7, 2.5))
    for row, (_, entry) in enumerate(chosen.items()):
        left = 0.0
        for step in entry["steps"]:
            updates = step.get("updates", 1)
            length = total[updates] if isinstance(updates, str) else float(updates)
            kind = " and ".join(step["data"])
            axes.barh(row, length, left=left, color=colours[kind], edgecolor="white", height=0.7)
            left += length
    for kind, colour in colours.items():
        axes.barh(0, 0, color=colour, label=kind)
    axes.set(yticks=range(len(chosen)), yticklabels=list(chosen), xlabel="updates / --updates")
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
    return figure


def lengths(entry: dict[str, Any]) -> list[float]:
    """Return the updates of each step of a strategy."""
    return [float(step.get("updates", 1)) for step in entry["steps"]]


def pipelines() -> Figure:
    """Draw the two pipelines: their stages, and what enters from the side."""
    figure, axes = plt.subplots(figsize=(9, 2.7))
    axes.set(xlim=(0, 9), ylim=(0.3, 2.9))
    axes.axis("off")
    medgen = [(1.9, "mask", "MC-DPM"), (3.7, "image", "Vid2Vid"), (5.5, "refine", "SDM")]
    gem = [(1.9, "mask", "MC-DPM,\nor given"), (4.6, "volume", "GEM-3D")]
    for y, name, stages in ((2.4, "medgen3d", medgen), (0.8, "gem3d", gem)):
        axes.text(0.1, y, name, ha="left", va="center", family="monospace", fontsize=11)
        for x, title, method in stages:
            box(axes, x, y, title, method, "#cfe3f5")
        box(axes, 7.0, y, "gate", "segmenter", "#f7ddc4")
        box(axes, 8.45, y, "pair set", "", "#d9ecd0")
        for a, b in pairwise([*(x for x, *_ in stages), 7.0, 8.45]):
            arrow(axes, (a + 0.53, y), (b - 0.53, y))
    axes.text(4.6, 1.62, "informed slice: generated, or of a scan", ha="center", va="center")
    arrow(axes, (4.6, 1.5), (4.6, 1.16))
    return figure


def arrow(axes: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Draw an arrow between two points."""
    style = {"arrowstyle": "-|>", "mutation_scale": 12, "color": "#444444"}
    axes.add_patch(FancyArrowPatch(start, end, **style))


def box(axes: Any, x: float, y: float, title: str, method: str, colour: str) -> None:
    """Draw a stage around a point."""
    frame = {"boxstyle": "round,pad=0.04", "facecolor": colour, "edgecolor": "#666666"}
    axes.add_patch(FancyBboxPatch((x - 0.48, y - 0.3), 0.96, 0.6, **frame))
    lines = method.count("\n") + 1 if method else 0
    axes.text(x, y + (0, 0.14, 0.19)[lines], title, ha="center", va="center", weight="bold")
    if method:
        axes.text(x, y - 0.12, method, ha="center", va="center", fontsize=8)
