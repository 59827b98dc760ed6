"""The lines in which TorchServe 0.12 reads metrics from a worker's output.

`context.metrics` writes the same lines one by one through the logging module, each with a flush and a look-up of the
host's name; a batch of eight films has about fifty. Here a batch is one write.
"""

from __future__ import annotations

import re
import socket
import time
from typing import Final, TextIO

from cxr.measured import SERIES, Key, Measured

# TorchServe splits the labels at these; in a name they would shift one label into another.
_SEPARATORS: Final = re.compile(r"[,:|#\s]")


class MetricLines:
    """Writes what was measured for one model and version.

    Parameters
    ----------
    model_name, model_version
        Labels of every line.
    stream
        The worker's standard output, which TorchServe reads.
    """

    def __init__(self, model_name: str, model_version: str, stream: TextIO) -> None:
        name, version = (_SEPARATORS.sub("_", text) or "_" for text in (model_name, model_version))
        self._model = f"ModelName:{name},model_version:{version}"
        self._host = _SEPARATORS.sub("_", socket.gethostname()) or "_"
        self._stream = stream

    def write(self, measured: Measured) -> None:
        """Write all of it in one piece. Never raises: a lost figure must not cost a batch its answers."""
        try:
            self._stream.write(self.text(measured, int(time.time())))
            self._stream.flush()
        except (OSError, ValueError):  # TorchServe closed the pipe, and is about to replace the worker
            return

    def text(self, measured: Measured, now: int) -> str:
        """The lines, each ending in a line break.

        Parameters
        ----------
        now
            Seconds since 1970.
        """
        amounts = [*measured.counts.items(), *measured.values]
        return "".join(self._line(key, amount, now) for key, amount in amounts)

    def _line(self, key: Key, amount: float, now: int) -> str:
        name, values = key
        series = SERIES[name]
        ours = "".join(f",{label}:{value}" for label, value in zip(series.labels, values, strict=True))
        # TorchServe's pattern for a value knows no plus sign, so never 1e+06.
        return (
            f"[METRICS]{name}.{series.unit}:{amount:.7f}|#{self._model}{ours}"
            f"|#type:{series.kind.upper()}|#hostname:{self._host},{now}\n"
        )
