"""MNIST over a real connection, from a server on this computer: what arrives is believed when it has been verified."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import http.server
import os
import shutil
import ssl
import subprocess
import threading
from pathlib import Path

import pytest
import test_datasets

from portnn.datasets import load_mnist, mnist
from portnn.errors import FormatError

pytest.importorskip("pooch", reason="pooch is not installed")
# pooch leaves it to the garbage collector to close the connections that it gives up
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
tiny = test_datasets.tiny
ENDLESS = 4 * mnist.MAX_DOWNLOAD


class Mirror(http.server.BaseHTTPRequestHandler):
    """Sends what ``server.files`` has under the path, or does what ``server.deeds`` says."""

    def do_GET(self):
        server = self.server
        server.asked.append(self.path)
        mirror, name = self.path.strip("/").split("/")
        deed = server.deeds.get(mirror)
        content = server.files[name.removesuffix(".gz")]
        if deed == "moved":
            self.send_response(302)
            self.send_header("Location", f"/elsewhere/{name}")
            self.end_headers()
            return
        if deed == "gone":
            self.send_error(404)
            return
        self.send_response(200)
        if deed == "endless":
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                for _ in range(ENDLESS >> 16):
                    self.wfile.write(bytes(1 << 16))
                    server.sent += 1 << 16
            return
        if deed == "altered":
            content = test_datasets.zipped(b"\0\0\x08\1\0\0\0\1a")
        self.send_header("Content-Length", str(len(content) + 1000 * (deed == "cut off")))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(tiny, monkeypatch):
    """Two mirrors, http://127.0.0.1:PORT/first/ and .../second/."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror) as server:
        server.files, server.deeds, server.asked, server.sent = tiny, {}, [], 0
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        base = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setattr(mnist, "MIRRORS", (f"{base}/first/", f"{base}/second/"))
        yield server
        server.shutdown()
        thread.join()
    gc.collect()


def test_the_mirrors_themselves():
    """Two of different owners, by https alone, and a SHA-256 of the raw content for each file."""
    assert len({mirror.split("/")[2] for mirror in mnist.MIRRORS}) == 2
    assert all(mirror.startswith("https://") and mirror.endswith("/") for mirror in mnist.MIRRORS)
    assert len(mnist.SHA256) == 4
    assert all(len(bytes.fromhex(digest)) == 32 for digest in mnist.SHA256.values())


def test_a_download(server, tmp_path):
    test_datasets.check_tiny(load_mnist(tmp_path))
    assert server.asked == [f"/first/{name}.gz" for name in mnist.SHA256]
    for name, content in server.files.items():
        assert (tmp_path / "mnist" / f"{name}.gz").read_bytes() == content


@pytest.mark.parametrize("deed", ["altered", "cut off", "moved", "gone", "endless"])
def test_what_is_no_good_comes_from_the_second_mirror(server, tmp_path, deed):
    server.deeds = {"first": deed}
    test_datasets.check_tiny(load_mnist(tmp_path))
    assert not any(path.startswith("/elsewhere") for path in server.asked), "an answer from elsewhere is not asked for"
    assert [path.split("/")[1] for path in server.asked] == ["first", "second"] * 4
    assert server.sent < 4 * ENDLESS, "what is too long is not read to its end"


@pytest.mark.parametrize("deed", ["altered", "cut off", "moved", "gone", "endless"])
def test_nothing_is_left_where_no_mirror_is_good(server, tmp_path, deed):
    server.deeds = {"first": deed, "second": deed}
    with pytest.raises((FormatError, ConnectionError), match=r"^load_mnist: ") as caught:
        load_mnist(tmp_path)
    assert len(str(caught.value)) < 500
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_moved_to_its_place_when_it_is_verified(server, tmp_path, monkeypatch):
    """At every moment before, nothing has its name: the bytes are checked in memory, written aside, and renamed."""
    seen, verified, replace = [], mnist._verified, os.replace

    def verify(array, name):
        seen.append(("verify", name, sorted(p.name for p in tmp_path.rglob("*.*"))))
        return verified(array, name)

    def rename(source, target):
        digest = hashlib.sha256(Path(source).read_bytes()).hexdigest()
        seen.append(("rename", Path(target).name, digest))
        return replace(source, target)

    monkeypatch.setattr(mnist, "_verified", verify)
    monkeypatch.setattr(os, "replace", rename)
    load_mnist(tmp_path)
    first = next(iter(mnist.SHA256))
    assert seen[0] == ("verify", first, [])
    assert seen[1] == ("rename", f"{first}.gz", hashlib.sha256(server.files[first]).hexdigest())


def test_a_certificate_that_nobody_vouches_for(server, tmp_path, monkeypatch):
    """https with a certificate made here: refused, until its maker is named as trusted."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    command = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", "key.pem", "-out", "certificate.pem"]
    subprocess.run([openssl, *command], cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate.pem", tmp_path / "key.pem")
    server.handle_error = lambda *arguments: None
    server.socket = context.wrap_socket(server.socket, server_side=True)
    monkeypatch.setattr(mnist, "MIRRORS", tuple(mirror.replace("http:", "https:") for mirror in mnist.MIRRORS))
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConnectionError, match="SSLError"):
        load_mnist(tmp_path / "data")
    assert server.asked == []
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "certificate.pem"))
    test_datasets.check_tiny(load_mnist(tmp_path / "data"))
