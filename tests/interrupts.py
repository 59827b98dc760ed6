"""What a test that interrupts a process needs."""

from __future__ import annotations

import signal


def hear_interrupts() -> None:
    """For `preexec_fn`: tests that a shell started in the background ignore SIGINT, and so would what they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
