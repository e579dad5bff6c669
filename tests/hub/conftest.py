"""Every test of the hub has places of its own: no cache, token, peer or switch of the person who runs it is seen."""

from pathlib import Path

import pytest

_UNSET = (
    "ABACI_OFFLINE",
    "ABACI_LIMIT_RATE",
    "ABACI_PEERS",
    "ABACI_PEER_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_REGION",
    "AWS_SECRET_ACCESS_KEY",
    "HF_ENDPOINT",
    "HF_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "HF_TOKEN",
    "HF_TOKEN_PATH",
    "HUGGINGFACE_HUB_CACHE",
    "HUGGING_FACE_HUB_TOKEN",
    "MODELSCOPE_API_TOKEN",
    "MODELSCOPE_ENDPOINT",
)


@pytest.fixture(autouse=True)
def _own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*_UNSET, "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "elsewhere" / "hf"))
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "elsewhere" / "ollama"))
    monkeypatch.setenv("LM_STUDIO_MODELS", str(tmp_path / "elsewhere" / "lmstudio"))
