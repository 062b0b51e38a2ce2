"""Evaluation of one bundle on real scans."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from common.bundles import bundles_dir
from common.data.datasets import PairSet
from common.engines.handlers import report_iterations
from common.errors import MedpairError
from common.progress import Progress
from common.stages import judge_of, open_workflow, plain_errors, weights_path

NO_OVERLAY = ""


def evaluate(
    bundle: str,
    *,
    data: Path,
    out: Path,
    synthetic: Path | None = None,
    weights: Path | None = None,
    preset: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Run a bundle's evaluate config on real scans.

    Args:
        bundle: folder name in `bundles/`.
        data: pair set of real scans.
        out: gets the report.
        synthetic: generated pair set, for bundles that judge one.
        weights: folder that `train` wrote, for bundles that run their network; None takes the
            weights that ship.
        preset: whose weights; None takes the bundle's default.
        progress: called with (bundle, done, total) after each scan, where an evaluator runs.

    Returns:
        ``out``.

    Raises:
        MedpairError: for an unknown bundle, or an option that the bundle does not take.
    """
    config = bundles_dir() / bundle / "configs" / "evaluate.yaml"
    if not config.is_file():
        raise MedpairError(f"bundle {bundle!r} has no configs/evaluate.yaml; choose another bundle")
    keys = ConfigParser.load_config_file(str(config))
    if ("synthetic_dir" in keys) != (synthetic is not None):
        repair = "give --synthetic DIR" if synthetic is None else "leave it out"
        judged = "a generated pair set" if synthetic is None else "its own network"
        raise MedpairError(f"--synthetic: {synthetic}; {bundle} judges {judged}; {repair}")
    overrides: dict[str, Any] = {"dataset_dir": str(PairSet.open(data).dir.absolute())}
    overrides["output_dir"] = str(Path(out).absolute())
    if synthetic is not None:
        overrides["synthetic_dir"] = str(PairSet.open(synthetic).dir.absolute())
    chosen = preset or str(keys.get("preset", ""))
    if "weights" in keys:
        overrides["weights"] = str(weights_path(bundle, chosen, weights))
    if "segmenter" in keys:
        overrides |= judge_of(chosen, weights)
    with plain_errors():
        # an overlay changes the network, which not every evaluation has
        overlay = chosen if "network_def" in keys else NO_OVERLAY
        workflow = open_workflow(bundle, "evaluate", overlay, overrides)
        if progress is not None and "evaluator" in keys:
            report_iterations(workflow.parser.get_parsed_content("evaluator"), bundle, progress)
        workflow.run()
    return Path(out)
