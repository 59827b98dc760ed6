"""The engines that compute the feature map: PyTorch as the reference, OpenVINO on a CPU, CUDA graphs on a GPU.

OpenVINO is imported nowhere but in `cxr.engines.openvino`, and NNCF after it.
"""

import sys

# OpenVINO 2026.4 tells Google Analytics of each import, with a client id that it keeps in HOME, and NNCF 3.4 of each
# network that it quantises. Both do without the package that sends, and have no other switch that holds for users and
# in CI alike; what stands in HOME is neither read nor written.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
