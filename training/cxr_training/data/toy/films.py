"""Synthetic frontal chest films, NORMAL or PNEUMONIA, for trying PneumoScan out where there are no real ones."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from cxr_training.data.toy.anatomy import Anatomy, Plane, bones, draw_anatomy, lung_depth, soft_tissue, step

__all__ = ["Anatomy", "ToyFilm", "draw_anatomy", "draw_film"]

Box = tuple[int, int, int, int]

VEIL = 0.35  # share of an opacity's mean density that the smooth shadow in its NORMAL twin has


@dataclass(frozen=True)
class ToyFilm:
    """A drawn film.

    Parameters
    ----------
    pixels
        float32 (H, W) in 0-1, dense parts white.
    boxes
        One (x, y, w, h) in pixels for each opacity; none in a NORMAL film.
    view
        PA or AP.
    """

    pixels: Plane
    boxes: tuple[Box, ...]
    view: str


@dataclass(frozen=True)
class _Pose:
    """How the patient stood: film pixels per half chest width, the chest's centre, turn, breath and heart's size."""

    unit_x: float
    unit_y: float
    centre_x: float
    centre_y: float
    turn: float
    inspiration: float
    heart: float

    def chest(self, rows: int, columns: int, stride: int) -> tuple[Plane, Plane]:
        """Patient coordinates ``x`` and ``y`` of every ``stride``-th pixel, two planes of ceil(H/s) by ceil(W/s)."""
        offset = (stride - 1) / 2
        across = np.arange(0, columns, stride, dtype=np.float32)[None, :] + offset - self.centre_x
        down = np.arange(0, rows, stride, dtype=np.float32)[:, None] + offset - self.centre_y
        cos, sin = math.cos(self.turn), math.sin(self.turn)
        x = (across * cos + down * sin) / self.unit_x
        y = (down * cos - across * sin) / self.unit_y
        return x.astype(np.float32), y.astype(np.float32)

    def same_side(self, row: int, column: int, where: tuple[slice, slice]) -> NDArray[np.bool_]:
        """Which pixels of a region lie on the same side of the patient's midline as one pixel of it."""
        down, across = np.ogrid[where]
        x = (across - self.centre_x) * math.cos(self.turn) + (down - self.centre_y) * math.sin(self.turn)
        return np.asarray(x * x[row - where[0].start, column - where[1].start] > 0)

    def film(self, points: np.ndarray) -> np.ndarray:
        """Pixel positions of patient coordinates, both (N, 2) as (x, y)."""
        across, down = points[:, 0] * self.unit_x, points[:, 1] * self.unit_y
        cos, sin = math.cos(self.turn), math.sin(self.turn)
        return np.stack([across * cos - down * sin + self.centre_x, across * sin + down * cos + self.centre_y], axis=1)


def draw_film(rng: np.random.Generator, anatomy: Anatomy, label: str, size: tuple[int, int]) -> ToyFilm:
    """A film of one patient, posed, exposed and (for PNEUMONIA) with one to three patchy opacities in the lungs.

    Two generators in the same state give twins: NORMAL and PNEUMONIA alike but for what the opacities cover. Where a
    PNEUMONIA film has an opacity, its NORMAL twin has a faint smooth shadow, so that brightness alone tells little.

    Parameters
    ----------
    size
        Height and width in pixels, 64 or more.

    Raises
    ------
    ValueError
        If the label is neither NORMAL nor PNEUMONIA.
    """
    if label not in ("NORMAL", "PNEUMONIA"):
        raise ValueError(f"label must be NORMAL or PNEUMONIA, not {label!r}")
    pose_rng, lesion_rng, grain_rng = rng.spawn(3)
    view = "PA" if pose_rng.random() < 0.65 else "AP"
    pose = _draw_pose(pose_rng, anatomy, view, size)
    x, y = pose.chest(*size, stride=2)
    coarse_air = lung_depth(anatomy, x, y, pose.heart, pose.inspiration)
    body = soft_tissue(anatomy, x, y, pose.heart, pose.inspiration)
    depth: Plane = body + 0.20 * np.minimum(body * 4, 1) * bones(anatomy, x, y)
    depth -= pose_rng.uniform(0.56, 0.66) * anatomy.air * coarse_air
    air = np.clip(_enlarge(coarse_air, size), 0, 1)
    inside, depth = _enlarge(np.minimum(body * 8, 1), size), _enlarge(depth, size)
    depth += 0.16 * anatomy.vessels * air * _vessels(anatomy, pose, size)
    depth += air * 0.05 * _shading(pose_rng, size) + 0.05 * inside * _shading(pose_rng, size)
    boxes = []
    for opacity_rng in lesion_rng.spawn(int(lesion_rng.choice([1, 2, 3], p=[0.25, 0.45, 0.3]))):
        patch, box, where = _opacity(opacity_rng, air, pose, label)
        depth[where] += patch
        boxes.append(box)
    pixels = _expose(pose_rng, grain_rng, depth, inside)
    return ToyFilm(pixels, tuple(boxes) if label == "PNEUMONIA" else (), view)


def _draw_pose(rng: np.random.Generator, anatomy: Anatomy, view: str, size: tuple[int, int]) -> _Pose:
    rows, columns = size
    unit = 0.42 * min(rows * 1.02, columns) * rng.uniform(0.93, 1.03)
    return _Pose(
        unit_x=unit * anatomy.width,
        unit_y=unit * anatomy.height * 1.02,
        centre_x=columns * (0.5 + rng.uniform(-0.03, 0.03)),
        centre_y=rows * (0.5 + rng.uniform(-0.04, 0.03)),
        turn=float(np.deg2rad(rng.normal(0, 1.8))),
        inspiration=rng.uniform(0.0, 1.0) if view == "PA" else rng.uniform(-0.4, 0.5),
        heart=1.0 if view == "PA" else 1.12,
    )


def _enlarge(plane: Plane, size: tuple[int, int]) -> Plane:
    rows, columns = 2 * plane.shape[0], 2 * plane.shape[1]
    large = Image.fromarray(plane.astype(np.float32)).resize((columns, rows), Image.Resampling.BICUBIC)
    return np.array(large)[: size[0], : size[1]]


def _noise(rng: np.random.Generator, size: tuple[int, int], grain: float) -> Plane:
    """Smooth noise of about unit variance whose bumps are about ``grain`` pixels apart."""
    rows, columns = (max(4, round(length / grain) + 1) for length in size)
    bumps = Image.fromarray(rng.standard_normal((rows, columns), dtype=np.float32))
    return np.asarray(bumps.resize((size[1], size[0]), Image.Resampling.BICUBIC)) * np.float32(1.3)


def _shading(rng: np.random.Generator, size: tuple[int, int]) -> Plane:
    return 0.7 * _noise(rng, size, max(size) / 3) + 0.5 * _noise(rng, size, max(size) / 8)


def _vessels(anatomy: Anatomy, pose: _Pose, size: tuple[int, int]) -> Plane:
    """Branching lung markings from both hila, thinning outwards, (H, W) about 0-1; the same tree on every film."""
    rng = np.random.default_rng(anatomy.texture_seed)
    canvas = Image.new("L", (size[1], size[0]))
    brush = ImageDraw.Draw(canvas)
    unit = pose.unit_x
    for side in (-1.0, 1.0):
        starts = np.tile([[side * 0.24, 0.02]], (9, 1)) + rng.normal(0, [0.03, 0.09], (9, 2))
        angles = np.linspace(-1.45, 1.35, 9) + rng.normal(0, 0.08, 9)
        length, width = 0.19, 0.034
        for _ in range(5):
            heading = np.stack([side * np.cos(angles), np.sin(angles)], axis=1)
            ends = starts + heading * (length * rng.uniform(0.7, 1.3, len(starts)))[:, None]
            tone = int(np.clip(255 * width / 0.034, 60, 230))
            for begin, end in zip(pose.film(starts), pose.film(ends), strict=True):
                brush.line([*begin, *end], fill=tone, width=max(1, round(width * unit)))
            starts = np.repeat(ends, 2, axis=0)
            angles = np.repeat(angles, 2) + np.tile([-0.30, 0.30], len(ends)) + rng.normal(0, 0.16, 2 * len(ends))
            length, width = length * 0.86, width * 0.66
    lines = np.asarray(canvas, dtype=np.float32) / 255
    sharp = ndimage.gaussian_filter(lines, unit * 0.006)
    return sharp + 0.5 * _enlarge(ndimage.gaussian_filter(sharp[::2, ::2], unit * 0.015, truncate=3), size)


def _opacity(rng: np.random.Generator, air: Plane, pose: _Pose, label: str) -> tuple[Plane, Box, tuple[slice, slice]]:
    """Depth that one opacity adds, its box and where to add it; for NORMAL the faint smooth shadow in its place."""
    inner = np.flatnonzero(air[::4, ::4] > 0.85)
    row, column = (4 * int(i) for i in np.unravel_index(inner[rng.integers(len(inner))], air[::4, ::4].shape))
    unit = pose.unit_x
    radius = unit * rng.uniform(0.29, 0.46)
    reach = int(2 * radius)
    top, left = max(0, row - reach), max(0, column - reach)
    where = slice(top, min(row + reach, air.shape[0])), slice(left, min(column + reach, air.shape[1]))
    bed = air[where] * pose.same_side(row, column, where)
    down = (np.arange(bed.shape[0], dtype=np.float32) + top - row)[:, None] / radius
    across = (np.arange(bed.shape[1], dtype=np.float32) + left - column)[None, :] / radius
    squeeze, turn = rng.uniform(0.75, 1.3), rng.uniform(0, np.pi)
    u = (across * math.cos(turn) + down * math.sin(turn)) * squeeze
    v = (down * math.cos(turn) - across * math.sin(turn)) / squeeze
    away = np.hypot(u, v)
    extent = step(1 - away + 0.28 * _noise(rng, bed.shape, radius * 0.55), 0.35) * np.sqrt(bed)
    extent *= step(1.8 - away, 0.05)
    fluff = _noise(rng, bed.shape, unit * 0.055) + 0.4 * _noise(rng, bed.shape, unit * 0.027)
    patches = np.clip(0.5 + 0.68 * fluff, 0, 1.6)
    bronchi = np.exp(-np.square(_noise(rng, bed.shape, unit * 0.11) / 0.13))
    patch = rng.uniform(0.50, 0.64) * extent * (0.1 + 1.1 * patches) * (1 - 0.35 * bronchi)
    if label == "NORMAL":
        shadow = step(1 - away, 0.45) * bed
        patch = shadow * np.float32(VEIL * patch.sum() / shadow.sum())
    rows, columns = np.nonzero(extent > 0.15)
    x, y = int(columns.min()), int(rows.min())
    box = (left + x, top + y, int(columns.max()) - x + 1, int(rows.max()) - y + 1)
    return patch, box, where


def _expose(rng: np.random.Generator, grain_rng: np.random.Generator, depth: Plane, inside: Plane) -> Plane:
    """The film (H, W) in 0-1 that a depth gives: tone curve, contrast and brightness of the day, blur and grain."""
    curve, low, span = rng.uniform(1.1, 1.4), rng.uniform(0.0, 0.08), rng.uniform(0.85, 0.95)
    tones = low * inside + span * (1 - np.exp(-1.3 * np.clip(depth, 0, None) ** np.float32(curve)))
    tones = ndimage.gaussian_filter(tones, max(depth.shape) / 900)
    grain = rng.uniform(0.006, 0.013) * grain_rng.standard_normal(depth.shape, dtype=np.float32)
    film: Plane = np.clip(tones + grain, 0, 1).astype(np.float32)
    return film
