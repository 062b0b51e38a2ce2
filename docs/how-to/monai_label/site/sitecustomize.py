"""Python runs this at its start: torchvision imports beside a CPU build of torch, too.

The published torchvision is built with CUDA; on import it names two operators that only its
compiled part declares, which a CPU torch does not load. MONAI Label uses neither.
"""

import sys

try:
    import torchvision  # noqa: F401
except RuntimeError:
    import torch

    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    declared = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        declared.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
except ImportError:
    pass  # while the environment is made there is none
