"""A quantised file from beginning to end: what is in it, what it says of its loss, and when there is none."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from abaci.cli.app import app
from abaci.errors import AbaciError, FileFormatError, ResourceError, UsageError
from abaci.formats.gguf import GgufCheckpoint, write_gguf
from abaci.kernels.dequantise import dequantise
from abaci.models.mixtures import MIXTURES, mixture_named
from abaci.quantize.importance import Importance, read_importance
from abaci.quantize.making import Made, Order, Text, make_quantised
from abaci.quantize.quality import Quality
from abaci.quantize.quantising import IMPORTANCE_KEY
from abaci.tensor import WeightFormat

TEXT = Text("a text", "The quick brown fox jumps over the lazy dog, 42 times; then it rests.")
LONGER_TEXT = Text("a longer text", TEXT.content * 2)


class Log:
    """Listens."""

    def __init__(self) -> None:
        self.stages: dict[str, list[tuple[int, int]]] = {}
        self.messages: list[str] = []

    def advanced(self, stage: str, done: int, total: int) -> None:
        self.stages.setdefault(stage, []).append((done, total))

    def noticed(self, message: str) -> None:
        self.messages.append(message)


def order(name: str, **changes: object) -> Order:
    return replace(Order(mixture_named(name), num_threads=1), **changes)


def make(source: Path, destination: Path, what: Order, log: Log | None = None) -> Made:
    with GgufCheckpoint.open(source) as checkpoint:
        return make_quantised(checkpoint, destination, what, log or Log())


@pytest.mark.parametrize("name", list(MIXTURES))
def test_every_mixture_makes_a_file_of_the_planned_formats(name: str, float_model: Path, tmp_path: Path) -> None:
    made = make(float_model, tmp_path / "made.gguf", order(name))
    with GgufCheckpoint.open(float_model) as source, GgufCheckpoint.open(tmp_path / "made.gguf") as found:
        assert {tensor.name: tensor.format for tensor in found.tensors.values()} == dict(made.plan.formats)
        assert sum(tensor.num_bytes for tensor in found.tensors.values()) == made.plan.num_bytes
        assert found.metadata["general.file_type"] == MIXTURES[name].file_type
        assert found.metadata["tokenizer.ggml.tokens"] == source.metadata["tokenizer.ggml.tokens"]
        for tensor in found.tensors.values():
            original = source.tensors[tensor.name]
            expected = dequantise(original.format, original.shape, source.data(original))
            values = dequantise(tensor.format, tensor.shape, found.data(tensor))
            assert np.square(values - expected).mean() <= 0.08 * np.square(expected).mean()


def test_the_loss_is_measured_and_stored(float_model: Path, tmp_path: Path) -> None:
    log = Log()
    quality = make(float_model, tmp_path / "made.gguf", order("q4_k_m", text=TEXT), log).quality
    assert quality is not None
    assert 0 < quality.mean_kl < quality.p99_kl < 0.2
    assert 0.3 < quality.top_agreement < 1
    assert quality.perplexity == pytest.approx(quality.source_perplexity, rel=0.2)
    with GgufCheckpoint.open(tmp_path / "made.gguf") as found:
        stored = Quality.from_metadata(found.metadata)
        assert found.metadata["abaci.quality.text"] == "a text"
        assert found.metadata["abaci.quality.source_format"] == "F32"
        assert found.metadata["abaci.quality.num_tokens"] == len(found.tokenizer().encode(TEXT.content))
    assert stored is not None
    for name in Quality.__slots__:
        assert getattr(stored, name) == pytest.approx(getattr(quality, name), rel=1e-6)
    assert list(log.stages) == ["running the source", "quantising", "measuring"]
    assert all(marks[-1][0] == marks[-1][1] for marks in log.stages.values())


def test_more_bits_lose_less(float_model: Path, tmp_path: Path) -> None:
    losses = []
    for name in ("q8_0", "q6_k", "q4_k_m", "q2_k"):
        quality = make(float_model, tmp_path / f"{name}.gguf", order(name, text=TEXT)).quality
        assert quality is not None
        losses.append(quality.mean_kl)
    assert losses == sorted(losses)
    assert losses[-1] > 10 * losses[0]


def test_a_float_copy_loses_nothing(float_model: Path, tmp_path: Path) -> None:
    quality = make(float_model, tmp_path / "made.gguf", order("f32", text=TEXT)).quality
    assert quality is not None
    assert quality.mean_kl == 0
    assert quality.top_agreement == 1


def test_too_much_loss_leaves_no_file(float_model: Path, tmp_path: Path) -> None:
    with pytest.raises(AbaciError, match="no file was left"):
        make(float_model, tmp_path / "made.gguf", order("q2_k", text=TEXT, max_kl=1e-4))
    assert not list(tmp_path.iterdir())
    make(float_model, tmp_path / "made.gguf", order("q8_0", text=TEXT, max_kl=1e-2))
    assert [path.name for path in tmp_path.iterdir()] == ["made.gguf"]


def test_an_old_file_stays_when_the_new_one_is_refused(float_model: Path, tmp_path: Path) -> None:
    (tmp_path / "made.gguf").write_bytes(b"old")
    with pytest.raises(AbaciError):
        make(float_model, tmp_path / "made.gguf", order("q2_k", text=TEXT, max_kl=0.0))
    assert (tmp_path / "made.gguf").read_bytes() == b"old"


def test_a_limit_without_measuring_is_refused(float_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing is to be measured"):
        make(float_model, tmp_path / "made.gguf", order("q4_0", max_kl=0.1))


def test_few_bits_are_not_quantised_again_unasked(float_model: Path, tmp_path: Path) -> None:
    make(float_model, tmp_path / "q4.gguf", order("q4_0"))
    make(float_model, tmp_path / "q8.gguf", order("q8_0"))
    with pytest.raises(UsageError, match="already quantised"):
        make(tmp_path / "q4.gguf", tmp_path / "again.gguf", order("q5_0"))
    make(tmp_path / "q8.gguf", tmp_path / "from8.gguf", order("q5_0"))
    log = Log()
    make(tmp_path / "q4.gguf", tmp_path / "again.gguf", order("q5_0", allow_requantize=True), log)
    assert any("quantised" in message for message in log.messages)


def test_a_claim_of_loss_is_not_handed_down(float_model: Path, tmp_path: Path) -> None:
    make(float_model, tmp_path / "q8.gguf", order("q8_0", text=TEXT))
    make(tmp_path / "q8.gguf", tmp_path / "q4.gguf", order("q4_0"))
    with GgufCheckpoint.open(tmp_path / "q4.gguf") as found:
        assert not [key for key in found.metadata if key.startswith("abaci.")]


def test_importance_is_used_named_and_checked(float_model: Path, tmp_path: Path) -> None:
    name = "blk.1.ffn_down.weight"
    squares = np.exp(3 * np.random.default_rng(1).standard_normal((1, 512))).astype(np.float32)
    log = Log()
    make(float_model, tmp_path / "plain.gguf", order("q4_k_s"))
    make(float_model, tmp_path / "made.gguf", order("q4_k_s", importance=Importance({name: squares}, "books")), log)
    assert any("no importance is known of" in message for message in log.messages)
    with GgufCheckpoint.open(float_model) as source:
        expected = dequantise(WeightFormat.F32, (256, 512), source.data(source.tensors[name]))
    weighted = []
    for file in ("plain", "made"):
        with GgufCheckpoint.open(tmp_path / f"{file}.gguf") as found:
            tensor = found.tensors[name]
            values = dequantise(tensor.format, tensor.shape, found.data(tensor))
            weighted.append(float((squares * np.square(values - expected)).sum()))
            assert found.metadata.get(IMPORTANCE_KEY) == (None if file == "plain" else "books")
    assert weighted[1] < 0.9 * weighted[0]
    with pytest.raises(FileFormatError, match="importance of 511 inputs"):
        make(float_model, tmp_path / "wrong.gguf", order("q4_k_s", importance=Importance({name: squares[:, 1:]}, "x")))


def test_experts_are_weighed_each_by_its_own(float_model: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    values = random.standard_normal((3, 32, 256)).astype(np.float32)
    name = "blk.0.ffn_up_exps.weight"
    tensors = [(name, WeightFormat.F32, values.shape, values.tobytes())]
    write_gguf(tmp_path / "experts.gguf", {"general.architecture": "x"}, tensors)
    squares = np.exp(2 * random.standard_normal((3, 256))).astype(np.float32)
    make(
        tmp_path / "experts.gguf", tmp_path / "made.gguf", order("q4_k_s", importance=Importance({name: squares}, "x"))
    )
    with GgufCheckpoint.open(tmp_path / "made.gguf") as found:
        tensor = found.tensors[name]
        assert tensor.shape == values.shape
        errors = np.square(dequantise(tensor.format, tensor.shape, found.data(tensor)) - values).mean(axis=1)
    own = [float((errors[expert] * squares[expert]).sum() / squares[expert].sum()) for expert in range(3)]
    others = [float((errors[expert] * squares[expert - 1]).sum() / squares[expert - 1].sum()) for expert in range(3)]
    assert sum(own) < 0.8 * sum(others)


@pytest.mark.parametrize("max_kl", [None, 0.0])
def test_what_was_measured_of_importance_is_kept(float_model: Path, tmp_path: Path, max_kl: float | None) -> None:
    kept, what = tmp_path / "kept.gguf", order("q4_k_s", calibration=LONGER_TEXT, text=TEXT, max_kl=max_kl)
    if max_kl is None:
        make(float_model, tmp_path / "made.gguf", replace(what, importance_path=kept))
    else:
        with pytest.raises(AbaciError, match="no file was left"):
            make(float_model, tmp_path / "made.gguf", replace(what, importance_path=kept))
    assert (tmp_path / "made.gguf").exists() is (max_kl is None)
    assert read_importance(kept).mean_squares["blk.0.ffn_down.weight"].shape == (1, 512)


def test_places_are_looked_at_before_any_work(float_model: Path, tmp_path: Path) -> None:
    made, calibrated = tmp_path / "made.gguf", order("q4_0", calibration=TEXT)
    log = Log()
    for importance_path, complaint in (
        (tmp_path / "none" / "kept.gguf", "no such folder"),
        (tmp_path, "is a folder"),
        (tmp_path / "made.gguf", "both model and importance"),
    ):
        with pytest.raises(UsageError, match=complaint):
            make(float_model, made, replace(calibrated, importance_path=importance_path), log)
    with pytest.raises(UsageError, match="no such folder"):
        make(float_model, tmp_path / "none" / "made.gguf", order("q4_0"), log)
    with pytest.raises(UsageError, match="is a folder"):
        make(float_model, tmp_path, order("q4_0"), log)
    assert log.stages == {}
    assert not list(tmp_path.iterdir())


def test_what_is_read_is_never_written(float_model: Path, tmp_path: Path) -> None:
    source = Path(shutil.copy(float_model, tmp_path / "source.gguf"))
    before = source.read_bytes()
    calibrated = order("q4_0", calibration=TEXT)
    for destination, importance_path in ((source, None), (tmp_path / "made.gguf", source)):
        with pytest.raises(UsageError, match="is what is read"):
            make(source, destination, replace(calibrated, importance_path=importance_path))
    assert source.read_bytes() == before


def test_a_disk_without_room_is_refused_with_the_numbers(
    float_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_200_000))
    with pytest.raises(ResourceError, match=r"has 1 MB free, made\.gguf takes \d+ MB"):
        make(float_model, tmp_path / "made.gguf", order("q8_0"))


def test_damaged_values_are_refused_by_name(tmp_path: Path) -> None:
    values = np.zeros((4, 256), np.float32)
    values[2, 3] = np.inf
    tensors = [("blk.0.ffn_up.weight", WeightFormat.F32, values.shape, values.tobytes())]
    write_gguf(tmp_path / "bad.gguf", {"general.architecture": "x"}, tensors)
    with pytest.raises(FileFormatError, match=r"blk\.0\.ffn_up\.weight"):
        make(tmp_path / "bad.gguf", tmp_path / "made.gguf", order("q4_0"))
    assert [path.name for path in tmp_path.iterdir()] == ["bad.gguf"]


def test_numbers_that_cannot_be_are_an_error() -> None:
    assert Quality.from_metadata({}) is None
    with pytest.raises(FileFormatError):
        Quality.from_metadata(Quality.empty_metadata())


def test_command_line(float_model: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT.content)
    made, text = str(tmp_path / "made.gguf"), str(tmp_path / "text.txt")
    run = CliRunner()
    result = run.invoke(app, ["quantize", str(float_model), made, "--type", "q4_k_m", "--measure", text, "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["type"] == "Q4_K_M"
    shown = json.loads(run.invoke(app, ["show", made, "--json"]).stdout)
    assert shown["quality"]["mean_kl"] == pytest.approx(told["quality"]["mean_kl"], rel=1e-6)
    assert shown["quality"]["text"] == "text.txt"
    assert "nats per token" in run.invoke(app, ["show", made]).stdout
    again = run.invoke(app, ["quantize", str(float_model), made, "--type", "q4_0", "--no-measure"])
    assert again.exit_code == UsageError.exit_code
    assert "exists" in again.stderr


@pytest.mark.parametrize("name", ["made.gguf", "precious.txt", "none/kept.gguf", "."])
def test_importance_is_written_over_nothing(float_model: Path, tmp_path: Path, name: str) -> None:
    for path in ("text.txt", "precious.txt"):
        (tmp_path / path).write_text(TEXT.content)
    made, text, kept = (str(tmp_path / path) for path in ("made.gguf", "text.txt", name))
    arguments = ["quantize", str(float_model), made, "--type", "q4_0", "--calibrate", text, "--no-measure"]
    result = CliRunner().invoke(app, [*arguments, "--save-imatrix", kept])
    assert result.exit_code == UsageError.exit_code
    assert kept.removesuffix("/kept.gguf") in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["precious.txt", "text.txt"]
    assert (tmp_path / "precious.txt").read_text() == TEXT.content


def test_importance_is_written_over_a_file_when_asked(float_model: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(LONGER_TEXT.content)
    (tmp_path / "old.gguf").write_text("old")
    made, text, kept = (str(tmp_path / path) for path in ("made.gguf", "text.txt", "old.gguf"))
    arguments = ["quantize", str(float_model), made, "--type", "q4_0", "--calibrate", text, "--no-measure"]
    assert CliRunner().invoke(app, [*arguments, "--save-imatrix", kept, "--force"]).exit_code == 0
    assert read_importance(tmp_path / "old.gguf").mean_squares


def test_others_may_read_the_file_as_the_system_has_it(float_model: Path, tmp_path: Path) -> None:
    make(float_model, tmp_path / "made.gguf", order("q4_0"))
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "made.gguf").stat().st_mode == (tmp_path / "plain").stat().st_mode
