"""The answer to a film, read from the server's reply once."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from cxr.serving.regions import Points, Region, find_regions
from cxr_client import ClientError, Decision
from pneumoscan.dicom.source import Model, Source

RGB = npt.NDArray[np.uint8]

# What has to be asked for: the overlay of the map that is above zero for the positive classes whatever the label is.
MAP_FORM: Final = "overlay"
MAP_TARGET: Final = "contrast"


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one film.

    Parameters
    ----------
    probabilities
        By class, with the digits of the reply.
    decided
        The classes whose probability decides, that probability, and whether it reached the threshold.
    regions
        On the film as the map lies over it, upright; none where the film is not called positive.
    width, height
        Pixels of that film.
    turned
        Whether the film as stored lies on its side, stands on its head or is mirrored.
    flags
        What the server found worth knowing of the film.
    """

    model: Model
    label: str
    probabilities: Mapping[str, float]
    decided: Decision
    operating_point: str
    threshold: float
    indeterminate: bool
    regions: tuple[Region, ...]
    width: int
    height: int
    turned: bool
    flags: tuple[str, ...]

    @property
    def probability(self) -> float:
        """That which decides: of pneumonia."""
        return self.decided.probability

    @property
    def is_positive(self) -> bool:
        """Whether pneumonia is said."""
        return self.decided.is_positive

    def stored_regions(self, source: Source) -> list[Region]:
        """The regions on the film as it is stored."""
        if not self.turned:
            return list(self.regions)
        return [
            region.moved(as_stored(region.points, source.directions, self.width, self.height))
            for region in self.regions
        ]


def read_answer(reply: Mapping[str, Any], source: Source) -> tuple[Answer, RGB]:
    """The answer in a reply to what has to be asked for, and its overlay.

    Returns
    -------
    The overlay is (H, W, 3): film and map at display size, the colour bar on the right.

    Raises
    ------
    ClientError
        The reply lacks something, or is about a film of another size.
    """
    try:
        model, decision, image, cam = reply["model"], reply["decision"], reply["image"], reply["cam"]
        label = str(reply["label"])
        flags = tuple(map(str, image["flags"]))
        decided = Decision.of(reply)
        width, height = int(image["width"]), int(image["height"])
        picture = Image.open(io.BytesIO(base64.b64decode(cam["png"], validate=True)))
        answer = Answer(
            model=Model(*(str(model[name]) for name in ("name", "version", "arch", "weights_sha256"))),
            label=label,
            probabilities={str(name): float(value) for name, value in reply["probabilities"].items()},
            decided=decided,
            operating_point=str(decision["operating_point"]),
            threshold=float(decision["threshold"]),
            indeterminate=bool(decision["indeterminate"]),
            regions=tuple(find_regions(cam["grid"], width, height)) if decided.is_positive else (),
            width=width,
            height=height,
            turned="turned" in flags,
            flags=flags,
        )
        overlay = np.asarray(picture.convert("RGB"))
        has_probability = 0.0 <= answer.probability <= 1.0
    except (KeyError, TypeError, ValueError, OSError) as error:  # OSError: no picture
        raise ClientError("the reply lacks what a result needs: is the server one of PneumoScan's?") from error
    if not has_probability:
        raise ClientError("the reply's probability is not between 0 and 1")
    _check_place(answer, source)
    return answer, overlay


def _check_place(answer: Answer, source: Source) -> None:
    """Refuse an answer whose regions would lie elsewhere on the stored film."""
    along = source.directions
    if answer.turned and sorted("LR" if one in ("L", "R") else one and "HF" for one in along) != ["HF", "LR"]:
        raise ClientError("the server turned the film and its tags do not say how")
    size = (answer.width, answer.height)
    if answer.turned and along[0] in ("H", "F"):
        size = size[::-1]
    if size != (source.header.get("Columns"), source.header.get("Rows")):
        raise ClientError("the reply is about a film of another size than the file's tags say")


def as_stored(points: Points, directions: tuple[str, str], width: int, height: int) -> Points:
    """Points on an upright film where they lie on the film as it is stored.

    Parameters
    ----------
    directions
        Where rows and columns of the stored film run to: one of L and R, one of H and F, in either order.
    width, height
        Pixels of the upright film, whose rows run to the patient's left and whose columns to the feet.
    """
    along = {
        "L": points[:, 0],
        "R": width - points[:, 0],
        "F": points[:, 1],
        "H": height - points[:, 1],
    }
    return np.stack([along[direction] for direction in directions], axis=1)
