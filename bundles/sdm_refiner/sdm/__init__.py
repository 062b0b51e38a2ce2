"""Semantic diffusion of slices in three views: the refiner of MedGen3D."""
