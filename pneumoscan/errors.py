"""The errors of PneumoScan and the exit status that each ends a command with.

CxrError                        1
├── InputError                  1  a film cannot be answered (`cxr.errors`)
├── ModelError                  2  a run, a spec or an archive is not what it claims to be (`cxr.errors`)
├── TrainingError               2  what training was given cannot be worked with (`cxr_training.errors`)
└── CommandError                1  a command began and failed
    ├── ServerError             1  a server never became ready, or does not end
    │   └── NeverReady          1  waiting for it is no use
    ├── StillBusy               1  a version is still asked for
    ├── VersionError            1  a change of versions was refused; everything is as before
    ├── RegistryError           1  a model registry does not give or take an archive
    ├── ExportError             1  figures cannot be written where Prometheus reads them
    ├── DemoError               1  a step of the demo failed
    ├── ScoreError              1  a job of scoring cannot go on; what it has is kept
    └── UsageError              2  what was asked for cannot be done; nothing was begun
        ├── ConfigError         2  the server cannot be started as asked
        ├── NoJavaError         2  no Java runs TorchServe
        ├── StoreError          2  a model store or an archive in it cannot be used
        │   └── ArchiveRefused  1  an archive may not be unpacked, or nobody who is trusted vouches for it
        ├── RunFolderError      2  a run folder cannot be used
        │   └── AlreadyRunning  2  a server holds it
        ├── EdgeError           2  the edge cannot be started as asked
        └── KeyFileError        2  the file of keys cannot be read or changed

`cxr_client.ClientError` stands alone, since the client needs nothing of this package; a command ends with 1 after one
and after an `OSError`. 0 is done; 2 is also what a command line that cannot be parsed ends with.
"""

from __future__ import annotations

from cxr.errors import CxrError


class CommandError(CxrError):
    """A command began and failed; the message is one line with the remedy."""


class ServerError(CommandError):
    """A server never became ready, or does not end."""


class NeverReady(ServerError):
    """The server will not become ready, however long one waits."""


class StillBusy(CommandError):
    """A version is still asked for."""


class VersionError(CommandError):
    """A change of versions was refused; server and store are as before."""


class RegistryError(CommandError):
    """A model registry does not give or take an archive."""


class ExportError(CommandError):
    """Figures cannot be written where Prometheus reads them."""


class DemoError(CommandError):
    """A step of the demo did not do what it should."""


class ScoreError(CommandError):
    """A job of scoring cannot go on; what it has is kept, and the same command goes on from there."""


class UsageError(CommandError):
    """What was asked for cannot be done, and nothing was begun; the message says what to ask instead."""

    exit_status = 2


class ConfigError(UsageError):
    """The server cannot be started as asked."""


class NoJavaError(UsageError):
    """No Java that runs TorchServe was found."""


class StoreError(UsageError):
    """A model store, or an archive in it, cannot be used."""


class ArchiveRefused(StoreError):
    """An archive holds what may not be unpacked, or nobody who is trusted vouches for it; nothing of it has run."""

    exit_status = 1


class RunFolderError(UsageError):
    """A run folder cannot be used."""


class AlreadyRunning(RunFolderError):
    """A server holds the run folder."""


class EdgeError(UsageError):
    """The edge cannot be started as asked."""


class KeyFileError(UsageError):
    """The file of keys cannot be read or changed."""
