"""From films and labels to a model that can be packed: data, features, head, calibration, evaluation, export."""
