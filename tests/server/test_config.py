"""Flags over environment over file over defaults."""

from pathlib import Path

import pytest

from abaci.errors import UsageError
from abaci.server.config import ServerConfig, read_config
from abaci.tensor import CacheType


def test_defaults() -> None:
    config = read_config(environment={})
    assert config == ServerConfig()
    assert (config.host, config.port, config.is_loopback) == ("127.0.0.1", 8000, True)


def test_flag_beats_environment_beats_file(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text('port = 1\nhost = "a"\nhourly_price = 0.5\nmodels = ["x", "y"]\n[aliases]\ngpt = "x"\n')
    environment = {"ABACI_PORT": "2", "ABACI_HOST": "b", "ABACI_UNRELATED": "z"}
    config = read_config(file, {"port": 3, "host": None}, environment)
    assert (config.port, config.host, config.hourly_price) == (3, "b", 0.5)
    assert (config.models, config.aliases) == (("x", "y"), {"gpt": "x"})


def test_lists_and_mappings_in_the_environment() -> None:
    config = read_config(environment={"ABACI_MODELS": "a, b", "ABACI_ALIASES": "x=a,y=b", "ABACI_VLLM_METRICS": "on"})
    assert (config.models, config.aliases, config.vllm_metrics) == (("a", "b"), {"x": "a", "y": "b"}, True)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("prot = 1", "prot"),
        ("port = 70000", "port"),
        ('log_level = "loud"', "log_level"),
        ("port = ", "TOML"),
        ('tls_certificate = "a.pem"', "tls_key"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "server.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=named):
        read_config(file, environment={})


def test_wrong_flag_and_variable_are_named_as_they_were_given() -> None:
    with pytest.raises(UsageError, match="--drain-seconds"):
        read_config(flags={"drain_seconds": -1}, environment={})
    with pytest.raises(UsageError, match="ABACI_PORT"):
        read_config(environment={"ABACI_PORT": "eighty"})


@pytest.mark.parametrize("key", ["", " ", " secret"])
def test_a_key_that_no_client_could_send_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(UsageError) as raised:
        read_config(environment={"ABACI_API_KEY": key})
    assert raised.value.message == "ABACI_API_KEY: api_key is no key that can be sent"
    assert raised.value.hint == "Give at least one character, and no blanks around them."


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_config(tmp_path / "none.toml", environment={})


def test_the_type_of_the_cache_by_its_name() -> None:
    assert read_config(environment={}).kv_type is CacheType.F16
    assert read_config(environment={"ABACI_KV_TYPE": "int8"}).kv_type is CacheType.INT8
    with pytest.raises(UsageError, match="--kv-type: kv_type is 'q4'"):
        read_config(flags={"kv_type": "q4"}, environment={})


def test_adapters_are_listed_by_model(tmp_path: Path) -> None:
    file = tmp_path / "abaci.toml"
    file.write_text('models = ["a", "b"]\n[lora]\n"a" = ["x.gguf", "y.gguf=0.5"]\n')
    assert read_config(file, {}, {}).lora == {"a": ("x.gguf", "y.gguf=0.5")}
