"""PneumoScan's commands and what they need: serve, change versions, the edge, predictions, archives."""
