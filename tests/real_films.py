"""Where real films lie: PNEUMOSCAN_REAL_FILMS, or shared/data beside the checkout. Tests are skipped without them.

They belong to others, under licences of their own, so none is in this repository. The folder holds `cxr/` (a
`manifest.csv` with frontal films), `covid-mini/` and `rsna-mini/` (small samples in the layouts of the two public
collections), `dicom/` and `originals/`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pytest

REAL: Final = Path(os.environ.get("PNEUMOSCAN_REAL_FILMS") or Path(__file__).resolve().parents[2] / "shared" / "data")
NEEDS_REAL_FILMS: Final = pytest.mark.skipif(
    not (REAL / "cxr" / "manifest.csv").is_file(), reason=f"no real films in {REAL}: set PNEUMOSCAN_REAL_FILMS"
)
