"""What MLflow keeps of a training: losses, validation, pictures, the resolved config."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from ignite.engine import Engine, Events
from monai.handlers import MLFlowHandler

from common.engines.handlers import scalar_losses

EVERY = 50


class Tracking(MLFlowHandler):
    """MONAI's MLflow handler with the names of our losses, validations and pictures.

    The store is a local SQLite file; the variable MLFLOW_TRACKING_URI names another one.

    Args:
        output_dir: gets ``mlruns.db`` and ``mlruns``; its ``val_log.jsonl`` and ``samples`` are
            logged.
        experiment: MLflow experiment name.
        config_dir: where ``monai.bundle run --tracking`` writes the resolved config; None is
            ``output_dir``.
    """

    def __init__(self, output_dir: str, experiment: str, config_dir: str | None = None) -> None:
        self.folder = Path(output_dir).absolute()
        self.config_dir = Path(config_dir).absolute() if config_dir else self.folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.validations = 0
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # it tells its set-up
        super().__init__(
            tracking_uri=f"sqlite:///{self.folder / 'mlruns.db'}",
            experiment_name=experiment,
            output_transform=scalar_losses,
            iteration_log=_every_fifty,
            epoch_log=True,
            close_on_complete=True,
        )

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        super().attach(engine)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._log_validations)

    def complete(self) -> None:
        """Log what is left of the validations, the pictures and the resolved config."""
        self._log_validations()
        configs = sorted(self.config_dir.glob("config_*.json"))
        pictures = sorted((self.folder / "samples").glob("*.png"))
        self.artifacts = [str(path) for path in (*configs[-1:], *pictures)]
        super().complete()

    def _log_validations(self) -> None:
        path = self.folder / "val_log.jsonl"
        if self.cur_run is None or not path.is_file():
            return
        lines = path.read_text(encoding="utf-8").splitlines()
        for line in lines[self.validations :]:
            measured = json.loads(line)
            self._log_metrics(measured, step=measured.pop("iteration"))
        self.validations = len(lines)


def _every_fifty(_engine: Engine, iteration: int) -> bool:
    return iteration % EVERY == 0
