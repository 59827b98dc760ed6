"""What the history holds of a film, where there is a history."""

from __future__ import annotations

from django.db import models
from django.utils import timezone


class Result(models.Model):
    """One answer of the server. No file name, no tag, no film: only what it said and a small picture."""

    answered_at = models.DateTimeField(default=timezone.now, db_index=True)
    label = models.CharField(max_length=16)
    probability = models.FloatField()
    threshold = models.FloatField(null=True)
    indeterminate = models.BooleanField(default=False)
    flags = models.JSONField(default=list)
    film_format = models.CharField(max_length=8)
    model_version = models.CharField(max_length=64)
    weights_sha256 = models.CharField(max_length=64)
    thumbnail = models.BinaryField()  # JPEG

    class Meta:
        ordering = ("-answered_at", "-id")

    @property
    def shown_probability(self) -> str:
        """The probability in three digits, never as certainty: the server rounds to six."""
        if self.probability > 0.999:
            return ">0.999"
        return "<0.001" if self.probability < 0.001 else f"{self.probability:.3f}"

    def __str__(self) -> str:
        return f"{self.label} {self.shown_probability}"
