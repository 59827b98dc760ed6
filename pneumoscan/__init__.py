"""PneumoScan's commands and what they need: serve, change versions, the edge, predictions, archives."""

from cxr import __version__

__all__ = ["__version__"]
