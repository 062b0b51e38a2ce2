"""What all stages share: diffusion, data, files, metrics, the pipeline and the command."""

__version__ = "0.1.0"
