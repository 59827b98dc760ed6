"""What a synthetic chest is made of: a patient's anatomy, and how much it dims the beam at each point of a film.

The frame is the patient's: ``x`` runs from -1 (the patient's right chest wall, on the left of the film) to 1, ``y``
from -1 (the lung apices) down to 1 (the bases). Depths add up as they do in the logarithm of an X-ray exposure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Plane: TypeAlias = NDArray[np.floating[Any]]  # float32 in fact; numpy's types do not keep track of it


@dataclass(frozen=True)
class Anatomy:
    """One synthetic patient: what stays the same on all of this patient's films. Lengths are in half chest widths."""

    sex: str
    age: int
    width: float
    height: float
    air: float
    body: float
    rib_spacing: float
    rib_drop: float
    rib_width: float
    rib_depth: float
    heart_width: float
    heart_y: float
    mediastinum: float
    dome: float
    liver: float
    clavicle_y: float
    clavicle_slope: float
    breast: float
    breast_y: float
    gastric_bubble: float
    vessels: float
    texture_seed: int


def draw_anatomy(rng: np.random.Generator) -> Anatomy:
    """A patient drawn at random: adult, of either sex, slim or broad."""
    sex = "F" if rng.random() < 0.5 else "M"
    uniform = rng.uniform
    return Anatomy(
        sex=sex,
        age=int(rng.integers(18, 90)),
        width=float(uniform(0.92, 1.06)),
        height=float(uniform(0.90, 1.08)),
        air=float(uniform(0.85, 1.15)),
        body=float(uniform(0.85, 1.15)),
        rib_spacing=float(uniform(0.185, 0.215)),
        rib_drop=float(uniform(0.22, 0.36)),
        rib_width=float(uniform(0.17, 0.22)),
        rib_depth=float(uniform(0.75, 1.2)),
        heart_width=float(uniform(0.42, 0.54)),
        heart_y=float(uniform(0.36, 0.46)),
        mediastinum=float(uniform(0.19, 0.25)),
        dome=float(uniform(0.20, 0.34)),
        liver=float(uniform(0.04, 0.12)),
        clavicle_y=float(uniform(-0.80, -0.70)),
        clavicle_slope=float(uniform(0.10, 0.30)),
        breast=float(uniform(0.25, 1.0) if sex == "F" else uniform(0.0, 0.25)),
        breast_y=float(uniform(0.35, 0.60)),
        gastric_bubble=float(max(0.0, uniform(-0.5, 1.0))),
        vessels=float(uniform(0.8, 1.2)),
        texture_seed=int(rng.integers(2**31)),
    )


def step(distance: Plane, softness: float) -> Plane:
    """0 to 1 across an edge: 0.5 where the signed ``distance`` is 0, over about ``softness`` to either side."""
    level: Plane = 0.5 + 0.5 * np.tanh(distance * np.float32(1 / softness))
    return level


def lung_depth(anatomy: Anatomy, x: Plane, y: Plane, heart: float, inspiration: float) -> Plane:
    """Air in front of each point, 0 to 1: both lungs, with the diaphragm domes, the heart's bed and the thin rims."""
    side = np.abs(x)
    above = np.clip((0.10 - y) / 1.12, 0, None)
    wall = (0.93 + 0.03 * y) * np.sqrt(np.clip(1 - above**2.6, 1e-4, None))
    inner = anatomy.mediastinum * (0.62 + 0.5 * np.square(y + 0.25))
    floor = diaphragm(anatomy, x, inspiration)
    room = np.minimum(np.minimum(wall - side, side - inner), np.minimum(floor - y, y + 1.01))
    bed = 1 - 0.75 * step(_heart(anatomy, x, y, heart, inspiration), 0.10)
    air: Plane = bed * np.tanh(np.clip(room + 0.006, 0, None) * 8.5) ** np.float32(0.8)
    return air


def diaphragm(anatomy: Anatomy, x: Plane, inspiration: float) -> Plane:
    """Height ``y`` of the diaphragm at each ``x``: two domes, the right one raised by the liver."""
    base = 0.98 + 0.16 * (inspiration - 0.5)
    across = (np.abs(x) - 0.36) / 0.60
    lift = anatomy.dome * (1 - np.clip(across, -1.2, 1.25) ** 2) + anatomy.liver * step(-x, 0.1)
    return (base - lift).astype(np.float32)


def bones(anatomy: Anatomy, x: Plane, y: Plane) -> Plane:
    """Depth of bone: ten pairs of ribs as tilted rings, each seen behind and in front, the clavicles and the spine."""
    side = np.abs(x)
    above = np.clip((0.10 - y) / 1.20, 0, None)
    across = side / ((0.97 + 0.03 * y) * np.sqrt(np.clip(1 - above**2.6, 0.02, None)))
    depth_of_ring = np.sqrt(np.clip(1 - np.square(across), 0, None))
    inside = step(1.0 - across, 0.02)
    tangent = 0.75 / (depth_of_ring + 0.35)
    behind = _ribs(anatomy, y - anatomy.rib_drop * (1 - depth_of_ring) + 0.14 * across * (1 - across), 1.0)
    front = _ribs(anatomy, y - anatomy.rib_drop * (1 + 1.25 * depth_of_ring), 1.25) * step(across - 0.42, 0.06)
    ribs = inside * tangent * (behind * step(across - 0.08, 0.05) + 0.55 * front)
    depth: Plane = anatomy.rib_depth * ribs + 1.2 * _clavicles(anatomy, x, y) + 0.55 * _spine(x, y)
    return depth


def _ribs(anatomy: Anatomy, level: Plane, width: float) -> Plane:
    phase = (level + 1.02) / np.float32(anatomy.rib_spacing)
    number = np.round(phase)
    off = np.abs(phase - number) / np.float32(width * anatomy.rib_width / 0.2 * 0.28)
    shell = step(1 - off, 0.22) * (0.62 + 0.38 * np.clip(off, 0, 1) ** 2)
    ribs: Plane = shell * ((number >= 0) & (number <= 9))
    return ribs


def _clavicles(anatomy: Anatomy, x: Plane, y: Plane) -> Plane:
    along = np.abs(x) - 0.13
    axis = anatomy.clavicle_y - anatomy.clavicle_slope * along - 0.035 * np.sin(5.2 * along)
    off = np.abs(y - axis) / np.float32(0.043)
    shaft = step(1 - off, 0.25) * (0.6 + 0.4 * np.clip(off, 0, 1) ** 2)
    return shaft * step(along, 0.02) * step(1.0 - along, 0.05)


def _spine(x: Plane, y: Plane) -> Plane:
    disc = np.cos((y + 0.05 * np.sin(2 * y)) * np.float32(2 * np.pi / 0.19))
    body = step(0.125 - np.abs(x), 0.03) * (0.8 + 0.2 * np.tanh(2.5 * disc + 1.2))
    process = np.exp(-np.square(x / 0.03)) * (0.5 + 0.5 * np.tanh(3 * disc))
    depth: Plane = body + 0.25 * process
    return depth


def soft_tissue(anatomy: Anatomy, x: Plane, y: Plane, heart: float, inspiration: float) -> Plane:
    """Depth of the body around the lungs: trunk, shoulders, neck, heart, great vessels, abdomen, breasts; 0 outside."""
    outline = 0.36 + 1.00 * step(y + 1.14 - 0.16 * np.abs(x), 0.10) - 0.22 * step(y + 0.35, 0.30)
    trunk = np.clip(1 - np.square(x / outline), 0, None) ** np.float32(0.42)
    scapula = 0.13 * step(np.abs(x) - 0.82 - 0.12 * y, 0.02) * step(0.32 - np.abs(y + 0.45), 0.12)
    inner = _middle(anatomy, x, y, heart, inspiration) + scapula + 0.30 * anatomy.breast * _breasts(anatomy, x, y)
    depth: Plane = trunk * (anatomy.body + inner)
    return depth


def _heart(anatomy: Anatomy, x: Plane, y: Plane, size: float, inspiration: float) -> Plane:
    lean = 0.55
    across = x - 0.15 * size
    down = y - anatomy.heart_y - 0.10 * (inspiration - 0.5)
    major = (across * math.cos(lean) + down * math.sin(lean)) / (anatomy.heart_width * size)
    minor = (down * math.cos(lean) - across * math.sin(lean)) / (0.36 * size)
    return 1 - np.square(major) - np.square(minor)


def _middle(anatomy: Anatomy, x: Plane, y: Plane, heart: float, inspiration: float) -> Plane:
    ball = 0.52 * np.clip(_heart(anatomy, x, y, heart, inspiration), 0, None) ** np.float32(0.35)
    knob = 0.36 * np.clip(1 - np.square((x - 0.19) / 0.12) - np.square((y + 0.34) / 0.15), 0, None) ** np.float32(0.5)
    column = 0.40 * step(anatomy.mediastinum * 0.9 - np.abs(x - 0.02), 0.05)
    bubble = anatomy.gastric_bubble * step(1 - np.hypot((x - 0.42) / 0.24, (y - 0.98) / 0.10), 0.15)
    belly = (0.55 - 0.35 * bubble) * step(y - diaphragm(anatomy, x, inspiration), 0.015)
    trachea = 0.20 * step(0.065 - np.abs(x + 0.015), 0.02) * step(-0.25 - y, 0.10)
    depth: Plane = np.cbrt(ball**3 + knob**3 + column**3 + belly**3) - trachea
    return depth


def _breasts(anatomy: Anatomy, x: Plane, y: Plane) -> Plane:
    down = (y - anatomy.breast_y) / 0.42
    round_ = np.square((np.abs(x) - 0.58) / 0.46) + np.square(np.where(down > 0, 1.5 * down, down))
    depth: Plane = np.clip(1 - round_, 0, None) ** np.float32(0.7)
    return depth
