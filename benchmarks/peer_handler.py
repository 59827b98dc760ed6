"""The services that the compared servers answer with, and TorchServe's entry to them.

This file is packed as a TorchServe handler by itself: one class, and nothing of `benchmarks` is imported.

``null``   a constant, for every film
``ours``   this product's service, with the engine of its archive
``eager``  what the well-known tutorials show: colour by Pillow, torchvision's transforms, eager float32, softmax
``map``    the same, with its class activation map as 224 x 224 numbers of JSON
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

CONSTANT: Final = b'{"label": "NORMAL", "probabilities": {"NORMAL": 0.9, "PNEUMONIA": 0.1}}'
SETTINGS: Final = "peer.json"
_CLASSES: Final = ("NORMAL", "PNEUMONIA")


def answerer(service: str, folder: Path) -> Callable[[bytes], bytes]:
    """A service named above, with the unpacked archive in a folder: from a film to the bytes of a JSON reply."""
    if service == "null":
        logging.getLogger().setLevel(logging.WARNING)  # as our handler does
        return lambda _: CONSTANT
    import torch

    torch.set_num_threads(1)
    return _ours(folder) if service == "ours" else _eager(folder, with_map=service == "map")


def _ours(folder: Path) -> Callable[[bytes], bytes]:
    from cxr.predict import Predictor
    from cxr.serving.reply import ModelIdentity
    from cxr.serving.service import BatchService, IncomingRequest

    predictor = Predictor.load(folder, "cpu")
    service = BatchService(predictor, ModelIdentity.of(predictor.spec, "pneumonia", "peer"))
    headers = {"Content-Type": "application/octet-stream"}
    return lambda film: service.answer([IncomingRequest({"body": film}, headers, "0")])[0].body


def _eager(folder: Path, *, with_map: bool) -> Callable[[bytes], bytes]:
    import torch
    from PIL import Image
    from torchvision.transforms.functional import to_tensor

    from cxr.model.network import build, load_strictly, read_state_dict
    from cxr.model.spec import ModelSpec

    spec = ModelSpec.load(folder)
    network = build(spec.arch, len(spec.classes))
    load_strictly(network, read_state_dict(folder / spec.weights_file))
    seen: list[torch.Tensor] = []
    if with_map:
        network.layer4.register_forward_hook(lambda *arguments: seen.append(arguments[2]))
    size = spec.preprocessing.size
    steps = tutorial_steps(size, spec.preprocessing.mean, spec.preprocessing.std)

    def answer(film: bytes) -> bytes:
        tensor = steps(Image.open(io.BytesIO(film)).convert("RGB"))
        with torch.no_grad():
            probabilities = torch.softmax(network(tensor[None]), dim=1)[0]
        best = int(probabilities.argmax())
        reply: dict[str, Any] = {"label": _CLASSES[best], "probabilities": probabilities.tolist()}
        if with_map:
            cells = torch.einsum("c,chw->hw", network.fc.weight[best].detach(), seen.pop()[0])
            cells = (cells - cells.min()) / (cells.max() - cells.min())
            picture = Image.fromarray((cells * 255).byte().numpy()).resize((size, size), Image.Resampling.BILINEAR)
            reply["cam"] = to_tensor(picture)[0].tolist()
        return json.dumps(reply).encode()

    return answer


def tutorial_steps(size: int, mean: Sequence[float], std: Sequence[float], *more: Any) -> Any:
    """The well-known tutorials' way from a picture to the network's input; `more` changes the resized picture."""
    from torchvision import transforms

    resize, normalise = transforms.Resize((size, size)), transforms.Normalize(mean, std)
    return transforms.Compose([resize, *more, transforms.ToTensor(), normalise])


class PeerHandler:
    """TorchServe's entry; peer.json beside this file names the service."""

    def initialize(self, context: Any) -> None:
        """Load the service."""
        folder = Path(context.system_properties["model_dir"])
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        self._answer = answerer(settings["service"], Path(settings["folder"]))

    def handle(self, rows: list[dict[str, Any]], context: Any) -> list[bytes]:
        """One reply for each film."""
        for index in range(len(rows)):
            context.set_response_content_type(index, "application/json")
        return [self._answer(bytes(row.get("body") or row.get("data") or b"")) for row in rows]
