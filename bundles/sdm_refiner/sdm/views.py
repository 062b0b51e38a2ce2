"""Networks for slices of three views: one network each, or one for all.

N slices, C image channels, K classes, L mask slices in the window, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import MedpairError
from common.networks.single import LAST_STEP, SingleInput, label_volumes
from sdm.monai_network import MonaiSemanticDenoiser
from sdm.network import Modulations, SemanticDenoiser
from sdm.slices import ViewSlices, one_hot_windows

VIEWS = ("axial", "coronal", "sagittal")
NETWORKS: dict[str, type[SemanticDenoiser | MonaiSemanticDenoiser]] = {
    "own": SemanticDenoiser,
    "monai": MonaiSemanticDenoiser,
}


class ViewDenoisers(SingleInput):
    """Semantic denoisers of the three views.

    Args:
        num_classes: K, labels and background.
        views: "separate" (paper), a network per view, or "shared", one network with a view
            embedding: a third of the weights and of the training.
        image_channels: C.
        mask_context: mask slices on each side of the slice that the network sees (paper: 0).
        learned_sigma: the networks put out variance logits too.
        network: "own", `SemanticDenoiser`, or "monai", `MonaiSemanticDenoiser`.
        **options: further arguments of that.

    Raises:
        MedpairError: for another value of views or network.

    Source: MedGen3D §3.2 (three models, one per view).
    """

    def __init__(
        self,
        num_classes: int,
        views: str = "separate",
        image_channels: int = 1,
        mask_context: int = 0,
        learned_sigma: bool = False,
        network: str = "own",
        **options: Any,
    ) -> None:
        super().__init__()
        if views not in ("separate", "shared"):
            raise MedpairError(f"views is {views!r}; want 'separate' or 'shared' in network_def")
        if network not in NETWORKS:
            raise MedpairError(f"network is {network!r}; want {' or '.join(NETWORKS)}")
        self.num_classes, self.image_channels = num_classes, image_channels
        self.mask_context, self.learned_sigma = mask_context, learned_sigma
        self.mask_channels = (2 * mask_context + 1) * num_classes
        shared = views == "shared"
        names = ("shared",) if shared else VIEWS
        self.networks = nn.ModuleDict(
            {
                name: NETWORKS[network](
                    self.mask_channels,
                    image_channels,
                    views=len(VIEWS) if shared else 1,
                    learned_sigma=learned_sigma,
                    **options,
                )
                for name in names
            }
        )

    @property
    def stride(self) -> int:
        """Height and width of slices are multiples of it."""
        network, _ = self._of(VIEWS[0])
        return network.stride

    def one_hot(self, label_NLHW: Tensor) -> Tensor:
        """Return the network's form (N, L * K, H, W), float32, of label windows 0..K-1."""
        mask = one_hot_windows(label_NLHW, self.num_classes)
        return mask.contiguous(memory_format=torch.channels_last)

    def modulations(self, mask_NMHW: Tensor, view: str) -> Modulations:
        """Return the modulations of one-hot masks, see `SemanticDenoiser.modulations`."""
        network, _ = self._of(view)
        return network.modulations(mask_NMHW)

    def denoise(
        self,
        x_NCHW: Tensor,
        timesteps_N: Tensor,
        modulations: Modulations,
        position_N2: Tensor,
        view: str,
    ) -> Tensor:
        """Return the prediction for slices of a view, see `SemanticDenoiser.forward`."""
        network, number = self._of(view)
        prediction: Tensor = network(x_NCHW, timesteps_N, modulations, position_N2, number)
        return prediction

    def single(self, image: Tensor) -> Tensor:
        """Return the mean images (B, C, D, H, W) of masks (B, 1, D, H, W), by axial slices.

        At the noisiest step v is -x_0, so this holds for networks that predict v.
        """
        label = label_volumes(image, self.num_classes)
        slices = ViewSlices(0, *label.shape[:2])
        every = torch.arange(slices.volumes * slices.n)
        mask = self.one_hot(slices.labels(label, every, self.mask_context))
        x = torch.zeros(len(mask), self.image_channels, *label.shape[2:], device=image.device)
        t = torch.full((len(mask),), LAST_STEP, device=image.device)
        v = self(x, t, mask, slices.positions(every).to(image.device), VIEWS[0])
        return -slices.put([v[:, : self.image_channels]])

    def forward(
        self,
        x_NCHW: Tensor,
        timesteps_N: Tensor | None = None,
        mask_NMHW: Tensor | None = None,
        position_N2: Tensor | None = None,
        view: str = VIEWS[0],
    ) -> Tensor:
        """Return the prediction for slices of a view under one-hot masks (all-zero: no mask).

        For the first tensor alone: see `single`.
        """
        if timesteps_N is None or mask_NMHW is None or position_N2 is None:
            return self.single(x_NCHW)
        maps = self.modulations(mask_NMHW, view)
        return self.denoise(x_NCHW, timesteps_N, maps, position_N2, view)

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **options: Any) -> Any:
        """Load weights; as `torch.nn.Module.load_state_dict`, with a plain error for a lost view.

        Raises:
            MedpairError: if a view has no weights at all.
        """
        for name in self.networks:
            if not any(key.startswith(f"networks.{name}.") for key in state_dict):
                raise MedpairError(
                    f"no weights of view {name!r}; train it too, or set views to what they are"
                )
        return super().load_state_dict(state_dict, *args, **options)

    def _of(self, view: str) -> tuple[SemanticDenoiser | MonaiSemanticDenoiser, int]:
        if view not in VIEWS:
            raise MedpairError(f"view {view!r} is unknown; want one of {', '.join(VIEWS)}")
        shared = "shared" in self.networks
        network = self.networks["shared" if shared else view]
        assert isinstance(network, SemanticDenoiser | MonaiSemanticDenoiser)
        return network, VIEWS.index(view) if shared else 0
