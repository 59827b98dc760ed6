"""TorchServe's entry into the archive: what TorchServe 0.12 asks for. What PneumoScan knows is in `cxr`."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any, Final

from cxr.errors import ModelError
from cxr.films.sandbox import SANDBOX
from cxr.films.scans import FORMATS_VARIABLE, formats_in
from cxr.predict import Predictor
from cxr.serving.card import read_audit, read_metrics
from cxr.serving.drift import read_reference
from cxr.serving.metrics import BatchMetrics, MetricLines, quiet_libraries
from cxr.serving.record import PredictionRecord
from cxr.serving.reply import ModelIdentity
from cxr.serving.self_check import check_digests, check_golden, check_sandbox
from cxr.serving.service import BatchService, IncomingRequest

_LAST_WORDS_S: Final = 0.5


class CxrHandler:
    """Answers batches of chest films. TorchServe makes one object a worker and calls `initialize` once."""

    def initialize(self, context: Any) -> None:
        """Load the archive's model and refuse any that is not what it claims to be.

        Raises
        ------
        ModelError
            If the code is not the archive's own, a file has other bytes or the golden films get other answers than when
            they were packed; the worker then never becomes ready.
        """
        quiet_libraries()
        properties = context.system_properties
        folder = Path(properties["model_dir"])
        self._refuse_foreign_code(folder)
        check_digests(folder)
        SANDBOX.start()  # takes some tenths of a second, which the network takes to load too
        gpu = properties.get("gpu_id")
        predictor = Predictor.load(folder, "cpu" if gpu is None or int(gpu) < 0 else f"cuda:{gpu}")
        check_golden(predictor, folder)
        manifest = context.manifest["model"]
        identity = ModelIdentity.of(predictor.spec, manifest["modelName"], manifest["modelVersion"])
        figures = read_metrics(folder, predictor.spec), read_audit(folder, predictor.spec)
        formats = formats_in(os.environ.get(FORMATS_VARIABLE, ""))
        reference, record = read_reference(folder, predictor.spec), PredictionRecord.of(os.environ)
        self.service = BatchService(predictor, identity, *figures, reference, formats, record)
        self.metrics = MetricLines(identity.name, identity.version, sys.stdout)
        first = BatchMetrics.zeros(predictor.spec.classes)
        first.count("cxr_worker_starts_total")
        first.observe("cxr_model_info", 1.0, identity.weights_sha256, predictor.spec.engines[predictor.device.type])
        first.observe_walls(check_sandbox())
        self.metrics.write(first)

    def handle(self, rows: list[dict[str, Any]], context: Any) -> list[bytes]:
        """One reply for each request of a batch, each with its own status and content type."""
        metrics = BatchMetrics(classes=self.service.predictor.spec.classes)
        replies = self.service.answer(
            [
                IncomingRequest(row, context.get_all_request_header(i), context.get_request_id(i) or "")
                for i, row in enumerate(rows)
            ],
            metrics,
        )
        self.metrics.write(metrics)
        for i, reply in enumerate(replies):
            context.set_response_status(code=reply.status, phrase="", idx=i)
            context.set_response_content_type(i, reply.content_type)
            if reply.answer:
                context.set_response_header(i, "Cxr-Answer", reply.answer)
        if self.service.is_lost:
            # The replies go out first; TorchServe then misses the worker and starts another.
            threading.Timer(_LAST_WORDS_S, os._exit, [1]).start()
        return [reply.body for reply in replies]

    @staticmethod
    def _refuse_foreign_code(folder: Path) -> None:
        """An installed package or a PYTHONPATH must not answer in the archive's name."""
        ours = [module for name, module in sys.modules.items() if name.partition(".")[0] == "cxr"]
        for module in ours:
            code = Path(str(module.__file__)).resolve()
            if not code.is_relative_to(folder.resolve()):
                raise ModelError(f"{module.__name__} was imported from {code}, not from the archive: unset PYTHONPATH")
