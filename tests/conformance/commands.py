"""Every command line's help, and what it says where it cannot do what it is asked."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from tests.conformance.archives import FIXED_VERSION
from tests.conformance.masks import Masks, run
from tests.films import encoded, film

SCRIPTS: Final = (
    *("audit", "benchmark", "demo", "edge", "edge_keys", "make_toy_data", "models", "package_mar"),
    *("predict", "prepare_data", "sbom", "serve", "watch_metrics", "web"),
)
TRAINING: Final = ("audit", "calibrate", "compare", "drift", "evaluate", "export", "model_card", "quantise", "train")
_PARTS: Final = {
    "scripts.benchmark": ("raw", "train", "serve", "peers", "decode", "cam", "page"),
    "scripts.edge_keys": ("add", "list", "revoke"),
    "scripts.models": ("list", "register", "verify", "promote", "rollback", "retire", "export", "import"),
}
_AT_ONCE: Final = 2

# Each line is a process. {work} is a folder of the recording: films/ and run/ are of the toy run, store/ has its
# archive, there/ holds a folder of another kind, empty/ nothing; a.png is a film, file a file of text.
_ERRORS: Final = """
scripts.make_toy_data {work}/new --patients 5
scripts.make_toy_data {work}/new --patients five
scripts.make_toy_data {work}/new --seed -1
scripts.make_toy_data {work}/new --size 10
scripts.make_toy_data {work}/new --sizes 100
scripts.make_toy_data {work}/there
scripts.make_toy_data {work}/file
scripts.make_toy_data {work}/file/films
scripts.prepare_data {work}/new
scripts.prepare_data {work}/new --rsna {work}/there
scripts.prepare_data {work}/new --covid {work}/none
scripts.prepare_data {work}/new --folder {work}/there
scripts.prepare_data {work}/new --folder {work}/there --fractions 0.5/0.5/0.5
scripts.prepare_data {work}/new --folder {work}/there --seed x
scripts.prepare_data {work}/there --folder {work}/films
scripts.package_mar --run {work}/none --version 1.0.0 --store {work}/new
scripts.package_mar --run {work}/empty --version 1.0.0 --store {work}/new
scripts.package_mar --run {work}/run --version newest --store {work}/new
scripts.package_mar --run {work}/fixed --version {version} --store {work}/store
scripts.predict {work}/nowhere
scripts.predict {work}/empty
scripts.predict {work}/a.png --cam grid --out {work}/empty
scripts.predict {work}/a.png --url http://127.0.0.1:9
scripts.predict
scripts.predict {work}/a.png --jobs 0
scripts.predict {work}/a.png --json --csv
scripts.predict {work}/a.png --cam all
scripts.serve --store {work}/nowhere --run-dir {work}/r1
scripts.serve --store {work}/empty --run-dir {work}/r2
scripts.serve --store {work}/store --run-dir {work}/r3 --port 18971 --metrics-port 18971
scripts.serve --store {work}/store --run-dir {work}/r4 --port 18971 --metrics-port 18972 --management-port 18971
scripts.serve --store {work}/store --run-dir {work}/{deep}
scripts.serve --port 65536
scripts.serve --workers 0
scripts.serve --batch-size many
scripts.serve --stop --run-dir {work}/never
scripts.serve --ready --run-dir {work}/never
scripts.web --port 70000
scripts.web --url http://films.invalid:8080
scripts.web --url http://127.0.0.1:9 --store {work}/none --run-dir {work}/r5
scripts.models
scripts.models list --workers 2
scripts.models list --run-dir {work}/never --store {work}/store
scripts.models list --run-dir {work}/never --store {work}/store --json
scripts.models register
scripts.models register latest
scripts.models register {version} --workers 0
scripts.models register {version} --run-dir {work}/never --store {work}/store
scripts.models register 9.0.0 --run-dir {work}/never --store {work}/store
scripts.models verify {version}
scripts.models verify {version} --films {work}/empty --run-dir {work}/never
scripts.models verify {version} --films . --max-flips 7
scripts.models promote {version} --run-dir {work}/never --store {work}/store
scripts.models rollback --run-dir {work}/never --store {work}/store
scripts.models retire {version} --run-dir {work}/never --store {work}/store
scripts.models export {version} --registry gopher://nowhere --run-dir {work}/never --store {work}/store
scripts.watch_metrics --every 0
scripts.watch_metrics --url 127.0.0.1:8082
scripts.watch_metrics --export 9108 --once
scripts.watch_metrics --export x
scripts.watch_metrics --once --url http://127.0.0.1:9
scripts.edge --listen 8443 --run-dir {work}/e1
scripts.edge --listen 127.0.0.1:0 --run-dir {work}/e2
scripts.edge --listen 127.0.0.1:18973 --run-dir {work}/e3 --metrics 127.0.0.1:1
scripts.edge --listen 127.0.0.1:18973 --run-dir {work}/e4 --tls-cert x.pem
scripts.edge --listen 127.0.0.1:18973 --run-dir {work}/e5 --upstream a;b
scripts.edge --listen 127.0.0.1:18973 --run-dir {work}/e6 -- --port 1
scripts.edge --listen 127.0.0.1:18973 --run-dir {work}/e7 --serve -- --stop
scripts.edge --run-dir {work}/e8 --stop
scripts.edge --run-dir {work}/e8 --ready
scripts.edge --run-dir {work}/e8 --reload
scripts.benchmark
scripts.benchmark raw --batch 0
scripts.benchmark train --data lost-folder
scripts.benchmark serve
scripts.benchmark serve --archive lost.mar
scripts.benchmark serve --url ftp://x
scripts.benchmark serve --url http://127.0.0.1:1 --workers 2
scripts.benchmark serve --archive a.mar --clients 1 0
scripts.benchmark peers --archive lost.mar
scripts.benchmark peers --archive lost.mar --parts all
scripts.benchmark page lost.json
scripts.demo --run {work}/empty --data {work}/empty --archive {work}/a.mar
scripts.sbom --out {work}/file
training.train --data {work}/films --run {work}/new --size 64 --arch resnet10 --weights lost.pth
training.train --data {work}/films --run {work}/new --size 64 --arch resnet10 --weights random --device tpu
training.train --data lost-folder --run {work}/new --weights random
training.train --data {work}/films --run {work}/new --size 64 --weights random --learning-rate -1
training.train --data {work}/films --run {work}/new --size 64 --weights random --learning-rate nan
training.train --data {work}/films --run {work}/new --size 64 --weights random --seed -1
training.train --data {work}/films --run {work}/new --size 64 --weights random --max-degrees nan
training.train --data {work}/films --run /dev/null/run --size 64 --arch resnet10 --weights random
training.train --data {work}/films --run {work}/new --batch-size 4 --patience 2
training.train --data {work}/films --run {work}/new --resume --force
training.train --data {work}/films --run {work}/run --size 64 --arch resnet10 --weights random --seed 3
training.train --data {work}/films --run {work}/new --arch vgg16
training.train
training.calibrate --data {work}/films --run {work}/none
training.calibrate --data {work}/films --run {work}/run --engine cuda-float64
training.export --run {work}/none
training.export --run {work}/run --cpu-engine openvino-int8
training.evaluate --data {work}/films --run {work}/none
training.evaluate --data {work}/films --run {work}/run --out {work}/new --prevalence 0
training.evaluate --data {work}/films --run {work}/run --out {work}/new --prevalence 0.1 1.5
training.evaluate --data {work}/films --run {work}/run --out {work}/new --bootstrap 10
training.evaluate --data {work}/films --run {work}/run --out {work}/new --seed -3
training.evaluate --data {work}/films --archive {work}/a.png
training.audit --data {work}/films --run lost-run --out {work}/new
training.audit --data lost-folder --run {work}/run --out {work}/new
training.audit --data {work}/films --run {work}/run --out {work}/new --bootstrap 5
training.audit --data {work}/films --run {work}/run --out {work}/new --device tpu
training.audit --data {work}/films --run {work}/run --split train
training.compare --first {work}/run --second {work}/empty --data {work}/films
training.compare --first {work}/run --second {work}/file --data {work}/films
training.drift --run {work}/none --data {work}/films
training.quantise --run {work}/none --data {work}/films
training.quantise --run {work}/run --data {work}/films --keep layer9
training.model_card --run {work}/none
training.model_card --run {work}/run --out {work}/card.pdf
"""
# One after the other: each changes what the next one finds.
_TOGETHER: Final = """
scripts.edge_keys --keys {work}/keys list
scripts.edge_keys --keys {work}/keys add a
scripts.edge_keys --keys {work}/keys add a
scripts.edge_keys --keys {work}/keys --json list
scripts.edge_keys --keys {work}/keys revoke b
scripts.edge_keys --keys {work}/keys revoke a
scripts.edge_keys --keys {work}/keys add a/b
scripts.edge_keys
"""


def run_all(work: Path, masks: Masks) -> dict[str, dict[str, Any]]:
    """Run every command line, two at a time.

    Parameters
    ----------
    work
        The folder the toy run was made in.

    Returns
    -------
    ``help`` and ``errors``: exit status and output by command line.
    """
    for name in ("empty", "there/CARDIOMEGALY"):
        (work / name).mkdir(parents=True)
    (work / "file").write_text("text\n", encoding="utf-8")
    (work / "a.png").write_bytes(encoded(film()))
    names = {"work": str(work), "version": FIXED_VERSION, "deep": "deep" * 25}

    def lines(text: str) -> list[tuple[str, list[str]]]:
        return [(line, [word.format(**names) for word in line.split()]) for line in text.splitlines() if line.strip()]

    asked = [(module, [module, "--help"]) for module in _modules()]
    asked += [(f"{module} {part}", [module, part, "--help"]) for module, parts in _PARTS.items() for part in parts]
    with ThreadPoolExecutor(_AT_ONCE) as pool:

        def run_each(some: Sequence[tuple[str, list[str]]]) -> dict[str, Any]:
            said = pool.map(lambda one: run(one[1][0], one[1][1:], masks), some)
            return {name: one for (name, _), one in zip(some, said, strict=True)}

        helped, errors = run_each(asked), run_each(lines(_ERRORS))
    together = {f"{i} {name}": run(words[0], words[1:], masks) for i, (name, words) in enumerate(lines(_TOGETHER))}
    return {"help": helped, "errors": errors, "keys": together}


def _modules() -> list[str]:
    return [*(f"scripts.{name}" for name in SCRIPTS), *(f"training.{name}" for name in TRAINING)]
