"""What the doctor looks at, from the outside in: each check yields what it has found.

All of them see hmacfs as a client does, through whatever stands in front. What arrives behind that is told by the
mirror (:mod:`hmacfs.web.mirror`).
"""

from __future__ import annotations

import os
import secrets
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any, Final

from attrs import field, frozen

from hmacfs.access.issuing import SCHEMES
from hmacfs.access.signatures import mac, text_v3
from hmacfs.cli.doctor.findings import Finding, Verdict, cure, fine, skipped
from hmacfs.cli.doctor.probing import Broken, Heard, Prober
from hmacfs.cli.exchange import Url
from hmacfs.storage.names import SlotPath
from hmacfs.units import counted, human_size
from hmacfs.web.cors import METHODS
from hmacfs.web.mirror import TELLTALES

#: Larger than the body that any proxy in common use takes without being told to.
_BODY_BYTES: Final = 2 * 1024 * 1024
_PIECES: Final = 4
_PAUSE_S: Final = 0.5

#: Longer than the patience that nginx and others have by default.
_LONG_WAIT_S: Final = 75

_CERTIFICATE_DAYS: Final = 14
_SKEW_WARNING_S: Final = 5.0
_SKEW_FAULT_S: Final = 60.0

_ORIGIN: Final = "https://doctor.invalid"

#: From the block for documentation: nobody's address.
_NOBODYS_ADDRESS: Final = "203.0.113.77"

#: What the dialects of uploads say in requests.
_REQUEST_HEADERS: Final[Mapping[str, str]] = {
    "Authorization": "Bearer doctor",
    "Content-Range": "bytes */10",
    "X-Session-Token": "doctor-token",
    "X-HTTP-Method-Override": "PATCH",
    "Tus-Resumable": "1.0.0",
    "Upload-Offset": "0",
    "Upload-Length": "10",
    "Upload-Complete": "?0",
    "Upload-Checksum": "sha1 2jmj7l5rSw0yVb/vlWAYkK/YBwk=",
    "Content-Digest": "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:",
    "Repr-Digest": "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:",
    "If-None-Match": '"doctor"',
}

#: Written in every way that clients write names, as it must arrive.
_ODD_PATH: Final = "a%20b/%C3%A4%2B+%25%28(~)%2fx..y/%E2%82%AC.txt"

#: What keeps files harmless, beside what the mirror answers with.
_SAFETY_HEADERS: Final = ("X-Content-Type-Options", "Content-Security-Policy", "ETag", "Content-Disposition")


@frozen
class Case:
    """What is examined.

    :ivar max_upload_bytes: of the server; ``None`` for any, or where it isn't known.
    :ivar speaks_v3: whether ``AcceptV3`` is on.
    :ivar slow: whether what takes more than a minute is looked at.
    :ivar stored: the paths of files that the checks have stored, to be deleted.
    """

    prober: Prober
    max_upload_bytes: int | None
    speaks_v3: bool
    slow: bool
    stored: list[SlotPath] = field(factory=list)

    def fault(self, check: str, sentence: str, problem: str) -> Finding:
        """Something that the proxy does wrong."""
        proxy = self.prober.proxy
        return Finding(check, Verdict.FAULT, sentence, proxy or "the proxy", cure(problem, proxy))

    def path(self, name: str) -> SlotPath:
        """Of a new file."""
        path = SlotPath.from_encoded(f"hmacfs-doctor-{secrets.token_hex(8)}/{name}".encode())
        self.stored.append(path)
        return path


Check = Callable[[Case], Iterator[Finding]]


class Hopeless(Exception):
    """Nothing more can be looked at. What was found has been told."""


def dns(case: Case) -> Iterator[Finding]:
    """Every address of the name takes connections."""
    host, port = case.prober.base.host, case.prober.base.port
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        sentence = f"{host} has no address: {error.strerror}."
        yield Finding("dns", Verdict.FAULT, sentence, "DNS", f"an A or AAAA record for {host}, or another --url")
        raise Hopeless from None
    addresses = list(dict.fromkeys((info[0], str(info[4][0]), info[4]) for info in infos))
    dead = [address for family, address, where in addresses if not _answers(family, where)]
    if len(dead) == len(addresses):
        sentence = f"Nobody takes connections at port {port} of {', '.join(dead)}."
        yield Finding("dns", Verdict.FAULT, sentence, "the proxy, or a firewall", f"listen at port {port}, and open it")
        raise Hopeless
    for address in dead:
        sentence = f"{host} has the address {address}, where nobody takes connections: clients that try it wait."
        yield Finding(
            "dns", Verdict.FAULT, sentence, "DNS, or the proxy", f"listen at [{address}], or remove the record"
        )
    if not dead:
        yield fine("dns", f"{host} is {', '.join(address for _, address, _ in addresses)}.")


def tls(case: Case) -> Iterator[Finding]:
    """The certificate is to be trusted, and will be for a while."""
    base = case.prober.base
    if base.scheme != "https":
        yield Finding("tls", Verdict.WARNING, "The URL is http: clients want https.", "the proxy", "a certificate")
        return
    try:
        with socket.create_connection((base.host, base.port), 10) as sock:
            context = ssl.create_default_context(cafile=case.prober.cacert)
            with context.wrap_socket(sock, server_hostname=base.host) as wrapped:
                certificate: Mapping[str, Any] = wrapped.getpeercert() or {}
                version = wrapped.version()
    except ssl.SSLCertVerificationError as error:
        sentence = f"The certificate is not to be trusted: {error.verify_message}."
        yield Finding("tls", Verdict.FAULT, sentence, "the proxy", "the whole chain (fullchain.pem), for this name")
        raise Hopeless from None
    except OSError as error:
        yield Finding("tls", Verdict.FAULT, f"TLS fails: {error}.", "the proxy", "TLS at this port")
        raise Hopeless from None
    days = (ssl.cert_time_to_seconds(certificate["notAfter"]) - time.time()) / 86_400
    if days < _CERTIFICATE_DAYS:
        sentence = f"The certificate ends in {counted(round(days), 'day')}."
        yield Finding("tls", Verdict.WARNING, sentence, "the proxy", "renew it")
    else:
        yield fine("tls", f"{version}, and a certificate that is good for {days:.0f} days.")


def reach(case: Case) -> Iterator[Finding]:
    """hmacfs answers at the URL, and knows the secret."""
    prober = case.prober
    heard = prober.mirror()
    seen = heard.seen
    if seen is not None:
        in_front = prober.proxy or "nothing that shows itself"
        yield fine("reach", f"hmacfs {seen['hmacfs']} answers; in front of it: {in_front}.")
        return
    refused = prober.ask("PUT", prober.url("hmacfs-doctor/x"), {"Accept": "application/problem+json"})
    if b"missing-signature" in refused.body:
        sentence = "hmacfs answers, but with another secret than this one."
        yield Finding("reach", Verdict.FAULT, sentence, "hmacfs", "the secret of the configuration; restart hmacfs")
    else:
        sentence = f"{prober.base.public} answers with {heard.status} {_phrase(heard.status)}, and isn't hmacfs."
        yield Finding(
            "reach",
            Verdict.FAULT,
            sentence,
            prober.proxy or "the proxy",
            "pass the URL on to hmacfs with its path, and compare the path with UploadSubDir; is hmacfs running?",
        )
    raise Hopeless


def methods(case: Case) -> Iterator[Finding]:
    """Every method arrives as what it is."""
    wrong = []
    for method in ("OPTIONS", "HEAD", "GET", "PUT", "POST", "PATCH", "DELETE"):
        heard = case.prober.mirror(method)
        if method == "OPTIONS":
            arrives = heard.status == HTTPStatus.NO_CONTENT and "PATCH" in heard.first("Allow")
        elif method == "HEAD":
            arrives = heard.status == HTTPStatus.OK and bool(heard.first("Upload-Offset"))
        else:
            arrives = heard.seen is not None and heard.seen["method"] == method
        if not arrives:
            wrong.append(f"{method} ({heard.status})")
    if wrong:
        yield case.fault("methods", f"Don't arrive: {', '.join(wrong)}.", "methods")
    else:
        yield fine("methods", "All methods arrive.")


def url_encoding(case: Case) -> Iterator[Finding]:
    """The path arrives as it was sent: it is signed."""
    heard = case.prober.mirror(rest=_ODD_PATH)
    sent = f"{case.prober.base.target}.doctor/{_ODD_PATH}"
    seen = heard.seen
    if seen is None:
        yield case.fault("url-encoding", f"A path with odd characters is answered with {heard.status}.", "url-encoding")
    elif seen["path"] != sent:
        yield case.fault("url-encoding", f"{sent} arrives as {seen['path']}.", "url-encoding")
    else:
        yield fine("url-encoding", "Paths arrive as they are sent.")


def request_headers(case: Case) -> Iterator[Finding]:
    """What clients say of their uploads arrives."""
    seen = case.prober.mirror("PUT", _REQUEST_HEADERS).seen
    if seen is None:
        yield case.fault("request-headers", "A request with all headers of uploads isn't passed on.", "request-headers")
        return
    arrived = {name.lower(): value for name, value in seen["headers"]}
    lost = [
        name
        for name, value in _REQUEST_HEADERS.items()
        if name.lower() not in arrived or (name != "Authorization" and arrived[name.lower()] != value)
    ]
    if lost:
        yield case.fault("request-headers", f"Lost or changed on the way: {', '.join(lost)}.", "request-headers")
    else:
        yield fine("request-headers", "The headers of requests arrive.")


def response_headers(case: Case) -> Iterator[Finding]:
    """What hmacfs answers arrives, and nothing is compressed."""
    heard = case.prober.mirror(headers={"Accept-Encoding": "gzip, br, zstd"})
    if heard.first("Content-Encoding"):
        sentence = f"Answers are compressed ({heard.first('Content-Encoding')}): lengths and ETags get lost."
        yield case.fault("compression", sentence, "compression")
    else:
        yield fine("compression", "Nothing is compressed.")
    lost = [name for name, value in TELLTALES.items() if name != "Location" and heard.first(name) != value]
    if lost:
        yield case.fault("response-headers", f"Lost or changed in answers: {', '.join(lost)}.", "response-headers")
    else:
        yield fine("response-headers", "The headers of answers arrive.")


def cors(case: Case) -> Iterator[Finding]:
    """Web clients may upload: the headers are there, each of them once."""
    asked = {"Origin": _ORIGIN, "Access-Control-Request-Method": "PUT"}
    preflight = case.prober.ask("OPTIONS", case.prober.url("hmacfs-doctor/x"), asked)
    actual = case.prober.mirror(headers={"Origin": _ORIGIN})
    refused = case.prober.ask("GET", case.prober.url("hmacfs-doctor/none"), {"Origin": _ORIGIN})
    heard = (("a preflight", preflight), ("an answer", actual), ("a refusal", refused))
    twice = [what for what, each in heard if len(_origins(each)) > 1]
    if twice:
        sentence = f"Access-Control-Allow-Origin stands in {' and '.join(twice)} more than once: browsers refuse that."
        yield case.fault("cors", sentence, "cors-twice")
        return
    without = [what for what, each in heard if len(_origins(each)) != 1]
    allowed = preflight.first("Access-Control-Allow-Methods")
    expected = METHODS
    if without:
        sentence = f"{' and '.join(without).capitalize()} comes without Access-Control-Allow-Origin."
        yield case.fault("cors", sentence, "cors-missing")
    elif allowed != expected:
        sentence = f"A preflight allows the methods {allowed or 'none'}, instead of {expected}."
        yield case.fault("cors", sentence, "cors-missing")
    else:
        yield fine("cors", "Web clients of any origin may upload.")


def client_address(case: Case) -> Iterator[Finding]:
    """hmacfs sees clients, and not the proxy in place of all of them."""
    seen = case.prober.mirror().seen
    forged = case.prober.mirror(headers={"X-Forwarded-For": _NOBODYS_ADDRESS, "X-Real-IP": _NOBODYS_ADDRESS}).seen
    if seen is None or forged is None:
        yield skipped("client-address", "The mirror didn't answer.")
    elif seen["headers_ignored"]:
        sentence = f"A proxy at {seen['address']} tells who the client is, and isn't believed."
        yield Finding(
            "client-address", Verdict.FAULT, sentence, "hmacfs", f'TrustedProxies = [..., "{seen["address"]}"]'
        )
    elif seen["is_proxy"] and not _is_local(case.prober.base.host):
        sentence = f"All clients look like {seen['address']}: they can't be told from each other, nor be banned."
        yield case.fault("client-address", sentence, "client-address")
    elif forged["headers_ignored"]:
        yield fine("client-address", f"We are seen as {seen['address']}, without a proxy.")
    elif _last_hop(forged) != _NOBODYS_ADDRESS:
        yield fine("client-address", f"We are seen as {seen['address']}.")
    elif case.prober.proxy or not _is_local(case.prober.base.host):
        sentence = "Clients can pretend to have any address, by an X-Forwarded-For of their own."
        yield case.fault("client-address", sentence, "client-address-forged")
    else:
        yield skipped("client-address", "There is no proxy in front, and this machine may say for whom it asks.")


def body_size(case: Case) -> Iterator[Finding]:
    """A body as large as MaxUploadSize is let through."""
    heard = case.prober.mirror("PUT", body=[bytes(_BODY_BYTES)])
    if heard.seen is None or heard.seen["body"]["received"] != _BODY_BYTES:
        sentence = f"A body of {human_size(_BODY_BYTES)} is answered with {heard.status} {_phrase(heard.status)}."
        yield case.fault("body-size", sentence, "body-size")
        return
    largest = case.max_upload_bytes
    if largest is None:
        yield fine("body-size", f"A body of {human_size(_BODY_BYTES)} gets through.")
        return
    path = case.path("large")
    slot = case.prober.slot(path, largest, "application/octet-stream", "v")
    refused = case.prober.limit(Url.parse(slot.put), largest)
    if refused is not None and refused.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        sentence = f"A body of {human_size(largest)}, which is MaxUploadSize, is answered with 413."
        yield case.fault("body-size", sentence, "body-size")
    elif refused is not None and refused.status == HTTPStatus.INSUFFICIENT_STORAGE:
        sentence = f"There is no room for a file of {human_size(largest)}, which is MaxUploadSize."
        yield Finding("body-size", Verdict.WARNING, sentence, "the disk", "a larger disk, or a smaller MaxUploadSize")
    else:
        yield fine("body-size", f"Bodies of up to {human_size(largest)} are taken.")


def request_buffering(case: Case) -> Iterator[Finding]:
    """A body arrives while it is sent."""
    piece = os.urandom(32 * 1024)
    seen = case.prober.mirror("PUT", body=[piece] * _PIECES, pause_s=_PAUSE_S).seen
    if seen is None or seen["body"]["first_s"] is None:
        yield skipped("request-buffering", "The mirror didn't get the body.")
        return
    took_s = seen["body"]["last_s"] - seen["body"]["first_s"]
    if took_s < _PAUSE_S:
        sentence = "Bodies are passed on when they are complete: broken uploads begin from nothing."
        yield case.fault("request-buffering", sentence, "request-buffering")
    else:
        yield fine("request-buffering", "Bodies arrive while they are sent.")


def timeouts(case: Case) -> Iterator[Finding]:
    """An answer that takes its time is waited for."""
    if not case.slow:
        yield skipped("timeouts", f"Takes {_LONG_WAIT_S} seconds: --slow.")
        return
    try:
        heard = case.prober.mirror(query=f"&wait={_LONG_WAIT_S}")
    except Broken as broken:
        yield case.fault("timeouts", f"An answer that takes {_LONG_WAIT_S} seconds: {broken}.", "timeouts")
        return
    if heard.seen is None:
        sentence = f"An answer that takes {_LONG_WAIT_S} seconds becomes {heard.status} {_phrase(heard.status)}."
        yield case.fault("timeouts", sentence, "timeouts")
    else:
        yield fine("timeouts", f"An answer that takes {_LONG_WAIT_S} seconds arrives.")


def clock(case: Case) -> Iterator[Finding]:
    """The clocks here and there agree: tokens have times in them."""
    before = time.time()
    seen = case.prober.mirror().seen
    after = time.time()
    if seen is None:
        yield skipped("clock", "The mirror didn't answer.")
        return
    skew_s = max(before - seen["now"], seen["now"] - after, 0.0)
    sentence = f"The clock of hmacfs differs from this one by {skew_s:.0f} seconds."
    if skew_s > _SKEW_WARNING_S:
        verdict = Verdict.FAULT if skew_s > _SKEW_FAULT_S else Verdict.WARNING
        yield Finding("clock", verdict, sentence, "the clock of one of them", "NTP (systemd-timesyncd, chrony)")
    else:
        yield fine("clock", sentence)


def condition(case: Case) -> Iterator[Finding]:
    """The server itself has nothing to complain about."""
    seen = case.prober.mirror().seen
    if seen is None:
        yield skipped("storage", "The mirror didn't answer.")
        return
    failing: Mapping[str, str] = seen["failing"]
    if "storage" in failing:
        yield Finding("storage", Verdict.FAULT, f"Files can't be stored: {failing['storage']}.", "the disk", "StoreDir")
    else:
        yield fine("storage", f"{human_size(int(seen['free_bytes']))} are free.")
    if seen["redis"] is None:
        yield fine("redis", "Not used.")
    elif seen["redis"]:
        yield fine("redis", "It answers.")
    else:
        yield Finding(
            "redis",
            Verdict.FAULT,
            "Redis doesn't answer: uploads can't be resumed.",
            "Redis",
            "RedisAddr, and Redis' log",
        )


def signatures(case: Case) -> Iterator[Finding]:
    """With each kind of signature a file is stored, and comes back as it was."""
    for scheme in (*SCHEMES, *(["v3"] if case.speaks_v3 else [])):
        yield _signature(case, scheme)


def _signature(case: Case, scheme: str) -> Finding:
    check = f"signature-{scheme}"
    path, content = case.path(f"{scheme} \u00e4.txt"), secrets.token_hex(16).encode()
    if scheme == "v3":
        put, headers = _v3(case, path), {}
    else:
        slot = case.prober.slot(path, len(content), "text/plain", scheme)
        put, headers = Url.parse(slot.put), dict(slot.headers)
    stored = case.prober.ask("PUT", put, {**headers, "Content-Type": "text/plain"}, [content])
    if stored.status != HTTPStatus.CREATED:
        sentence = f"An upload with a signature of this kind is answered with {stored.status} {_word(stored)}."
        return case.fault(check, sentence, "url-encoding")
    served = case.prober.ask("GET", case.prober.url(path.url))
    if served.status != HTTPStatus.OK or served.body != content:
        return case.fault(check, f"The file doesn't come back as it was ({served.status}).", "url-encoding")
    lost = [name for name in _SAFETY_HEADERS if not served.first(name)]
    if lost:
        return case.fault(check, f"Lost in the answer with the file: {', '.join(lost)}.", "response-headers")
    return fine(check, "A file is stored, and comes back.")


def _v3(case: Case, path: SlotPath) -> Url:
    expires = int(time.time()) + 600
    url_path = f"{case.prober.base.target}".encode() + path.encoded
    return case.prober.url(
        f"{path.url}?v3={mac(case.prober.secret, text_v3(b'PUT', expires, url_path)).hex()}&expires={expires}"
    )


def resume(case: Case) -> Iterator[Finding]:
    """A broken upload goes on where it was."""
    prober = case.prober
    path, content = case.path("resumed.bin"), os.urandom(_BODY_BYTES)
    url = Url.parse(prober.slot(path, len(content), "application/octet-stream", "v").put)
    prober.breaks_off(url, {}, len(content), content[: _BODY_BYTES // 2], patience_s=1.0)
    offset = _offset(prober, url)
    if not offset:
        sentence = "Of an upload that breaks off in the middle, nothing arrives."
        yield case.fault("resume", sentence, "request-buffering")
        return
    rest = {"Content-Range": f"bytes {offset}-{len(content) - 1}/{len(content)}"}
    stored = prober.ask("PUT", url, rest, [content[offset:]])
    served = prober.ask("GET", prober.url(path.url)) if stored.status == HTTPStatus.CREATED else stored
    if stored.status != HTTPStatus.CREATED:
        yield case.fault(
            "resume", f"The rest of an upload is answered with {stored.status} {_word(stored)}.", "request-headers"
        )
    elif sha256(served.body[: len(content)]).digest() != sha256(content[: len(served.body)]).digest():
        yield case.fault("resume", "The resumed file doesn't come back as it was.", "response-headers")
    else:
        yield fine("resume", f"An upload that broke off went on at byte {offset}.")


def _offset(prober: Prober, url: Url) -> int:
    """How much has arrived; asked for a while, as a proxy may notice late that its client is gone."""
    for _ in range(10):
        heard = prober.ask("HEAD", url)
        if heard.first("Upload-Offset").isdigit():
            return int(heard.first("Upload-Offset"))
        time.sleep(0.3)
    return 0


#: In this order. Who knows that nothing works any more says so, and the rest isn't tried.
CHECKS: Final[tuple[Check, ...]] = (
    dns,
    tls,
    reach,
    clock,
    condition,
    methods,
    url_encoding,
    request_headers,
    response_headers,
    cors,
    client_address,
    body_size,
    request_buffering,
    signatures,
    resume,
    timeouts,
)


def _answers(family: int, where: Any) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(5)
        return sock.connect_ex(where) == 0


def _origins(heard: Heard) -> list[str]:
    lines = heard.fields.get("access-control-allow-origin", [])
    return [origin for line in lines for origin in line.split(",")]


def _last_hop(seen: Mapping[str, Any]) -> str:
    """What stands last in X-Forwarded-For: what the proxy next to hmacfs has written, or has let through."""
    lines = [value for name, value in seen["headers"] if name.lower() == "x-forwarded-for"]
    return ",".join(lines).rpartition(",")[2].strip()


def _is_local(host: str) -> bool:
    try:
        addresses = {str(info[4][0]).partition("%")[0] for info in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return all(ip_address(address).is_loopback for address in addresses)


def _word(heard: Heard) -> str:
    """The reason that hmacfs gives, or the words of the status."""
    first = heard.body[:200].decode("utf-8", "replace").split(":")[0].strip()
    return first if first.replace("-", "").isalpha() and len(first) < 40 else _phrase(heard.status)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
