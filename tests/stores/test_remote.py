"""A store on another machine, read from real servers on this one: S3 (moto's), http and https (Python's)."""

import datetime as dt
import functools
import http.client
import http.server
import itertools
import logging
import os
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
import zarr
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from moto.server import ThreadedMotoServer
from stores_kit import SHAPES, embeddings, filled, images

import stores
from stores.errors import (
    ExtraMissingError,
    RemoteError,
    RowsMissingError,
    StoreDamagedError,
    StoreMismatchError,
    StoreNotFoundError,
)
from stores.features import FeatureStore, open_features

pytestmark = [pytest.mark.usefixtures("small_chunks"), pytest.mark.slow]

ROWS = 40
"""In chunks of 16: two full ones and a part."""

BUCKET = "bucket"
NUMBERS = itertools.count()
OPTIONS = {"access_key_id": "test", "secret_access_key": "test", "region": "us-east-1"}


class Server:
    """An S3 server, and a bucket in it."""

    def __init__(self, url: str) -> None:
        self.url = url
        session = boto3.Session(OPTIONS["access_key_id"], OPTIONS["secret_access_key"], region_name=OPTIONS["region"])
        self.client: Any = session.client("s3", endpoint_url=url)
        self.client.create_bucket(Bucket=BUCKET)
        self.options: dict[str, Any] = {
            "config": {"endpoint": url, **OPTIONS},
            "client_options": {"allow_http": True},
        }

    def upload(self, folder: Path, prefix: str) -> str:
        """Put all files of a folder under a prefix; answers the address."""
        for path in folder.rglob("*"):
            if path.is_file():
                self.client.upload_file(str(path), BUCKET, f"{prefix}/{path.relative_to(folder).as_posix()}")
        return f"s3://{BUCKET}/{prefix}"

    def open(self, address: str) -> FeatureStore:
        return open_features(address, **self.options)

    def ask_who_it_is(self, *, strictly: bool) -> None:
        """Let the server know nobody, or let everybody in (as it does by itself)."""
        line = http.client.HTTPConnection(self.url.removeprefix("http://"))
        line.request("POST", "/moto-api/reset-auth", b"0" if strictly else b"1000000000")
        assert line.getresponse().status == 200
        line.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    try:
        host, port = running.get_host_and_port()
        yield Server(f"http://{host}:{port}")
    finally:
        running.stop()


@pytest.fixture(autouse=True)
def nothing_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return filled(tmp_path / "store", 10, ROWS).folder


@pytest.fixture
def address(server: Server, folder: Path) -> str:
    return server.upload(folder, f"features/{next(NUMBERS)}")


def holds_all(store: FeatureStore) -> None:
    """Assert that a store answers what was appended, whole and in part, of all outputs."""
    assert len(store) == ROWS
    assert store.images == images(0, ROWS)
    assert store.outputs == SHAPES
    for name, shape in SHAPES.items():
        matrix, ids = store.load(output=name)
        assert ids == images(0, ROWS)
        assert matrix.dtype == np.float32
        np.testing.assert_array_equal(matrix, embeddings(0, ROWS, shape))
    matrix, ids = store.load([*reversed(images(12, 20)), images(ROWS - 1, ROWS)[0]])
    np.testing.assert_array_equal(matrix, embeddings(0, ROWS)[[*reversed(range(12, 20)), ROWS - 1]])


def clear_sentence(error: BaseException) -> str:
    """What an error says, after checking that it is for people: one line, no inner parts, no markup."""
    text = str(error)
    assert "\n" not in text
    assert len(text) < 400
    assert not [part for part in ("Debug", "RetryError", "{ ", "<", "max_retries") if part in text]
    return text


class TestS3:
    def test_matrix_ids_outputs_and_order_are_those_of_the_store(self, server: Server, address: str) -> None:
        holds_all(server.open(address))

    def test_a_slash_at_the_end_changes_nothing(self, server: Server, address: str) -> None:
        holds_all(server.open(f"{address}/"))

    def test_it_is_the_same_store(self, server: Server, folder: Path, address: str) -> None:
        here, there = FeatureStore.open(folder), server.open(address)
        assert (there.digest, there.recipe, there.where) == (here.digest, here.recipe, address)
        assert stores.open_features is open_features

    def test_endpoint_and_credentials_may_come_from_the_environment(
        self, server: Server, address: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
        for name, value in OPTIONS.items():
            monkeypatch.setenv(f"AWS_{name.upper()}", value)
        holds_all(open_features(address))

    def test_an_empty_store_is_read(self, server: Server, tmp_path: Path) -> None:
        store = server.open(server.upload(filled(tmp_path / "empty").folder, "empty"))
        assert (len(store), store.images) == (0, [])
        assert store.load().matrix.shape == (0, 3)

    def test_a_cohort_is_a_view_onto_it(self, server: Server, address: str) -> None:
        samples = {"s-2": images(7, 8)[0], "s-1": images(30, 31)[0]}
        matrix, ids = server.open(address).view(samples).load()
        assert ids == ["s-2", "s-1"]
        np.testing.assert_array_equal(matrix, embeddings(0, ROWS)[[7, 30]])

    def test_images_that_it_does_not_hold_are_missing(self, server: Server, address: str) -> None:
        store = server.open(address)
        assert store.missing(images(ROWS - 1, ROWS + 2)) == images(ROWS, ROWS + 2)
        with pytest.raises(RowsMissingError, match="1 of 2 images have no features"):
            store.load(images(ROWS - 1, ROWS + 1))
        with pytest.raises(StoreMismatchError, match="no output 'stages'"):
            store.load(output="stages")

    def test_rows_that_were_added_meanwhile_are_seen_after_a_refresh(
        self, server: Server, folder: Path, address: str
    ) -> None:
        store = server.open(address)
        assert len(store.load().matrix) == ROWS
        FeatureStore.open(folder).append(
            images(ROWS, ROWS + 9), {name: embeddings(ROWS, ROWS + 9, shape) for name, shape in SHAPES.items()}
        )
        server.upload(folder, address.removeprefix(f"s3://{BUCKET}/"))
        store.refresh()
        np.testing.assert_array_equal(store.load().matrix, embeddings(0, ROWS + 9))
        assert store.images == images(0, ROWS + 9)


class TestDamage:
    def key(self, address: str, name: str) -> str:
        return f"{address.removeprefix(f's3://{BUCKET}/')}/{name}"

    def change(self, server: Server, key: str, offset: int) -> None:
        content = bytearray(server.client.get_object(Bucket=BUCKET, Key=key)["Body"].read())
        content[offset] ^= 1
        server.client.put_object(Bucket=BUCKET, Key=key, Body=bytes(content))

    @pytest.mark.parametrize("output", ["embedding", "blocks"])
    @pytest.mark.parametrize("offset", [0, 100, -1], ids=["first byte", "amid", "checksum"])
    def test_a_flipped_byte_is_found(self, server: Server, address: str, output: str, offset: int) -> None:
        tail = ".0" * len(SHAPES[output])
        self.change(server, self.key(address, f"{output}/c.1{tail}"), offset)
        store = server.open(address)
        with pytest.raises(StoreDamagedError, match=output):
            store.load(output=output)
        (other,) = set(SHAPES) - {output}
        assert len(store.load(output=other).matrix) == ROWS

    def test_a_flipped_byte_in_the_digests_is_found(self, server: Server, address: str) -> None:
        self.change(server, self.key(address, "image/c.0.0"), 33)
        with pytest.raises(StoreDamagedError, match="image"):
            server.open(address).load()

    @pytest.mark.parametrize("chunk", [0, 1, 2])
    def test_a_missing_chunk_is_not_read_as_zeros(self, server: Server, address: str, chunk: int) -> None:
        server.client.delete_object(Bucket=BUCKET, Key=self.key(address, f"embedding/c.{chunk}.0"))
        with pytest.raises(StoreDamagedError, match=f"chunk {chunk} of 'embedding'.*is missing or not what was"):
            server.open(address).load()

    def test_a_chunk_in_the_place_of_another_is_found(self, server: Server, address: str) -> None:
        source = {"Bucket": BUCKET, "Key": self.key(address, "embedding/c.0.0")}
        server.client.copy_object(CopySource=source, Bucket=BUCKET, Key=self.key(address, "embedding/c.1.0"))
        with pytest.raises(StoreDamagedError, match="chunk 1 of 'embedding'"):
            server.open(address).load()

    def test_a_chunk_that_was_cut_is_found(self, server: Server, address: str) -> None:
        key = self.key(address, "embedding/c.2.0")
        content = server.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        server.client.put_object(Bucket=BUCKET, Key=key, Body=content[:-9])
        with pytest.raises(StoreDamagedError, match="embedding"):
            server.open(address).load()

    def test_an_altered_commit_record_is_found(self, server: Server, address: str) -> None:
        self.change(server, self.key(address, "commit.json"), 60)
        with pytest.raises(StoreDamagedError, match="commit record"):
            server.open(address)

    @pytest.mark.parametrize("change", ["gone", "no JSON", "other metadata"])
    def test_metadata_that_are_not_what_was_written_are_damage(
        self, server: Server, folder: Path, address: str, change: str
    ) -> None:
        key = self.key(address, "embedding/zarr.json")
        text = (folder / "embedding" / "zarr.json").read_text()
        other = {"no JSON": text[:-5], "other metadata": text.replace('"float32"', '"int32"').replace("0.0", "0")}
        if change == "gone":
            server.client.delete_object(Bucket=BUCKET, Key=key)
        else:
            server.client.put_object(Bucket=BUCKET, Key=key, Body=other[change].encode())
        with pytest.raises(StoreDamagedError, match="embedding"):
            server.open(address).load()

    @pytest.mark.parametrize("name", ["commit.json", None])
    def test_a_store_that_is_not_there(self, server: Server, address: str, name: str | None) -> None:
        if name:
            server.client.delete_object(Bucket=BUCKET, Key=self.key(address, name))
        where = address if name else f"s3://{BUCKET}/nowhere"
        with pytest.raises(StoreNotFoundError, match=rf"{where} holds no committed store") as caught:
            server.open(where)
        clear_sentence(caught.value)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds


class TestUnreachable:
    """One clear sentence, and soon."""

    def refused(self, address: str, **options: Any) -> str:
        with within(15), pytest.raises(RemoteError) as caught:
            open_features(address, **options)
        assert isinstance(caught.value, OSError)
        return clear_sentence(caught.value)

    def test_a_bucket_that_does_not_exist(self, server: Server) -> None:
        said = self.refused("s3://nobucket/key", **server.options)
        assert "s3://nobucket/key cannot be read (NoSuchBucket: The specified bucket does not exist)" in said

    def test_credentials_that_nobody_knows(self, server: Server, address: str) -> None:
        server.ask_who_it_is(strictly=True)
        try:
            said = self.refused(address, **server.options)
        finally:
            server.ask_who_it_is(strictly=False)
        assert "InvalidAccessKeyId" in said
        assert "AWS_ACCESS_KEY_ID" in said
        holds_all(server.open(address))

    def test_no_credentials(self, server: Server, address: str) -> None:
        config = {"endpoint": server.url, "region": "us-east-1"}
        said = self.refused(address, config=config, client_options={"allow_http": True})
        assert "there are no credentials" in said

    def test_a_port_where_nobody_listens(self, server: Server, address: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        config = {**OPTIONS, "endpoint": f"http://127.0.0.1:{port}"}
        said = self.refused(address, config=config, client_options={"allow_http": True})
        assert f"127.0.0.1:{port}" in said
        assert "AWS_ENDPOINT_URL" in said

    def test_a_machine_that_takes_the_call_and_says_nothing(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            port = silent.getsockname()[1]
            self.refused(f"http://127.0.0.1:{port}/store", client_options={"timeout": "300ms"})

    def test_how_often_it_is_tried_can_be_stated(self) -> None:
        with within(2), pytest.raises(RemoteError):
            open_features("https://127.0.0.1:1/store", retry_config={"max_retries": 0})

    def test_an_endpoint_that_is_not_encrypted_must_be_allowed(self, server: Server, address: str) -> None:
        said = self.refused(address, config={"endpoint": server.url, **OPTIONS})
        assert "AWS_ALLOW_HTTP=true" in said

    @pytest.mark.parametrize(
        ("options", "part"),
        [
            ({"config": {"endpont": "x"}}, "'endpont' is not valid"),
            ({"config": {"allow_http": "true", **OPTIONS}}, "belongs into `client_options`"),
        ],
    )
    def test_an_option_that_is_not_understood(self, options: dict[str, Any], part: str) -> None:
        assert part in self.refused("s3://bucket/key", **options)

    @pytest.mark.parametrize("address", ["ftp://host/store", "s4://bucket/key"])
    def test_an_address_that_is_not_understood(self, address: str) -> None:
        assert f"{address} cannot be read" in self.refused(address)

    def test_a_machine_that_goes_away_between_two_chunks(self, folder: Path) -> None:
        with serving(folder) as there:
            store = open_features(there, retry_config={"max_retries": 0})
        with within(15), pytest.raises(RemoteError) as caught:
            store.load()
        clear_sentence(caught.value)


class TestReadOnly:
    def test_nothing_is_written_to_another_machine(self, server: Server, address: str) -> None:
        store = server.open(address)
        with pytest.raises(RemoteError, match=rf"{address} is on another machine, where it can only be read"):
            store.append(images(90, 91), {name: embeddings(90, 91, shape) for name, shape in SHAPES.items()})
        with pytest.raises(RemoteError, match="can only be read"), store.writing():
            pass
        with pytest.raises(RemoteError, match="copy it here first"):
            _ = store.folder
        with pytest.raises(RemoteError, match="copy it here first"):
            store.load_mapped()
        holds_all(server.open(address))

    def test_without_the_extra_the_way_to_it_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "obstore", None)
        monkeypatch.setitem(sys.modules, "obstore.store", None)
        with pytest.raises(
            ExtraMissingError, match=r"s3://bucket/key needs .*pip install 'peftbench\[remote\]'"
        ) as caught:
            open_features("s3://bucket/key")
        assert isinstance(caught.value, ImportError)

    def test_a_folder_needs_no_extra(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "obstore", None)
        holds_all(open_features(folder))


def certificate(folder: Path) -> Path:
    """A key and a certificate that it signed itself, for this machine."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    form = serialization.Encoding.PEM
    private = key.private_bytes(form, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "both.pem").write_bytes(private + signed.public_bytes(form))
    return folder / "both.pem"


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and says nothing of it."""

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving(folder: Path, pem: Path | None = None) -> Iterator[str]:
    """A web server on this machine; answers the folder's address."""
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder.parent))
    ) as web:
        if pem:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(pem)
            web.socket = context.wrap_socket(web.socket, server_side=True)
        thread = threading.Thread(target=web.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"{'https' if pem else 'http'}://127.0.0.1:{web.server_port}/{folder.name}"
        finally:
            web.shutdown()
            thread.join()


class TestWeb:
    def test_a_store_behind_http_is_read(self, folder: Path) -> None:
        with serving(folder) as address:
            holds_all(open_features(address))

    def test_a_store_behind_https_is_read(self, folder: Path, tmp_path: Path) -> None:
        with serving(folder, certificate(tmp_path)) as address:
            holds_all(open_features(address, client_options={"allow_invalid_certificates": True}))

    def test_a_certificate_that_nobody_vouches_for_is_refused(self, folder: Path, tmp_path: Path) -> None:
        with serving(folder, certificate(tmp_path)) as address, within(15), pytest.raises(RemoteError) as caught:
            open_features(address)
        assert "AWS_" not in clear_sentence(caught.value)

    def test_a_missing_chunk_is_not_read_as_zeros(self, folder: Path) -> None:
        (folder / "embedding" / "c.1.0").unlink()
        with serving(folder) as address, pytest.raises(StoreDamagedError, match="chunk 1 of 'embedding'"):
            open_features(address).load()

    def test_a_store_that_is_not_there(self, folder: Path) -> None:
        with serving(folder) as address, pytest.raises(StoreNotFoundError, match="holds no committed store"):
            open_features(f"{address}-not")


class TestOtherReaders:
    """Whoever has Zarr reads the same store there, without this library, by the group's consolidated metadata."""

    def test_zarr_reads_it_from_s3_and_from_the_web(self, server: Server, folder: Path, address: str) -> None:
        from obstore.store import HTTPStore, S3Store

        prefix = address.removeprefix(f"s3://{BUCKET}/")
        s3 = S3Store(BUCKET, prefix=prefix, config=server.options["config"], client_options={"allow_http": True})
        with serving(folder) as web:
            http = HTTPStore.from_url(web, client_options={"allow_http": True})
            for store in (s3, http):
                # The web cannot list: without consolidated metadata nobody would know which arrays there are.
                group = zarr.open_group(
                    zarr.storage.ObjectStore(store, read_only=True), mode="r", use_consolidated=True
                )
                assert set(SHAPES) < set(group.array_keys())
                for name, shape in SHAPES.items():
                    np.testing.assert_array_equal(group[name][:], embeddings(0, ROWS, shape))

    def test_xarray_reads_it_from_s3(self, server: Server, address: str) -> None:
        xarray = pytest.importorskip("xarray")
        from obstore.store import from_url

        store = zarr.storage.ObjectStore(from_url(address, **server.options), read_only=True)
        with xarray.open_zarr(store, consolidated=True) as found:
            assert dict(found.sizes)["row"] == ROWS
            for name, shape in SHAPES.items():
                np.testing.assert_array_equal(found[name].to_numpy(), embeddings(0, ROWS, shape))
            assert bytes(found["image"][3].to_numpy()).hex() == images(3, 4)[0]
