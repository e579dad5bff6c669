"""Which tensor gets which format: the choices of llama.cpp, tabulated from files that it made."""

import pytest

from abaci.errors import UsageError
from abaci.models.mixtures import MIXTURES, ModelFacts, choose_formats, mixture_named
from abaci.tensor import TensorInfo, WeightFormat

WIDE = 1024
LAYERS = 24


def tensor(name: str, *shape: int) -> TensorInfo:
    return TensorInfo(name, WeightFormat.BF16, shape, 0, 0)


def model(columns: int = WIDE, layers: int = LAYERS) -> list[TensorInfo]:
    tensors = [tensor("token_embd.weight", 4000, columns), tensor("output_norm.weight", columns)]
    for layer in range(layers):
        tensors += [
            tensor(f"blk.{layer}.{part}.weight", 256, columns)
            for part in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
        ]
    return tensors


def chosen(name: str, tensors: list[TensorInfo], **facts: object) -> dict[str, str]:
    defaults = {"num_layers": LAYERS, "queries_per_key": 2, "num_experts": 0, "is_tied": True}
    has_importance = bool(facts.pop("has_importance", False))
    is_pure = bool(facts.pop("is_pure", False))
    found = choose_formats(
        mixture_named(name),
        ModelFacts(**defaults | facts),
        tensors,
        has_importance=has_importance,
        is_pure=is_pure,
    )
    return {name: weight_format.label for name, weight_format in found.items()}


def layers_with(found: dict[str, str], part: str, label: str) -> list[int]:
    return [layer for layer in range(LAYERS) if found[f"blk.{layer}.{part}.weight"] == label]


MORE_BITS = [0, 1, 2, 5, 8, 11, 14, 17, 20, 21, 22, 23]


@pytest.mark.parametrize(
    ("mixture", "part", "label", "layers"),
    [
        ("q4_k_m", "attn_v", "Q6_K", MORE_BITS),
        ("q4_k_m", "ffn_down", "Q6_K", MORE_BITS),
        ("q4_k_m", "ffn_up", "Q6_K", []),
        ("q5_k_m", "attn_v", "Q6_K", MORE_BITS),
        ("q4_k_s", "attn_v", "Q5_K", [0, 1, 2, 3]),
        ("q4_k_s", "ffn_down", "Q5_K", [0, 1, 2]),
        ("q3_k_m", "attn_v", "Q5_K", [0, 1]),
        ("q3_k_m", "attn_output", "Q4_K", list(range(LAYERS))),
        ("q3_k_m", "ffn_down", "Q5_K", [0]),
        ("q3_k_l", "ffn_down", "Q5_K", list(range(LAYERS))),
        ("q3_k_s", "ffn_down", "Q3_K", list(range(LAYERS))),
        ("q2_k", "attn_v", "Q3_K", list(range(LAYERS))),
        ("q2_k", "ffn_gate", "Q2_K", list(range(LAYERS))),
        ("iq4_xs", "ffn_down", "Q5_K", [0, 1, 2]),
        ("q4_0", "ffn_down", "Q4_0", list(range(LAYERS))),
        ("q6_k", "attn_q", "Q6_K", list(range(LAYERS))),
        ("bf16", "attn_q", "BF16", list(range(LAYERS))),
    ],
)
def test_layers_that_get_more_bits(mixture: str, part: str, label: str, layers: list[int]) -> None:
    assert layers_with(chosen(mixture, model()), part, label) == layers


def test_importance_changes_what_early_down_projections_get() -> None:
    assert layers_with(chosen("q4_0", model(), has_importance=True), "ffn_down", "Q4_1") == [0, 1, 2]
    assert layers_with(chosen("iq4_xs", model(), has_importance=True), "ffn_down", "IQ4_XS") == list(range(LAYERS))


@pytest.mark.parametrize(("mixture", "label"), [("q4_k_m", "Q6_K"), ("q4_0", "Q6_K"), ("q8_0", "Q8_0"), ("f16", "F16")])
def test_the_output_or_a_tied_embedding_is_kept_well(mixture: str, label: str) -> None:
    assert chosen(mixture, model())["token_embd.weight"] == label
    untied = [*model(), tensor("output.weight", 4000, WIDE)]
    found = chosen(mixture, untied, is_tied=False)
    assert found["output.weight"] == label
    assert found["token_embd.weight"] == mixture_named(mixture).base.label


@pytest.mark.parametrize(
    ("mixture", "columns", "label"),
    [
        ("q4_k_m", 896, "Q5_0"),
        ("q5_k_m", 896, "Q5_1"),
        ("q6_k", 896, "Q8_0"),
        ("q2_k", 896, "IQ4_NL"),
        ("q3_k_s", 896, "IQ4_NL"),
        ("iq4_xs", 896, "IQ4_NL"),
        ("q4_k_m", 40, "F16"),
        ("q4_0", 40, "F16"),
        ("bf16", 40, "BF16"),
    ],
)
def test_rows_that_are_not_whole_blocks_get_another_format(mixture: str, columns: int, label: str) -> None:
    assert chosen(mixture, model(columns))["blk.9.ffn_up.weight"] == label


def test_an_output_that_is_not_whole_blocks_gets_eight_bits() -> None:
    assert chosen("q4_k_m", model(896))["token_embd.weight"] == "Q8_0"


def test_eight_experts_leave_attention_its_bits() -> None:
    found = chosen("q4_k_m", model(), num_experts=8)
    assert {found["blk.9.attn_k.weight"], found["blk.9.attn_v.weight"]} == {"Q8_0"}
    assert found["blk.9.attn_output.weight"] == "Q5_K"


def test_large_models_with_shared_keys() -> None:
    facts = {"queries_per_key": 8, "num_layers": 80}
    assert chosen("q2_k", model(layers=80), **facts)["blk.50.attn_v.weight"] == "Q5_K"
    assert chosen("q2_k", model(layers=80), queries_per_key=8)["blk.50.attn_v.weight"] == "Q4_K"


def test_value_projections_are_counted_among_themselves() -> None:
    """In a hybrid only every fourth layer has one: the first four of them are not the first four layers."""
    tensors = [tensor(f"blk.{layer}.attn_v.weight", 256, WIDE) for layer in range(3, 48, 4)]
    found = chosen("q4_k_s", tensors, num_layers=48, is_tied=False)
    assert [name for name, label in found.items() if label == "Q5_K"] == [
        f"blk.{layer}.attn_v.weight" for layer in (3, 7, 11, 15)
    ]


def test_what_is_small_and_steers_stays_float() -> None:
    names = [
        "blk.0.ffn_gate_inp.weight",
        "blk.0.ssm_conv1d.weight",
        "blk.0.attn_q_norm.weight",
        "blk.0.ffn_up_exps.bias",
    ]
    tensors = [*(tensor(name, 64, WIDE) for name in names), tensor("blk.0.attn_norm.weight", WIDE)]
    assert set(chosen("q4_k_m", tensors).values()) == {"F32"}
    assert chosen("q4_k_m", [tensor("blk.0.ffn_up_exps.weight", 4, 64, WIDE)])["blk.0.ffn_up_exps.weight"] == "Q4_K"


def test_pure_is_one_format() -> None:
    found = chosen("q4_0", model(), is_pure=True, has_importance=True)
    assert {found[info.name] for info in model() if len(info.shape) == 2} == {"Q4_0"}


def test_facts_of_a_file() -> None:
    metadata = {
        "general.architecture": "x",
        "x.block_count": 12,
        "x.attention.head_count": 16,
        "x.attention.head_count_kv": [0, 4, 4],
        "x.expert_count": 8,
    }
    assert ModelFacts.of(metadata, {}) == ModelFacts(12, 4, 8, is_tied=True)
    assert ModelFacts.of({}, {"output.weight": tensor("output.weight", 2, 2)}) == ModelFacts(1, 1, 0, is_tied=False)


def test_names() -> None:
    assert mixture_named("Q4_K_M") is mixture_named("q4_k_m") is MIXTURES["Q4_K_M"]
    with pytest.raises(UsageError, match="q4_k_x"):
        mixture_named("q4_k_x")
