"""The pictures of the explanation, from the current code and the weights that ship.

    python docs/explanation/pictures.py --out docs/explanation/images

Half a minute on two cores; seeded, so the same machine and versions draw the same pictures.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from pictures_plans import directions, known_noise, pipelines, strategies, walk
from PIL import Image

from common.data.labels import load_schema
from common.data.pairs import PairBatch
from common.data.pictures import three_planes
from common.stages import open_stage
from gem3d.generate import InformedSlice
from vid2vid.warp import warp

SCHEMA = load_schema("brain4")
SIZE, SPACING, SEED, START = (48, 40, 40), (4.0, 4.0, 4.0), 3, 24
PALETTE = np.asarray(SCHEMA.palette, dtype=np.uint8)
Axes = Any


def main() -> None:
    """Draw all pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the PNG files")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    mpl.rcParams.update({"font.size": 9, "axes.titlesize": 9, "figure.dpi": 110})
    torch.manual_seed(SEED)
    masks, windows = recorded_masks()
    image, parts = recorded_image(masks)
    assert masks.label_VDHW is not None
    drawings: dict[str, Figure] = {
        "pipelines": pipelines(),
        "mcdpm_denoising": denoising(windows),
        "mcdpm_walk": walk(masks.label_VDHW[0].numpy(), PALETTE, START),
        "vid2vid_parts": slice_parts(masks, parts),
        "gem3d_volume": informed_volumes(masks),
        "gem3d_directions": directions(SIZE[0], START),
        "gem3d_known_noise": known_noise(),
        "strategies": strategies(),
    }
    drawings |= refinement(image)
    for name, figure in drawings.items():
        save(figure, out / f"{name}.png")


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG; noise of few colours is written with a palette, a quarter as large."""
    figure.savefig(path, bbox_inches="tight", facecolor="white", pil_kwargs={"optimize": True})
    plt.close(figure)
    if path.stem == "mcdpm_denoising":
        with Image.open(path) as picture:
            reduced = picture.convert("RGB").quantize(64, dither=Image.Dither.NONE)
        reduced.save(path, optimize=True)


def batch() -> PairBatch:
    """Return an empty batch of one volume."""
    return PairBatch((0,), SEED, SCHEMA, SPACING, SIZE, start=(START,))


def recorded(module: Any, run: Callable[[], Any]) -> tuple[Any, list[tuple[Any, Any]]]:
    """Return what `run` gives and the (inputs, output) of each call of a module meanwhile."""
    calls: list[tuple[Any, Any]] = []
    hook = module.register_forward_hook(lambda _, given, made: calls.append((given, made)))
    try:
        return run(), calls
    finally:
        hook.remove()


def recorded_masks() -> tuple[PairBatch, list[tuple[Any, Any]]]:
    """Return a mask volume and the calls of the mask network."""
    stage: Any = open_stage("mcdpm_mask", "tiny").run
    return recorded(stage.network, lambda: stage(batch()))


def recorded_image(masks: PairBatch) -> tuple[PairBatch, list[tuple[Any, Any]]]:
    """Return the batch with its image and the calls of the slice generator."""
    stage: Any = open_stage("vid2vid_image", "tiny").run
    return recorded(stage.network, lambda: stage(masks))


def bare(axes: Axes) -> None:
    """Take ticks and frame away."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def grid(rows: int, columns: int, cell: float = 1.0, **options: Any) -> tuple[Figure, Any]:
    """Return a figure of bare square cells."""
    size = (columns * cell, rows * cell)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, **options)
    for one in axes.flat:
        bare(one)
    return figure, axes


def denoising(calls: list[tuple[Any, Any]]) -> Figure:
    """Show the steps of the start window and of the first forward window."""
    steps = count_steps(calls)
    shown = [0, steps // 4, steps // 2, 3 * steps // 4, steps - 1]
    figure, axes = grid(len(shown), 13, 0.82, gridspec_kw={"wspace": 0.06, "hspace": 0.06})
    for row, step in enumerate(shown):
        start, later = calls[step][0], calls[steps + step][0]
        show_window(axes[row, :6], start[0][0])
        show_window(axes[row, 7:], later[0][0])
        axes[row, 0].set_ylabel(f"t = {int(start[1][0])}", rotation=0, ha="right", va="center")
    axes[0, 2].set_title("start window: nothing is known", x=1.1)
    axes[0, 9].set_title("next window: two slices are known (framed)", x=1.1)
    return figure


def count_steps(calls: list[tuple[Any, Any]]) -> int:
    """Return the network calls of one window: the time step rises where a window begins."""
    times = [float(given[1][0]) for given, _ in calls]
    return next(i for i in range(1, len(times)) if times[i] > times[i - 1])


def show_window(axes: Axes, input_SCHW: torch.Tensor) -> None:
    """Show what the network sees of six slices: the largest channel of the code as a label."""
    for one, slice_ in zip(axes, input_SCHW, strict=True):
        one.imshow(PALETTE[slice_[:-1].argmax(0).numpy()][::-1])
        if slice_[-1].max() > 0:
            for spine in one.spines.values():
                spine.set(visible=True, color="#d62728", linewidth=2.5)


def slice_parts(masks: PairBatch, calls: list[tuple[Any, Any]]) -> Figure:
    """Show how single slices are put together from new texture and the slice before."""
    assert masks.label_VDHW is not None
    label = masks.label_VDHW[0].numpy()
    ticks = [0, 1, 2, 3, 6, 10]
    rows = ("mask", "slice before,\nwarped", "new texture", "weight w", "result")
    figure, axes = grid(len(rows), len(ticks), 1.05, gridspec_kw={"wspace": 0.06, "hspace": 0.06})
    start = int((label > 0).sum((1, 2)).argmax())
    for column, tick in enumerate(ticks):
        given, made = calls[tick]
        past = given[1][:1, 0]
        texture, weight = made.raw[0, 0].numpy(), made.weight[0, 0].numpy()
        warped = warp(past, made.flow[:1])[0, 0].numpy() if tick else None
        axes[0, column].imshow(PALETTE[given[0][0, 2].numpy().astype(int)][::-1])
        axes[0, column].set_title(f"slice {start + tick}" + (" (start)" if not tick else ""))
        for row, picture in ((1, warped), (2, texture), (4, made.image[0, 0].numpy())):
            if picture is not None:
                axes[row, column].imshow(picture[::-1], cmap="gray", vmin=-1, vmax=1)
        drawn = axes[3, column].imshow(weight[::-1], cmap="viridis", vmin=0, vmax=1)
    axes[1, 0].text(0.5, 0.5, "there is\nnone yet", ha="center", va="center")
    for row, name in enumerate(rows):
        axes[row, 0].set_ylabel(name, rotation=0, ha="right", va="center")
    bar = figure.colorbar(drawn, cax=axes[3, -1].inset_axes([1.06, 0, 0.07, 1]), ticks=[0, 1])
    bar.ax.set_yticklabels(["0: warped", "1: new"])
    return figure


def refinement(image: PairBatch) -> dict[str, Figure]:
    """Refine an image as by default and more strongly; show planes and profiles."""
    stage: Any = open_stage("sdm_refiner", "tiny").run
    strong = replace(stage.how, mode="joint", t_start=25, num_steps=2, guidance_scale=2.0)
    results = {"Vid2Vid's image": image.image_VDHW, "refined": stage(image).image_VDHW}
    stage.how = strong
    results["refined, t_start 25,\nmode joint"] = stage(image).image_VDHW
    volumes = {name: (v[0].numpy() + 1) / 2 for name, v in results.items() if v is not None}
    return {"sdm_planes": planes(volumes), "sdm_profiles": profiles(volumes)}


def planes(volumes: dict[str, np.ndarray]) -> Figure:
    """Show three planes of each volume, and what changed."""
    (first, before), *_ = volumes.items()
    columns = len(volumes) + len(volumes) - 1
    figure, axes = grid(3, columns, 1.5, gridspec_kw={"wspace": 0.05, "hspace": 0.05})
    for column, (name, volume) in enumerate(volumes.items()):
        axes[0, column].set_title(name)
        for row, plane in enumerate(three_planes(volume, "AP")):
            axes[row, column].imshow(plane, cmap="gray", vmin=0, vmax=1)
    changed = [(n, v - before) for n, v in volumes.items() if n != first]
    for column, (name, volume) in enumerate(changed, start=len(volumes)):
        axes[0, column].set_title("change: " + name.replace("refined, ", ""))
        for row, plane in enumerate(three_planes(volume, "AP")):
            drawn = axes[row, column].imshow(plane, cmap="RdBu_r", vmin=-0.1, vmax=0.1)
    for row, view in enumerate(("axial", "coronal", "sagittal")):
        axes[row, 0].set_ylabel(view)
    figure.colorbar(drawn, cax=axes[1, -1].inset_axes([1.06, 0, 0.07, 1]), ticks=[-0.1, 0, 0.1])
    return figure


def profiles(volumes: dict[str, np.ndarray]) -> Figure:
    """Plot by how much the mean of each slice changed, in three views."""
    names = ("coronal slices", "axial slices", "sagittal slices")
    figure, axes = plt.subplots(1, 3, figsize=(9.5, 2.3), sharey=True)
    before, *after = volumes.values()
    labels = [name.replace("\n", " ") for name in list(volumes)[1:]]
    for axis, (name, one) in enumerate(zip(names, axes, strict=True)):
        rest = tuple(i for i in range(3) if i != axis)
        for volume, colour, label in zip(after, ("#1f77b4", "#d62728"), labels, strict=True):
            one.plot((volume - before).mean(rest) * 1000, color=colour, label=label, lw=1.4)
        one.axhline(0, color="#888888", lw=0.7)
        one.set(title=name, xlabel="slice")
        one.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("change of the slice's\nmean, thousandths")
    lines = axes[0].get_legend_handles_labels()
    figure.legend(*lines, loc="upper center", ncols=2, frameon=False, bbox_to_anchor=(0.5, 1.14))
    return figure


def informed_volumes(masks: PairBatch) -> Figure:
    """Make images for one mask from two informed slices, a generated one and a darker one."""
    assert masks.label_VDHW is not None
    stage: Any = open_stage("gem3d_volume", "tiny").run
    size = SIZE[1:]
    slice_HW = stage.slices([START / SIZE[0]], size, volumes=[0], seed=SEED)[0]
    looks = (slice_HW, (slice_HW + 1) * 0.65 - 1)
    shown = [6, 12, 18, START, 30, 36, 42]
    names = ["mask"]
    figure, axes = grid(5, len(shown), 1.1, gridspec_kw={"wspace": 0.06, "hspace": 0.06})
    for column, z in enumerate(shown):
        axes[0, column].imshow(PALETTE[masks.label_VDHW[0, z].numpy().astype(int)][::-1])
        axes[0, column].set_title(f"slice {z}")
    for number, look in enumerate(looks):
        informed = [InformedSlice(look, START, "generated")]
        made = stage.generator(masks.label_VDHW, informed, volumes=[0], seed=SEED)[0].numpy()
        row = 1 + 2 * number
        middle = axes[row, shown.index(START)]
        middle.imshow(look.numpy()[::-1], cmap="gray", vmin=-1, vmax=1)
        for column, z in enumerate(shown):
            axes[row + 1, column].imshow(made[z][::-1], cmap="gray", vmin=-1, vmax=1)
        names += [("informed slice", "the same,\n0.65 as bright")[number], "volume"]
    for row, name in enumerate(names):
        axes[row, 0].set_ylabel(name, rotation=0, ha="right", va="center")
    return figure


if __name__ == "__main__":
    main()
