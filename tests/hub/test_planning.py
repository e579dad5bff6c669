"""From names to files: ModelScope, an Ollama store, a folder of LM Studio, URLs, S3; what of a repository is taken."""

import hashlib
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hub_server import Asked, HubServer, running_hub
from scripted_sources import Recorder

from abaci import hub as package
from abaci.errors import (
    AbaciError,
    DownloadError,
    FileFormatError,
    IntegrityError,
    ModelNotFoundError,
    UnsupportedModelError,
    UsageError,
)
from abaci.hub.download import fetch
from abaci.hub.http_source import UrlSource
from abaci.hub.names import parse_name
from abaci.hub.network import Network
from abaci.hub.planning import plan
from abaci.hub.references import StoredModel
from abaci.hub.repositories import ListedFile, Listing, quantisation_of, wanted_model
from abaci.hub.s3 import S3Source, Signer
from abaci.hub.store import Store
from abaci.hub.wanted import Digest, WantedFile, WantedModel

WEIGHTS = bytes(range(256)) * 6_000
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with running_hub() as server:
        yield server


def pull(name: str, store: Store) -> StoredModel:
    network = Network()
    return fetch(plan(parse_name(name), network), store, Recorder(), network)


class ModelScope:
    """Routes of ModelScope on the server of the tests."""

    def __init__(self, server: HubServer, files: dict[str, bytes]) -> None:
        server.repositories = {"files/here": files}
        self.files = files
        self.server = server

    def answer(self, handler: Any) -> bool:
        url = urlsplit(handler.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if not url.path.startswith("/api/v1/models/maker/model/repo"):
            handler.send(404, b'{"Code": 10010205001}')
        elif url.path.endswith("/files"):
            listed = [
                {"Type": "blob", "Path": path, "Size": len(data), "Sha256": hashlib.sha256(data).hexdigest()}
                for path, data in self.files.items()
            ]
            listed.append({"Type": "tree", "Path": "folder", "Size": 0, "Sha256": ""})
            handler.send(200, json.dumps({"Code": 200, "Data": {"Files": listed}}).encode())
        else:
            handler.send_content(self.files[query["FilePath"]], {})
        return True


@pytest.fixture
def model_scope(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> ModelScope:
    routes = ModelScope(hub, {"tiny-q4_k_m.gguf": WEIGHTS, "tiny-q8_0.gguf": WEIGHTS[::-1], "README.md": b"#"})
    hub.routes = routes.answer
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", hub.hub_url)
    return routes


def test_modelscope(model_scope: ModelScope, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "ms_secret")
    model = pull("modelscope/maker/model:q8_0", store)
    assert model.path.read_bytes() == WEIGHTS[::-1]
    assert (model.name, model.source) == ("modelscope/maker/model:Q8_0", "ModelScope")
    assert all(one.headers["authorization"] == "Bearer ms_secret" for one in model_scope.server.asked)
    assert pull("modelscope/maker/model", store).path.read_bytes() == WEIGHTS


def test_modelscope_names_what_is_missing(model_scope: ModelScope, store: Store) -> None:
    with pytest.raises(DownloadError, match="ModelScope has no repository maker/other"):
        pull("modelscope/maker/other", store)
    with pytest.raises(ModelNotFoundError, match="has no Q2_K") as caught:
        pull("modelscope/maker/model:q2_k", store)
    assert caught.value.hint == "It has Q4_K_M, Q8_0."


def test_modelscope_and_wrong_bytes(model_scope: ModelScope, store: Store) -> None:
    model_scope.server.faults.wrong_byte_at = 5
    with pytest.raises(IntegrityError):
        pull("modelscope/maker/model", store)
    assert store.all() == []


def ollama(name: str = "llama3.2", tag: str = "3b", **layers: bytes) -> Path:
    """A model in an Ollama store; returns its blob."""
    home = Path(os.environ["OLLAMA_MODELS"])
    entries = []
    for kind, data in (layers or {"model": WEIGHTS, "template": b"{{ .Prompt }}", "license": b"MIT"}).items():
        digest = hashlib.sha256(data).hexdigest()
        (home / "blobs").mkdir(parents=True, exist_ok=True)
        (home / "blobs" / f"sha256-{digest}").write_bytes(data)
        media_type = f"application/vnd.ollama.image.{kind}"
        entries.append({"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)})
    manifest = home / "manifests" / "registry.ollama.ai" / "library" / name / tag
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": entries}))
    return home / "blobs" / f"sha256-{SHA256}"


def test_a_model_of_ollama_is_used_where_it_is(store: Store) -> None:
    blob = ollama()
    before = (blob.stat().st_mtime_ns, blob.stat().st_ino)
    model = pull("ollama/llama3.2:3b", store)
    assert model.path.resolve() == blob
    assert model.path.suffix == ".gguf"
    assert not model.files[0].is_ours
    assert not list((store.home / "partial").iterdir()) if (store.home / "partial").exists() else True
    assert store.check(model) == model
    assert store.remove(model) == 0
    assert (blob.stat().st_mtime_ns, blob.stat().st_ino) == before
    assert blob.read_bytes() == WEIGHTS


def test_a_damaged_blob_of_ollama_is_not_used(store: Store) -> None:
    ollama().write_bytes(WEIGHTS[:-1] + b"?")
    with pytest.raises(DownloadError):
        pull("ollama/llama3.2:3b", store)


def test_ollama_names_what_it_has(store: Store) -> None:
    with pytest.raises(ModelNotFoundError, match="not in Ollama's store") as caught:
        pull("ollama/none", store)
    assert "OLLAMA_MODELS" in str(caught.value.hint)
    ollama()
    with pytest.raises(ModelNotFoundError) as caught:
        pull("ollama/none", store)
    assert caught.value.hint == "It has ollama/llama3.2:3b."


@pytest.mark.parametrize("kind", ["adapter", "projector"])
def test_a_model_of_ollama_with_more_than_weights_is_refused(store: Store, kind: str) -> None:
    ollama(model=WEIGHTS, **{kind: b"more"})
    with pytest.raises(UnsupportedModelError, match="has an"):
        pull("ollama/llama3.2:3b", store)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "null",
        "[" * 100_000,
        '{"layers": [{}]}',
        '{"layers": [{"mediaType": "x", "digest": "sha256:../../x", "size": 1}]}',
        '{"layers": [{"mediaType": "x", "digest": "sha256:' + "0" * 64 + '", "size": -1}]}',
    ],
)
def test_a_manifest_that_is_none(store: Store, text: str) -> None:
    ollama()
    (Path(os.environ["OLLAMA_MODELS"]) / "manifests/registry.ollama.ai/library/llama3.2/3b").write_text(text)
    with pytest.raises(FileFormatError, match="not a manifest"):
        pull("ollama/llama3.2:3b", store)


def lm_studio(*names: str) -> Path:
    folder = Path(os.environ["LM_STUDIO_MODELS"]) / "maker" / "model"
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_bytes(WEIGHTS)
    return folder


def test_a_model_of_lm_studio_is_used_where_it_is(store: Store) -> None:
    folder = lm_studio("tiny-Q4_K_M.gguf", "tiny-Q8_0.gguf", "mmproj-tiny.gguf")
    model = pull("lmstudio/maker/model:q8_0", store)
    assert model.path == folder / "tiny-Q8_0.gguf"
    assert model.sha256 == SHA256
    assert store.remove(model) == 0
    assert model.path.exists()
    with pytest.raises(ModelNotFoundError) as caught:
        pull("lmstudio/maker/other", store)
    assert caught.value.hint == "It has lmstudio/maker/model."


def test_a_file_of_lm_studio_serves_for_one_wanted_by_hash(store: Store, hub: HubServer) -> None:
    folder = lm_studio("tiny.gguf")
    file = WantedFile("tiny.gguf", len(WEIGHTS), Digest.sha256(SHA256), (UrlSource(hub.hub_url),))
    model = fetch(WantedModel("tiny:1b", (file,)), store, Recorder(), Network())
    assert model.path == folder / "tiny.gguf"
    assert hub.asked == []


def test_a_url_and_its_shards(store: Store, hub: HubServer) -> None:
    shards = {f"big-{number:05}-of-00003.gguf": WEIGHTS[: number * 2000] for number in (1, 2, 3)}
    hub.repositories = {"maker/model": shards}
    model = pull(f"{hub.hub_url}/maker/model/resolve/main/big-00001-of-00003.gguf", store)
    assert [file.path for file in model.files] == sorted(shards)
    assert model.path.name == "big-00001-of-00003.gguf"
    for name, data in shards.items():
        assert (model.path.parent / name).read_bytes() == data
    assert store.get(model.name) == model


def test_a_url_without_a_hash_is_taken_as_it_comes_and_noted(store: Store, hub: HubServer) -> None:
    hub.repositories = {"maker/model": {"other.gguf": WEIGHTS}}
    hub.routes = lambda handler: handler.send_content(WEIGHTS, {}) is None
    model = pull(f"{hub.hub_url}/files/tiny.gguf", store)
    assert model.sha256 == SHA256
    assert model.path.read_bytes() == WEIGHTS
    with pytest.raises(DownloadError):
        pull("http://127.0.0.1:1/tiny.gguf", store)


def test_pull_from_a_mirror(store: Store, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A catalog's model from a folder of URLs: the hash decides."""
    monkeypatch.setenv("ABACI_HOME", str(store.home))
    hub.routes = lambda handler: handler.send_content(bytes(98362432), {}) is None
    with pytest.raises(IntegrityError):
        package.pull("smollm2:135m", source=f"{hub.hub_url}/mirror/")
    assert hub.asked[0].path == "/mirror/SmolLM2-135M-Instruct.Q4_1.gguf"
    with pytest.raises(UsageError):
        package.pull("smollm2:135m", source="ftp://host/x")


def test_s3_signs_as_amazon_does() -> None:
    """The GET example of the documentation of Signature Version 4."""
    signer = Signer("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "us-east-1")
    url = urlsplit("https://examplebucket.s3.amazonaws.com/test.txt")
    headers = signer.headers_at(url, datetime(2013, 5, 24, tzinfo=UTC), {"range": "bytes=0-9"})
    assert headers["Authorization"].endswith(
        "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,"
        "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    )


def test_s3_style_endpoints(store: Store, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.routes = lambda handler: handler.send_content(WEIGHTS, {}) is None
    monkeypatch.setenv("AWS_ENDPOINT_URL", hub.hub_url)
    source = S3Source.read("s3://bucket/models/")
    file = WantedFile("tiny.gguf", len(WEIGHTS), Digest.sha256(SHA256), (source,))
    model = fetch(WantedModel("tiny:1b", (file,)), store, Recorder(), Network())
    assert model.path.read_bytes() == WEIGHTS
    assert {one.path for one in hub.asked} == {"/bucket/models/tiny.gguf"}
    assert not any("authorization" in one.headers for one in hub.asked)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    store.remove(model)
    hub.asked.clear()
    fetch(WantedModel("tiny:1b", (file,)), store, Recorder(), Network())
    assert all(one.headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=key/") for one in hub.asked)
    assert "secret" not in repr(source.request("x"))


def test_s3_of_amazon() -> None:
    assert (
        S3Source.read("s3://bucket/a b.gguf").request("").url == "https://bucket.s3.us-east-1.amazonaws.com/a%20b.gguf"
    )
    for address in ("s3://", "s3://b/x", "s3://Bucket/x", "s3://bucket/", "s3://bucket/../x", "s3://a..b/x"):
        with pytest.raises(UsageError):
            S3Source.read(address)


def listing(*paths: str) -> Listing:
    files = tuple(ListedFile(path, 10, Digest.sha256("0" * 64)) for path in paths)
    return Listing("maker/model", "", files, UrlSource("http://host/"))


def chosen(*paths: str, quantisation: str | None = None) -> list[str]:
    return [file.path for file in wanted_model("x", listing(*paths), quantisation).files]


def test_the_usual_quantisation_is_taken() -> None:
    assert chosen("m-Q8_0.gguf", "m-q4_k_m.gguf", "m-F16.gguf") == ["m-q4_k_m.gguf"]
    assert chosen("m-Q8_0.gguf", "m-Q2_K.gguf") == ["m-Q8_0.gguf"]
    assert chosen("only.gguf", "mmproj-only.gguf", "config.json") == ["only.gguf"]


def test_shards_are_one_model_and_only_whole() -> None:
    shards = [f"Q4_K_M/m-Q4_K_M-{number:05}-of-00002.gguf" for number in (1, 2)]
    assert chosen(*reversed(shards), "m-Q8_0-00001-of-00002.gguf") == shards
    with pytest.raises(ModelNotFoundError, match="no Q8_0"):
        chosen(*shards, "m-Q8_0-00001-of-00002.gguf", quantisation="Q8_0")


def test_a_choice_that_is_the_users() -> None:
    with pytest.raises(UsageError) as caught:
        chosen("a.gguf", "b.gguf")
    assert caught.value.hint == "Name one: a.gguf, b.gguf."
    with pytest.raises(UsageError, match="several files of that quantisation"):
        chosen("a-Q4_0.gguf", "b-Q4_0.gguf", quantisation="Q4_0")


def test_a_folder_is_what_a_reader_needs() -> None:
    shards = [f"model-{number:05}-of-00002.safetensors" for number in (1, 2)]
    small = ["README.md", "LICENSE", "chat_template.jinja", "config.json", "tokenizer.model"]
    other = ["original/params.json", "consolidated.safetensors", "pytorch_model.bin", "run.py", "model.onnx", "x.gguf"]
    assert chosen(*shards, *small, *other) == sorted(small) + shards
    with pytest.raises(ModelNotFoundError, match="lacks shard 2 of 2"):
        chosen(shards[0], "config.json")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.ckpt", "x.pkl", "tf_model.h5"])
def test_formats_that_run_code_are_refused(name: str) -> None:
    with pytest.raises(UnsupportedModelError, match="can run code"):
        chosen("config.json", name)


def test_a_repository_without_a_model() -> None:
    with pytest.raises(ModelNotFoundError, match="neither GGUF nor safetensors"):
        chosen("README.md", "data.parquet")
    with pytest.raises(ModelNotFoundError, match="no GGUF files, so no Q4_0"):
        chosen("config.json", "model.safetensors", quantisation="Q4_0")


@pytest.mark.parametrize(
    ("path", "quantisation"),
    [
        ("Llama-3.2-1B-Instruct-Q4_K_M.gguf", "Q4_K_M"),
        ("qwen2.5-0.5b-instruct-q8_0.gguf", "Q8_0"),
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "Q4_1"),
        ("model-IQ3_XXS-00001-of-00002.gguf", "IQ3_XXS"),
        ("UD-Q2_K_XL/model-UD-Q2_K_XL-00001-of-00002.gguf", "UD-Q2_K_XL"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("BF16/model-00001-of-00002.gguf", "BF16"),
        ("ggml-model-f16.gguf", "F16"),
        ("Q4_0/plain.gguf", "Q4_0"),
        ("model.gguf", None),
    ],
)
def test_quantisations_in_names(path: str, quantisation: str | None) -> None:
    assert quantisation_of(path) == quantisation


def test_what_a_catalog_has_not_pinned_is_asked_of_its_repository(
    store: Store, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.hub_url)
    with pytest.raises(AbaciError):
        plan(parse_name("no-such-model"), Network())
    asked: list[Asked] = hub.asked
    assert asked == []
