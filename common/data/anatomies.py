"""The anatomy of the phantoms: organs as shapes in a box whose sides run from -1 to 1.

x runs from left to right, y from posterior to anterior, z from inferior to superior. Shapes are
painted in order, later ones over earlier ones.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from common.data.labels import LabelSchema

Point = tuple[float, float, float]
Rng = np.random.Generator


@dataclass(frozen=True)
class Space:
    """Warped coordinates of all voxels, float32 (R, A, S), and the largest voxel width."""

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    voxel: float

    def ellipsoid(self, centre: Point, radii: Point) -> np.ndarray:
        """Distance from a centre in units of the radii: below 1 is inside; never under a voxel."""
        rx, ry, rz = (max(r, 0.75 * self.voxel) for r in radii)
        cx, cy, cz = centre
        return np.sqrt(
            ((self.x - cx) / rx) ** 2 + ((self.y - cy) / ry) ** 2 + ((self.z - cz) / rz) ** 2
        )

    def tube(self, start: Point, end: Point, radius: float) -> np.ndarray:
        """Whether a voxel lies in a straight tube; it is at least two voxels thick."""
        radius = max(radius, self.voxel)
        first, axis = np.array(start), np.array(end) - np.array(start)
        steps = list(zip((self.x, self.y, self.z), first.tolist(), axis.tolist(), strict=True))
        along = sum(((c - f) * a for c, f, a in steps), np.zeros_like(self.x))
        t = np.clip(along / float(axis @ axis), 0.0, 1.0)
        distance2 = sum(((c - (f + a * t)) ** 2 for c, f, a in steps), np.zeros_like(self.x))
        return np.asarray(distance2 < radius**2)


@dataclass
class Canvas:
    """A mask and the noiseless tissue values that go with it, painted together."""

    label: np.ndarray
    value: np.ndarray

    def paint(
        self, where: np.ndarray, identity: int, value: float, over: np.ndarray | None = None
    ) -> None:
        """Set label and tissue value; `over` restricts it to some voxels."""
        where = where if over is None else where & over
        self.label[where], self.value[where] = identity, value


def wave(rng: Rng, x: np.ndarray, y: np.ndarray, z: np.ndarray, frequency: float) -> np.ndarray:
    """A smooth random field of about unit height; the same at every resolution.

    Args:
        rng: draws directions and phases.
        x: coordinates, left to right; the three may have any shapes that broadcast together.
        y: coordinates, posterior to anterior.
        z: coordinates, inferior to superior.
        frequency: about the number of bumps along half the box.
    """
    total = np.zeros(np.broadcast_shapes(x.shape, y.shape, z.shape), dtype=np.float32)
    for _ in range(4):
        k = (rng.uniform(0.5, 1.0, 3) * np.pi * frequency).astype(np.float32)
        phase = rng.uniform(0, 2 * np.pi, 3).astype(np.float32)
        total += (
            np.cos(k[0] * x + phase[0]) * np.cos(k[1] * y + phase[1]) * np.cos(k[2] * z + phase[2])
        )
    return total / np.float32(1.5)


def _near(rng: Rng, value: float, share: float = 0.08) -> float:
    return float(value * rng.uniform(1 - share, 1 + share))


def _pair(rng: Rng, centre: Point, radii: Point) -> list[tuple[Point, Point]]:
    """Two mirror organs, (left, right), each a little different."""
    places = []
    for side in (-1, 1):
        size = (_near(rng, radii[0]), _near(rng, radii[1]), _near(rng, radii[2]))
        places.append(((side * _near(rng, centre[0]), centre[1], centre[2]), size))
    return places


def brain(space: Space, canvas: Canvas, schema: LabelSchema, rng: Rng) -> None:
    """Folded cortex around white matter, deep nuclei, ventricles, cerebellum and brain stem."""
    cortex, nuclei, white, csf, outer = (
        schema.id_of(n) for n in ("cortex", "subcortical_gm", "white_matter", "csf", "brain")
    )
    radii = (_near(rng, 0.82, 0.05), _near(rng, 0.88, 0.05), _near(rng, 0.72, 0.05))
    r = space.ellipsoid((0.0, 0.0, 0.12), radii)
    folds = wave(rng, space.x, space.y, space.z, 4.0)
    canvas.paint(r < 1.0, outer, 0.34)
    canvas.paint(r < 0.97 + 0.03 * np.minimum(folds, 0), cortex, 0.62)
    canvas.paint(r < 0.76 + 0.07 * folds, white, 0.84)
    fissure = (np.abs(space.x) < max(0.02, 0.5 * space.voxel)) & (space.z > 0.3) & (r < 1.0)
    canvas.paint((np.abs(space.x) < 0.12) & (space.z > 0.3) & (r < 0.9), cortex, 0.62)
    canvas.paint(fissure & (r > 0.7), outer, 0.34)
    _hindbrain(space, canvas, rng, (cortex, white, outer))
    inner = r < 0.62
    for centre, size in _pair(rng, (0.3, 0.08, 0.08), (0.09, 0.26, 0.16)):
        canvas.paint(space.ellipsoid(centre, size) < 1, nuclei, 0.72, inner)
    for centre, size in _pair(rng, (0.15, -0.12, 0.06), (0.12, 0.2, 0.14)):
        canvas.paint(space.ellipsoid(centre, size) < 1, nuclei, 0.72, inner)
    width = float(rng.uniform(0.07, 0.13))
    for centre, size in _pair(rng, (0.13, -0.02, 0.27), (width, 0.38, 0.12)):
        canvas.paint(space.ellipsoid(centre, size) < 1, csf, 0.28, inner)
    canvas.paint(space.ellipsoid((0.0, -0.08, 0.08), (0.025, 0.14, 0.14)) < 1, csf, 0.28)


def _hindbrain(space: Space, canvas: Canvas, rng: Rng, ids: tuple[int, int, int]) -> None:
    cortex, white, outer = ids
    size = (_near(rng, 0.5), _near(rng, 0.3), _near(rng, 0.26))
    r = space.ellipsoid((0.0, -0.45, -0.55), size)
    canvas.paint((r < 1.08) & (canvas.label == 0), outer, 0.34)
    canvas.paint(r < 1.0, cortex, 0.6)
    canvas.paint(r < 0.55, white, 0.8)
    canvas.paint(space.tube((0.0, -0.1, -0.2), (0.0, -0.2, -0.85), 0.13), white, 0.82)


def thorax(space: Space, canvas: Canvas, schema: LabelSchema, rng: Rng) -> None:
    """Body, two lungs, heart to the left, cord in the spine, esophagus, trachea (values in HU)."""
    names = ("left_lung", "right_lung", "spinal_cord", "esophagus", "heart", "trachea", "body")
    left, right, cord, gullet, heart, airway, body = (schema.id_of(n) for n in names)
    trunk = _trunk(space, canvas, rng, body)
    centre_y = float(rng.uniform(-0.02, 0.06))
    for side, identity, share in ((-1, left, 0.93), (1, right, 1.0)):
        size = (share * _near(rng, 0.29, 0.05), _near(rng, 0.44, 0.05), _near(rng, 0.82, 0.05))
        lung = space.ellipsoid((0.46 * side, centre_y, 0.0), size) < 1
        canvas.paint(lung & (side * space.x > 0.1), identity, -840.0, trunk < 0.92)
    size = (_near(rng, 0.28), _near(rng, 0.25), _near(rng, 0.3))
    canvas.paint(space.ellipsoid((-0.1, 0.16, -0.28), size) < 1, heart, 45.0)
    canvas.paint(space.tube((0, -0.48, -1.3), (0, -0.5, 1.3), 0.13), body, 320.0, trunk < 0.95)
    canvas.paint(space.tube((0, -0.5, -1.3), (0, -0.52, 1.3), 0.04), cord, 35.0, trunk < 0.95)
    canvas.paint(space.tube((-0.04, -0.26, -1.3), (0.0, -0.22, 1.3), 0.04), gullet, 30.0)
    carina = float(rng.uniform(0.15, 0.3))
    canvas.paint(space.tube((0, -0.02, carina), (0, 0.06, 1.3), 0.065), airway, -970.0)


def _trunk(space: Space, canvas: Canvas, rng: Rng, body: int) -> np.ndarray:
    """Paint fat and muscle of a trunk that the scan cuts above and below; its radial coordinate."""
    radii = (_near(rng, 0.88, 0.05), _near(rng, 0.7, 0.05), 50.0)
    r = space.ellipsoid((0.0, 0.0, 0.0), radii)
    canvas.paint(r < 1.0, body, -90.0)
    canvas.paint(r < 0.92, body, 45.0)
    return r


def abdomen(space: Space, canvas: Canvas, schema: LabelSchema, rng: Rng) -> None:
    """Body, liver to the right, spleen to the left, two kidneys, pancreas across (values in HU)."""
    names = ("liver", "kidney", "spleen", "pancreas", "body")
    liver, kidney, spleen, pancreas, body = (schema.id_of(n) for n in names)
    inner = _trunk(space, canvas, rng, body) < 0.9
    canvas.paint(space.tube((0, -0.45, -1.3), (0, -0.45, 1.3), 0.13), body, 330.0, inner)
    size = (_near(rng, 0.42), _near(rng, 0.4), _near(rng, 0.5))
    canvas.paint(space.ellipsoid((0.36, 0.12, 0.38), size) < 1, liver, 105.0, inner)
    size = (_near(rng, 0.16), _near(rng, 0.2), _near(rng, 0.28))
    canvas.paint(space.ellipsoid((-0.56, -0.14, 0.42), size) < 1, spleen, 125.0, inner)
    for centre, size in _pair(rng, (0.36, -0.32, -0.22), (0.12, 0.13, 0.27)):
        canvas.paint(space.ellipsoid(centre, size) < 1, kidney, 175.0, inner)
    tail = (-0.36, float(rng.uniform(-0.05, 0.02)), float(rng.uniform(0.12, 0.2)))
    canvas.paint(
        space.tube((0.12, 0.12, -0.08), tail, 0.075), pancreas, 85.0, inner & (canvas.label == body)
    )


def tumour(space: Space, canvas: Canvas, schema: LabelSchema, rng: Rng) -> None:
    """A brain with one tumour: a necrotic core in an enhancing rim in oedema."""
    names = ("edema", "non_enhancing", "enhancing", "brain")
    edema, core, rim, outer = (schema.id_of(n) for n in names)
    inside = _plain_brain(space, canvas, rng, outer)
    side = int(rng.choice([-1, 1]))
    centre = (
        side * float(rng.uniform(0.3, 0.42)),
        float(rng.uniform(-0.3, 0.3)),
        float(rng.uniform(0, 0.3)),
    )
    radius = float(rng.uniform(0.28, 0.36))
    bumps = 1 + 0.12 * wave(rng, space.x, space.y, space.z, 3.0)
    r = space.ellipsoid(centre, (radius, radius, radius)) * bumps
    for limit, identity, value in ((1.0, edema, 0.85), (0.68, rim, 0.95), (0.42, core, 0.4)):
        canvas.paint(r < limit, identity, value, inside)


def _plain_brain(space: Space, canvas: Canvas, rng: Rng, outer: int) -> np.ndarray:
    r = space.ellipsoid(
        (0.0, 0.0, 0.0), (_near(rng, 0.8, 0.05), _near(rng, 0.88, 0.05), _near(rng, 0.75, 0.05))
    )
    canvas.paint(r < 1.0, outer, 0.6)
    canvas.paint(r < 0.8 + 0.06 * wave(rng, space.x, space.y, space.z, 4.0), outer, 0.48)
    for centre, size in _pair(rng, (0.13, 0.0, 0.12), (0.09, 0.36, 0.14)):
        canvas.paint(space.ellipsoid(centre, size) < 1, outer, 0.15)
    return r < 0.95


def lesions(space: Space, canvas: Canvas, schema: LabelSchema, rng: Rng) -> None:
    """A brain with three to eight bright lesions around the ventricles."""
    lesion, outer = schema.id_of("lesion"), schema.id_of("head")
    inside = _plain_brain(space, canvas, rng, outer)
    for _ in range(int(rng.integers(3, 9))):
        angle, side = rng.uniform(0, 2 * np.pi), int(rng.choice([-1, 1]))
        centre = (
            side * float(rng.uniform(0.2, 0.4)),
            0.45 * np.cos(angle),
            0.12 + 0.25 * np.sin(angle),
        )
        size = (
            float(rng.uniform(0.03, 0.08)),
            float(rng.uniform(0.04, 0.12)),
            float(rng.uniform(0.03, 0.08)),
        )
        canvas.paint(space.ellipsoid(centre, size) < 1, lesion, 0.92, inside)


def blobs(space: Space, canvas: Canvas, schema: LabelSchema, rng: Rng) -> None:
    """For schemas without an anatomy of their own: an ellipsoid per label around a ring."""
    low, high = (-150.0, 250.0) if schema.modality == "CT" else (0.25, 0.95)
    organs = [label.id for label in schema.labels if label.id != schema.container_id]
    if schema.container_id:
        canvas.paint(
            space.ellipsoid((0, 0, 0), (0.85, 0.85, 0.85)) < 1,
            schema.container_id,
            (low + high) / 2,
        )
    for turn, identity in enumerate(organs):
        angle = 2 * np.pi * turn / len(organs) + float(rng.uniform(-0.1, 0.1))
        width = min(0.25, 1.2 / len(organs))
        size = (_near(rng, width), _near(rng, 0.25), _near(rng, width))
        centre = (0.5 * np.cos(angle), 0.0, 0.5 * np.sin(angle))
        canvas.paint(
            space.ellipsoid(centre, size) < 1,
            identity,
            low + (high - low) * (turn + 1) / len(organs),
        )


Anatomy = Callable[[Space, Canvas, LabelSchema, Rng], None]
ANATOMIES: dict[str, Anatomy] = {
    "brain4": brain,
    "thorax7": thorax,
    "abdomen4": abdomen,
    "brats3": tumour,
    "lesion1": lesions,
}
