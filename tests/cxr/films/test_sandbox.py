"""The process that decoders run in: warm, limited, replaced, gone with its worker; its end is blamed on no film."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGExtended12Bit, JPEGLosslessSV1, JPEGLSLossless

from cxr.errors import InputError
from cxr.films import sandbox
from cxr.films.decode import decode
from tests.bad_requests import jpeg_2000_in_precincts_of_one_pixel
from tests.films import compressed, dicom, encoded, film

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

Watch = Callable[[Callable[[int], None], int], None]

WORKER = """
import sys
from pathlib import Path
from cxr.films.decode import decode
data = Path(sys.argv[1]).read_bytes()
decode(data)
print("ready", flush=True)
while True:
    decode(data)
"""


@cache
def slow_film() -> bytes:
    """A film that takes some tenths of a second to decode, so that something can happen to its decoder."""
    noise = np.random.default_rng(0).integers(0, 65536, (1200, 1200)).astype(np.uint16)
    return compressed(dicom(noise, bits=16), JPEG2000Lossless)


@cache
def small_film() -> bytes:
    return compressed(dicom(film(), bits=8), JPEGLSLossless)


def children_of(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_for(condition: Callable[[], object], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.001)


@pytest.fixture
def helper() -> Iterator[int]:
    """The process id of a helper that has just answered."""
    sandbox.SANDBOX.close()
    decode(small_film())
    assert sandbox.SANDBOX._helper is not None
    yield sandbox.SANDBOX._helper.process.pid
    sandbox.SANDBOX.close()


@pytest.fixture
def at_work(helper: int) -> Iterator[Watch]:
    """Calls something with each of the first decoders that are at work from now on."""
    threads: list[threading.Thread] = []

    def watch(act: Callable[[int], None], times: int) -> None:
        def follow() -> None:
            seen: set[int] = set()
            while len(seen) < times:
                for child in set(children_of(helper)) - seen:
                    seen.add(child)
                    act(child)

        threads.append(threading.Thread(target=follow, daemon=True))
        threads[-1].start()

    yield watch
    for thread in threads:
        thread.join(30)


def test_one_helper_of_one_thread_decodes_film_after_film(helper: int) -> None:
    for syntax in (JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless):
        np.testing.assert_array_equal(decode(compressed(dicom(film(), bits=8), syntax)).pixels, film())
    assert sandbox.SANDBOX._helper is not None
    assert sandbox.SANDBOX._helper.process.pid == helper
    assert len(list(Path(f"/proc/{helper}/task").iterdir())) == 1
    assert children_of(helper) == []


def test_a_decoder_has_its_limits(helper: int, at_work: Watch) -> None:
    """The helper itself has none: its own time would run out."""
    limits: dict[str, tuple[int, int]] = {}

    def look(child: int) -> None:
        for name in ("RLIMIT_CPU", "RLIMIT_CORE", "RLIMIT_AS"):
            which = getattr(resource, name)
            wait_for(lambda which=which: resource.prlimit(child, which)[0] != resource.RLIM_INFINITY)
            limits[name] = resource.prlimit(child, which)

    at_work(look, 1)
    decode(slow_film())
    wait_for(lambda: len(limits) == 3)
    memory = (192 << 20) + 40 * 1200 * 1200  # beyond what a fork of the helper has
    own = int(Path(f"/proc/{helper}/statm").read_text().split()[0]) * resource.getpagesize()
    assert limits["RLIMIT_CPU"] == (1, 2)
    assert limits["RLIMIT_CORE"] == (0, 0)
    assert abs(limits["RLIMIT_AS"][0] - own - memory) < 16 << 20
    assert limits["RLIMIT_AS"][0] == limits["RLIMIT_AS"][1]
    assert resource.prlimit(helper, resource.RLIMIT_CPU)[0] == resource.RLIM_INFINITY


def test_a_film_that_needs_more_memory_than_its_limit_is_damaged_and_the_helper_goes_on(
    helper: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "_WALL_FACTOR", 20.0)  # of a machine that tests keep busy
    with pytest.raises(InputError) as caught:
        decode(jpeg_2000_in_precincts_of_one_pixel(1500))
    assert caught.value.code == "DAMAGED_IMAGE"
    decode(small_film())
    assert not is_gone(helper)


def test_a_film_that_needs_more_time_than_its_limit_is_damaged(
    at_work: Watch,
) -> None:
    """As the kernel says it, a limit that a test need not wait for."""
    at_work(lambda child: os.kill(child, signal.SIGXCPU), 1)
    with pytest.raises(InputError) as caught:
        decode(slow_film())
    assert caught.value.code == "DAMAGED_IMAGE"


def test_a_decoder_that_is_ended_from_outside_is_no_damage_and_gets_a_second_try(
    at_work: Watch,
) -> None:
    at_work(lambda child: os.kill(child, signal.SIGTERM), 1)
    assert decode(slow_film()).info.bits == 16


@pytest.mark.parametrize(
    ("by", "times", "code"),
    [(signal.SIGTERM, 2, "OVERLOADED"), (signal.SIGHUP, 2, "OVERLOADED"), (signal.SIGKILL, 1, "")],
)
def test_one_that_is_ended_again_and_again_is_an_error_that_passes(
    by: signal.Signals, times: int, code: str, at_work: Watch
) -> None:
    at_work(lambda child: os.kill(child, by), times)
    if not code:  # the kernel's, where memory is short: the service makes OUT_OF_MEMORY of it
        with pytest.raises(MemoryError):
            decode(slow_film())
        return
    with pytest.raises(InputError) as caught:
        decode(slow_film())
    assert (caught.value.code, caught.value.retryable) == (code, True)


def test_a_helper_that_dies_is_replaced(helper: int) -> None:
    os.kill(helper, signal.SIGKILL)
    np.testing.assert_array_equal(decode(small_film()).pixels, film())
    assert sandbox.SANDBOX._helper is not None
    assert sandbox.SANDBOX._helper.process.pid != helper


def test_a_helper_that_dies_at_work_takes_its_decoder_with_it_and_the_film_is_answered(
    helper: int, at_work: Watch
) -> None:
    decoders: list[int] = []

    def end(child: int) -> None:
        decoders.append(child)
        os.kill(helper, signal.SIGKILL)

    at_work(end, 1)
    assert decode(slow_film()).info.bits == 16
    wait_for(lambda: is_gone(decoders[0]), 5)


def test_films_of_many_threads_are_not_mixed_up() -> None:
    sandbox.SANDBOX.close()  # so that they start one helper together
    films = [film(number) for number in range(12)]
    files = [compressed(dicom(one, bits=8), JPEGLSLossless) for one in films]
    with ThreadPoolExecutor(6) as pool:
        for one, read in zip(films, pool.map(decode, files), strict=True):
            np.testing.assert_array_equal(read.pixels, one)


def test_a_fork_of_the_worker_has_a_helper_of_its_own_and_holds_no_other(helper: int) -> None:
    fork = os.fork()
    if fork == 0:
        decode(small_film())
        mine = sandbox.SANDBOX._helper
        os._exit(0 if mine is not None and mine.process.pid != helper else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1]) == 0
    decode(small_film())
    assert not is_gone(helper)


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_of_a_worker_that_is_killed_at_work(by: signal.Signals, tmp_path: Path) -> None:
    path = tmp_path / "film.dcm"
    path.write_bytes(slow_film())
    with subprocess.Popen([sys.executable, "-c", WORKER, path], stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
        (its_helper,) = children_of(worker.pid)
        wait_for(lambda: children_of(its_helper))
        decoders = children_of(its_helper)
        worker.send_signal(by)
        worker.wait(10)
    wait_for(lambda: all(map(is_gone, [its_helper, *decoders])), 5)


def test_films_with_an_odd_number_of_bytes_are_read() -> None:
    """GDCM 3.2 makes the number even, as those of DICOM elements are."""
    odd = film(height=97, width=81)
    stream = encoded(odd, "JPEG", quality=95)
    data = dicom(odd, bits=8, syntax=JPEGExtended12Bit, PixelData=encapsulate([stream]))
    assert np.abs(decode(data).pixels.astype(int) - odd).max() <= 3
