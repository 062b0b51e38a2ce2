"""The judge: all that can be said of a generated pair set without training a network on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from common.engines.weights import read_card
from common.errors import MedpairError
from common.io.atomic import write_json
from common.io.manifest import sha256, versions
from common.metrics import radiomics
from common.metrics.alignment import Segment
from common.metrics.backbones import BACKBONES, open_backbones
from common.metrics.diversity import ms_ssim_note
from common.metrics.extractors import Features, MapExtractor, SliceExtractor
from common.metrics.manifolds import NEIGHBOURS
from common.metrics.perceptual import open_lpips
from common.metrics.values import not_computed
from common.progress import Progress, silent
from common.stages import open_workflow, plain_errors, weights_path
from segeval import judge_parts
from segeval.card import check_card, update_card
from segeval.judge_parts import Draws
from segeval.judged import Judged, read_judged

FORMAT = "medpair-judge-1"
NO_SEGMENTER = not_computed("no segmenter is given")


@dataclass(frozen=True)
class Opened:
    """Networks that look at images, or the reasons why there are none.

    Attributes:
        segment: masks of images, by a segmenter trained on real scans.
        extractors: feature extractors by the name they have in the report.
        lpips: distance of slices.
        identity: what identifies the segmenter.
    """

    segment: Segment | str
    extractors: Mapping[str, SliceExtractor | str]
    lpips: Any
    identity: Mapping[str, Any] | str


@dataclass(frozen=True)
class Judge:
    """Judge a generated pair set beside real scans.

    Args:
        real: pair set of real scans: split "training" those that the generator was trained on,
            "validation" those that nobody has seen.
        synthetic: generated pair set.
        output_dir: gets ``judge.json`` and the card.
        segmenter: bundle trained on real scans; None leaves alignment and encoder out.
        preset: of the segmenter.
        weights: folder with ``<bundle>/model.pt``; None takes the weights that ship.
        backbones: per name (radimagenet, inception, medicalnet, lpips) ``weights``: a file, "hub",
            or None; and options, see `open_backbones`.
        device: where networks of others run.
        joints: first slices of later windows, for pairs whose manifest names none.
        repeats: random splits for floors.
        pairs: most pairs of volumes for diversity.
        seed: of splits and pairs.
        card: what card stands beside the report: "all", "generated" (no slices of real scans) or
            "none".
    """

    real: str
    synthetic: str
    output_dir: str
    segmenter: str | None = "segmentation_eval"
    preset: str = "tiny"
    weights: str | None = None
    backbones: Mapping[str, Mapping[str, Any] | None] = field(default_factory=dict)
    device: Any = "cpu"
    joints: Sequence[int] | None = None
    repeats: int = 20
    pairs: int = 200
    seed: int = 0
    card: str = "all"

    def __call__(self, progress: Progress | None = None) -> dict[str, Any]:
        """Judge and write the report.

        Args:
            progress: called with ("judge", parts done, all).

        Returns:
            The content of ``judge.json``; its ``problems`` name pairs that were left out.

        Raises:
            MedpairError: for sets that do not fit together, weights that cannot be opened, or
                values outside their range.
        """
        if self.repeats < 1 or self.pairs < 1:
            raise MedpairError(
                f"repeats: {self.repeats}, pairs: {self.pairs}, wanted at least 1 of each"
            )
        for key, folder in (("real", self.real), ("synthetic", self.synthetic)):
            if not folder:
                raise MedpairError(f"--{key}: none, wanted a pair set; give its folder")
        check_card(self.card)
        judged = read_judged(self.real, self.synthetic, self.joints)
        opened = self._open(judged)
        parts = self._parts(judged, opened)
        report: dict[str, Any] = {
            "format": FORMAT,
            "settings": self._settings(judged, opened),
            "problems": list(judged.problems),
            "n": _numbers(judged),
        }
        for done, (name, part) in enumerate(parts.items()):
            (progress or silent)("judge", done, len(parts))
            report[name] = judge_parts.guarded(part)
        (progress or silent)("judge", len(parts), len(parts))
        write_json(Path(self.output_dir) / "judge.json", report)
        update_card("judge", self.output_dir, self.real, [self.synthetic], self.card)
        return report

    def _parts(self, judged: Judged, opened: Opened) -> dict[str, Callable[[], object]]:
        """Return what is computed, in the order of the report."""
        draws = Draws(self.repeats, self.pairs, self.seed)
        if judged.synthetic is None or judged.real is None:
            lacking = "synthetic" if judged.synthetic is None else "real"
            reason = not_computed(f"N=0 {lacking} pairs can be read")
            return dict.fromkeys(judge_parts.NAMES, lambda: reason)
        return {
            "fidelity": lambda: judge_parts.fidelity(judged, opened.extractors, draws),
            "diversity": lambda: judge_parts.diversities(judged, opened.lpips, draws),
            "alignment": lambda: judge_parts.aligned(judged, opened.segment),
            "intensity": lambda: judge_parts.intensities(judged, draws),
            "consistency": lambda: judge_parts.consistencies(judged),
            "detail_ratio": lambda: judge_parts.sharpness(judged),
            "masks": lambda: judge_parts.masks(judged, draws),
            "paired": lambda: judge_parts.paired(judged, opened.lpips),
        }

    def _open(self, judged: Judged) -> Opened:
        named = {name: self.backbones[name] for name in self.backbones if name != "lpips"}
        others = open_backbones(named, self.device)
        lpips = open_lpips((self.backbones.get("lpips") or {}).get("weights"))
        found = self._segmenter(judged)
        own: dict[str, SliceExtractor | str] = {"radiomics": radiomics.SliceRadiomics()}
        if isinstance(found, str):
            return Opened(found, {"encoder": found, **own, **others}, lpips, found)
        segment, features, identity = found
        encoder = MapExtractor(features, f"encoder of {self.segmenter}, {self.preset}")
        return Opened(segment, {"encoder": encoder, **own, **others}, lpips, identity)

    def _segmenter(self, judged: Judged) -> tuple[Segment, Features, dict[str, Any]] | str:
        """Open the segmenter, or say why it cannot judge these pairs."""
        if self.segmenter is None:
            return NO_SEGMENTER
        path = weights_path(self.segmenter, self.preset, self.weights)
        card = read_card(path) if path.is_file() else {}
        schema = card.get("schema", judged.schema.name)
        if schema != judged.schema.name:
            return not_computed(
                f"the segmenter is for schema {schema}, the pairs are of {judged.schema.name}; "
                "train one on real scans and give its weights"
            )
        overrides = {
            "weights": str(path),
            "preset": self.preset,
            "schema": judged.schema.name,
            "num_classes": judged.schema.num_classes,
        } | {key: card[key] for key in ("architecture",) if key in card}
        workflow = open_workflow(self.segmenter, "inference", self.preset, overrides)
        trained_at = workflow.parser.get("spacing")
        if self.weights is None and trained_at is not None and not _same(trained_at, judged):
            mm, ours = ("x".join(f"{v:g}" for v in s) for s in (trained_at, judged.spacing))
            return not_computed(
                f"the segmenter was trained at {mm} mm, the pairs have {ours} mm; train one at "
                "that spacing and give its weights"
            )
        with plain_errors():
            segment, features = (
                workflow.parser.get_parsed_content(key) for key in ("segment", "features")
            )
        identity = {"bundle": self.segmenter, "preset": self.preset, "weights_sha256": sha256(path)}
        return segment, features, identity

    def _settings(self, judged: Judged, opened: Opened) -> dict[str, Any]:
        shape = judged.synthetic.images[0].shape if judged.synthetic else None
        return {
            "sets": judged.sets,
            "segmenter": opened.identity,
            "backbones": {
                name: _weights(self.backbones.get(name)) for name in (*BACKBONES, "lpips")
            },
            "ms_ssim": ms_ssim_note(shape) if shape else not_computed("N=0 synthetic pairs"),
            "precision_recall": {"k": NEIGHBOURS, "neighbours": "of other persons only"},
            "mmd_kernel": "Gaussian; bandwidth: median distance of the real set's samples",
            "radiomics": {
                "features": list(radiomics.FEATURES),
                "levels": radiomics.LEVELS,
                "fewest_pixels": radiomics.FEWEST_PIXELS,
                "unit": "deviation in the real reference",
            },
            "joints": self.joints,
            "repeats": self.repeats,
            "pairs": self.pairs,
            "seed": self.seed,
            "versions": versions("medpair", "torch", "monai", "numpy", "scipy", "scikit-image"),
        }


def _same(spacing: Sequence[float], judged: Judged) -> bool:
    return bool(np.allclose(np.array(spacing), np.array(judged.spacing), rtol=1e-3))


def _numbers(judged: Judged) -> dict[str, int]:
    sets = {
        "synthetic": judged.synthetic,
        "training": judged.training,
        "kept_back": judged.kept_back,
    }
    counts = {name: len(s.ids) if s else 0 for name, s in sets.items()}
    people = {f"{name}_persons": len(set(s.persons)) if s else 0 for name, s in sets.items()}
    return counts | people


def _weights(options: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return what a report says of a network's weights: name and hash of the file, or "hub"."""
    given = dict(options or {})
    weights = given.get("weights")
    if weights is None:
        return None
    path = Path(str(weights))
    return {**given, "weights": path.name} | ({"sha256": sha256(path)} if path.is_file() else {})
