"""What a model is worth: figures of merit with intervals, maps against boxes, shortcuts, parity, drift."""
