"""The node: a DICOM storage that answers films, and sends what it makes of them.

A sender is answered Success once its film is safely in the spool, and never waits for a model. Threads take films from
there to the server and results to their destinations; each may be away for as long as it likes.
"""

from __future__ import annotations

import sqlite3
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from pydicom import dcmread
from pydicom import uid as uids
from pynetdicom import AE, AllStoragePresentationContexts, evt

from cxr.films.film import MAX_BYTES
from pneumoscan.dicom.results import UNREACHABLE, FilmResult, ResultMaker, plan
from pneumoscan.dicom.spool import Delivery, Spool, SpooledFilm

# What the server reads: docs/api.md.
TRANSFER_SYNTAXES: Final = (
    *(uids.ExplicitVRLittleEndian, uids.ImplicitVRLittleEndian, uids.DeflatedExplicitVRLittleEndian),
    *(uids.ExplicitVRBigEndian, uids.JPEGLosslessSV1, uids.JPEGLossless, uids.JPEG2000Lossless, uids.JPEG2000),
    *(uids.JPEGLSLossless, uids.JPEGLSNearLossless, uids.RLELossless, uids.JPEGBaseline8Bit, uids.JPEGExtended12Bit),
    *(uids.HTJ2KLossless, uids.HTJ2KLosslessRPCL, uids.HTJ2K),
)
_ECHO: Final = "1.2.840.10008.1.1"  # Verification
_SENT: Final = (uids.ExplicitVRLittleEndian, uids.ImplicitVRLittleEndian)
# PS3.4 B.2.3 and PS3.7 annex C.
_SUCCESS, _OUT_OF_RESOURCES, _NOT_UNDERSTOOD = 0x0000, 0xA700, 0xC000
_URGENCY: Final = {1: 0, 0: 1, 2: 2}  # PS3.7 9.3.1.1: medium is 0, high 1, low 2
_MOST_ASSOCIATIONS: Final = 20
_WORDLESS_S: Final = 60  # after which a peer that says nothing is let go
_AT_ONCE: Final = 50  # objects in one association
_IDLE_S: Final = 0.5
_CLEANING_S: Final = 60.0
_LONGEST_PAUSE_S: Final = 600.0
# A film that no answer came to so often may be what brings a worker down.
_MOST_ATTEMPTS: Final = 10
_PATIENT_CODES: Final = (UNREACHABLE, "OVERLOADED", "NOT_WRITTEN")  # not the film's doing, however often
_MOST_REFUSALS: Final = 5  # of an object by a destination, which will not change its mind


@dataclass(frozen=True, slots=True)
class Destination:
    """Where results go: an application entity."""

    title: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Destination:
        """From ``TITLE@host:port``.

        Raises
        ------
        ValueError
            It is none.
        """
        title, _, address = text.partition("@")
        host, _, port = address.rpartition(":")
        if not 0 < len(title) <= 16 or not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError(f"{text!r} is no destination like PACS@pacs.example:104")
        return cls(title, host.strip("[]"), int(port))

    def __str__(self) -> str:
        return f"{self.title}@{self.host}:{self.port}"


class _LateHandshake(ssl.SSLContext):
    """Agrees on TLS when a caller is first read from, in that caller's own thread.

    pynetdicom 3.0.4 would do it in the one thread that accepts all callers, and one who says nothing would stop them.
    """

    def wrap_socket(self, sock: Any, server_side: bool = False, *_: Any, **__: Any) -> ssl.SSLSocket:
        sock.settimeout(_WORDLESS_S)
        return super().wrap_socket(sock, server_side=server_side, do_handshake_on_connect=False)


@dataclass(frozen=True, slots=True)
class Tls:
    """Certificates for both directions: the node's own, and the authority whose certificates its peers must have.

    Each side shows a certificate (PS3.15 B.12), callers and destinations alike.
    """

    certificate: Path
    key: Path
    authority: Path

    def listening(self) -> ssl.SSLContext:
        """How callers are let in.

        Raises
        ------
        OSError
            A file cannot be used; `ssl.SSLError` is one.
        """
        context = _LateHandshake(ssl.PROTOCOL_TLS_SERVER)
        context.load_verify_locations(self.authority)
        return self._shows_itself(context)

    def calling(self) -> ssl.SSLContext:
        """How destinations are called; raises as `listening` does."""
        return self._shows_itself(ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(self.authority)))

    def _shows_itself(self, context: ssl.SSLContext) -> ssl.SSLContext:
        context.load_cert_chain(self.certificate, self.key)
        context.verify_mode = ssl.CERT_REQUIRED
        return context


@dataclass(frozen=True, slots=True)
class Settings:
    """How a node behaves.

    Parameters
    ----------
    title, host, port
        Its own application entity.
    calling
        Titles that may call; empty for any.
    destinations
        Where results go.
    jobs
        Films asked about at once.
    keep_s
        How long films and results stay in the spool after their end.
    give_up_s
        How long after its receipt an object is sent again and again to a destination that does not take it.
    first_pause_s
        Before a second attempt; each further one waits twice as long, up to ten minutes.
    tls
        For callers and destinations alike; without it neither is encrypted.
    """

    title: str
    host: str
    port: int
    destinations: tuple[Destination, ...]
    calling: tuple[str, ...] = ()
    jobs: int = 4
    keep_s: float = 24 * 3600.0
    give_up_s: float = 72 * 3600.0
    first_pause_s: float = 5.0
    tls: Tls | None = None

    def pause_s(self, attempts: int) -> float:
        """How long to wait after so many attempts before."""
        return min(self.first_pause_s * 2.0 ** min(attempts, 20), _LONGEST_PAUSE_S)


class Node:
    """A running node; `spool` is held by whoever starts it.

    Parameters
    ----------
    say
        Gets a line for each thing that happens, without anything of a patient.
    """

    def __init__(self, settings: Settings, spool: Spool, maker: ResultMaker, say: Callable[[str], None]) -> None:
        self.settings, self.spool, self.maker, self.say = settings, spool, maker, say
        self._stop = threading.Event()
        self._server: Any = None
        self._calls_by: ssl.SSLContext | None = None
        self._threads: list[threading.Thread] = []

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.socket.getsockname()[1])

    def start(self) -> None:
        """Listen, score and send from now on.

        Raises
        ------
        OSError
            The address cannot be listened on, or a file of `tls` cannot be used.
        """
        tls = self.settings.tls
        context = None if tls is None else tls.listening()
        self._calls_by = None if tls is None else tls.calling()
        entity: Any = AE(ae_title=self.settings.title)
        entity.maximum_associations = _MOST_ASSOCIATIONS
        entity.acse_timeout, entity.dimse_timeout, entity.network_timeout = 30, _WORDLESS_S, _WORDLESS_S
        entity.require_called_aet = True
        entity.require_calling_aet = list(self.settings.calling)
        entity.add_supported_context(_ECHO)
        for storage in AllStoragePresentationContexts:
            entity.add_supported_context(storage.abstract_syntax, list(TRANSFER_SYNTAXES))
        address = (self.settings.host, self.settings.port)
        handlers = [(evt.EVT_C_STORE, self._receive)]
        self._server = entity.start_server(address, block=False, evt_handlers=handlers, ssl_context=context)
        for destination in self.settings.destinations:
            self._start(partial(self._send_some, destination))
        for _ in range(self.settings.jobs):
            self._start(self._score_one)
        self._start(self._clean)

    def stop(self) -> None:
        """Let nobody in any more, and end what was begun."""
        self._stop.set()
        self._server.shutdown()
        for thread in self._threads:
            thread.join()

    def _start(self, step: Callable[[], bool]) -> None:
        """Repeat a step in a thread; where it had nothing to do, it rests."""

        def repeat() -> None:
            while not self._stop.is_set():
                try:
                    busy = step()
                except (OSError, sqlite3.Error) as error:  # a full disk: what was begun is begun again
                    self.say(f"the spool cannot be written: {type(error).__name__}")
                    busy = False
                if not busy:
                    self._stop.wait(_IDLE_S)

        self._threads.append(threading.Thread(target=repeat, daemon=True))
        self._threads[-1].start()

    def _receive(self, event: Any) -> int:
        """A film is sent; the status of the answer."""
        uid = str(event.request.AffectedSOPInstanceUID or "")
        if not uids.UID(uid).is_valid:
            return _NOT_UNDERSTOOD
        try:
            data = event.encoded_dataset()
            if len(data) > MAX_BYTES:
                self.say(f"refused a film of {len(data):,} bytes: at most {MAX_BYTES:,} are taken")
                return _NOT_UNDERSTOOD
            is_new = self.spool.receive(
                uid, data, event.assoc.requestor.ae_title, _URGENCY.get(event.request.Priority, 1)
            )
        except (OSError, sqlite3.Error) as error:
            self.say(f"a film was not taken: {type(error).__name__}")
            return _OUT_OF_RESOURCES
        self.say("received a film" if is_new else "received a film that is here already")
        return _SUCCESS

    def _score_one(self) -> bool:
        film = self.spool.claim_film()
        if film is None:
            return False
        try:
            result = self.maker.make(plan(film.number, film.path, film.path.parent), film.path)
            self._note(film, result)
        except BaseException:
            self.spool.let_go(film)
            raise
        return True

    def _note(self, film: SpooledFilm, result: FilmResult) -> None:
        reason = result.reason
        if result.state != "failed" or reason is None:
            refused = (reason.code, reason.detail) if reason else None
            self.spool.scored(film, result.objects, [str(one) for one in self.settings.destinations], refused)
        else:
            may_wait = reason.code in _PATIENT_CODES or film.attempts + 1 < _MOST_ATTEMPTS
            pause_s = self.settings.pause_s(film.attempts) if reason.retryable and may_wait else None
            self.spool.postpone_film(film, reason.code, reason.detail, pause_s)
        self.say(result.line)

    def _send_some(self, destination: Destination) -> bool:
        due = self.spool.due_deliveries(str(destination), _AT_ONCE)
        if not due:
            return False
        entity: Any = AE(ae_title=self.settings.title)
        entity.acse_timeout, entity.connection_timeout = 30, 10
        entity.dimse_timeout = entity.network_timeout = _WORDLESS_S
        for storage in (uids.SecondaryCaptureImageStorage, uids.ComprehensiveSRStorage):
            entity.add_requested_context(storage, list(_SENT))
        tls = None if self._calls_by is None else (self._calls_by, destination.host)
        association = entity.associate(destination.host, destination.port, ae_title=destination.title, tls_args=tls)
        if not association.is_established:
            for delivery in due:
                self._not_taken(delivery, "it cannot be reached, or does not accept us", is_final=False)
            return True
        try:
            for number, delivery in enumerate(due):
                if self._stop.is_set():
                    break
                if not association.is_established:  # it was given up after the one before, which has its pause
                    if number == 0:
                        self._not_taken(delivery, "it broke off", is_final=False)
                    break
                self._send(association, delivery)
        finally:
            if association.is_established:
                association.release()
        return True

    def _send(self, association: Any, delivery: Delivery) -> None:
        try:
            answer = association.send_c_store(dcmread(delivery.path))
        except FileNotFoundError:
            return self._not_taken(delivery, "the result is not in the spool any more", is_final=True)
        except (ValueError, RuntimeError):  # no context for the class of the object, or the association has gone
            return self._not_taken(
                delivery, "it does not take objects of this class", is_final=association.is_established
            )
        status = answer.get("Status")
        if status is None:
            return self._not_taken(delivery, "it did not answer", is_final=False)
        if status != _SUCCESS and status >> 12 != 0xB:  # a warning: it has the object (PS3.4 B.2.3)
            # A9xx and Cxxx are about the object; others, such as a full disk, pass.
            return self._not_taken(
                delivery, f"it answered {status:04X}H", is_final=status >> 8 == 0xA9 or status >> 12 == 0xC
            )
        self.spool.delivered(delivery)
        return self.say(f"film {delivery.film}: {delivery.kind} sent to {delivery.destination}")

    def _not_taken(self, delivery: Delivery, reason: str, *, is_final: bool) -> None:
        waited_s = time.time() - delivery.received
        is_over = delivery.attempts + 1 >= _MOST_REFUSALS if is_final else waited_s > self.settings.give_up_s
        pause_s = None if is_over else self.settings.pause_s(delivery.attempts)
        self.spool.postpone_delivery(delivery, reason, pause_s)
        then = "given up" if pause_s is None else f"again in {pause_s:.0f} s"
        self.say(f"film {delivery.film}: {delivery.kind} not sent to {delivery.destination}: {reason}; {then}")

    def _clean(self) -> bool:
        self.spool.clean(self.settings.keep_s)
        self._stop.wait(_CLEANING_S)
        return True
