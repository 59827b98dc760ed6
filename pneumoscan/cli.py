"""The console command: ``pneumoscan COMMAND …``, the one place where errors become a line on stderr and an exit status.

Every command is a module of `pneumoscan.commands` with `OPTIONS`, the dataclass of its options (or those of its own
commands by name), and ``run(options) -> int``. It is imported only when it is called, and what it needs only when it
runs, so that ``--help`` is fast.
"""

from __future__ import annotations

import io
import os
import select
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final, TextIO

from cxr.errors import CxrError
from pneumoscan import options
from pneumoscan.errors import UsageError
from pneumoscan.resources import code_version

# What each command is for, in the order in which a newcomer needs them.
COMMANDS: Final = {
    "demo": "everything from nothing: films, training, archive, server, scored films over REST",
    "toy": "make synthetic films",
    "prepare": "make a data folder from public collections and own films",
    "train": "fine-tune a ResNet on a data folder",
    "calibrate": "fit temperature, thresholds and map scale on validation films; measure engines",
    "export": "write what serving needs from a run",
    "evaluate": "measure a model on films it has not seen",
    "audit": "measure what a model owes to anything but the lungs",
    "compare": "compare two models on the same films",
    "drift": "make the drift reference of a model from other films",
    "quantise": "make the network in int8 for a CPU",
    "card": "write the model card of a run",
    "pack": "bundle a run with the handler into a model archive",
    "serve": "serve the archives of a model store with TorchServe",
    "predict": "ask a running server about films",
    "score": "score films without a server, a row a film in Parquet, through kills",
    "dicom": "answer films with DICOM objects in their own study",
    "models": "change the versions of a running server without one failed request",
    "edge": "let others reach a server: nginx with TLS and keys",
    "keys": "keys that open the edge, and keys that sign archives",
    "web": "show the reading page in a browser",
    "watch": "show what a running server's metrics say",
    "bench": "measure speed (in a checkout)",
}
# The extra that brings a package which a command may miss.
_EXTRAS: Final = {
    "torch": "training",
    "sklearn": "training",
    "scipy": "training",
    "matplotlib": "training",
    "jinja2": "training",
    "markdown_it": "training",
    "tqdm": "training",
    "nncf": "quantise",
    "openvino": "model",
    "numpy": "model",
    "PIL": "model",
    "pydicom": "model",
    "contourpy": "model",
    "highdicom": "dicom",
    "pynetdicom": "dicom",
    "cryptography": "edge",
    "django": "web",
    "pyarrow": "score",
    "prometheus_client": "metrics",
    "mlflow": "tracking",
    "psutil": "dev",
}
_SHELLS: Final = ("bash", "zsh", "tcsh")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; the exit status.

    0 done, 1 failed, 2 what was asked for cannot be done: `pneumoscan.errors` has the tree of errors and their
    statuses.
    """
    name, *rest = list(sys.argv[1:] if argv is None else argv) or [""]
    prog = f"pneumoscan {name}".rstrip()
    try:
        status = _run(name, rest, prog)
        sys.stdout.flush()
        return status
    except CxrError as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return error.exit_status
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _is_closed(sys.stdout):  # who read our output has gone
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        else:
            print(f"{prog}: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _EXTRAS:
            raise
        print(f"{prog} needs {missing}: pip install 'pneumoscan[{_EXTRAS[missing]}]'", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{prog}: interrupted", file=sys.stderr)
        return 1
    except Exception as error:
        if not _is_of_client(error):
            raise
        print(f"{prog}: {error}", file=sys.stderr)
        return 1


def _run(name: str, words: Sequence[str], prog: str) -> int:
    if name in ("", "-h", "--help", "help"):
        print(_overview())
        return 0 if name else 2
    if name in ("--version", "-V"):
        print(f"pneumoscan {code_version()}")
        return 0
    if name == "completion":
        return _completion(words)
    if name not in COMMANDS:
        raise UsageError(f"no such command; known are {', '.join(COMMANDS)}")
    module = import_module(f"pneumoscan.commands.{name}")
    given: Any = (
        words if module.OPTIONS is None else options.parse(module.OPTIONS, words, prog, description=COMMANDS[name])
    )
    status: int = module.run(given)
    return status


def _is_closed(stream: TextIO) -> bool:
    """Whether the other end of a pipe has gone (poll(2)); a server's socket that broke is another matter."""
    try:
        descriptor = stream.fileno()
    except io.UnsupportedOperation:  # a program of Python's that reads what we print
        return False
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _is_of_client(error: Exception) -> bool:
    # Imported only where there is an error: the client brings requests.
    from cxr_client import ClientError

    return isinstance(error, ClientError)


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: pneumoscan COMMAND ...",
            "",
            "Chest X-ray classification with exact class activation maps, served by TorchServe.",
            "Research use only. Not a diagnosis.",
            "",
            *lines,
            "",
            "  pneumoscan COMMAND --help         options of a command",
            f"  pneumoscan completion {'|'.join(_SHELLS)}",
            "  pneumoscan --version              version and commit",
            "",
            options.EXIT_STATUSES,
        ]
    )


def _completion(words: Sequence[str]) -> int:
    if len(words) != 1 or words[0] not in _SHELLS:
        raise UsageError(f"give one of {', '.join(_SHELLS)}")
    import shtab

    found = {name: (import_module(f"pneumoscan.commands.{name}").OPTIONS, text) for name, text in COMMANDS.items()}
    print(shtab.complete(options.completion_parser("pneumoscan", found), shell=words[0]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
