"""Rope parameters that nobody means well with: an answer or an error of ours, never a table that fills the memory."""

from typing import Any

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from abaci.errors import AbaciError
from abaci.models.huggingface.llama3_stretch import FREQUENCY_FACTORS
from abaci.models.huggingface.mapping import ComputingRule, SettingRule
from abaci.models.huggingface.published_config import PublishedConfig
from abaci.models.huggingface.rope import MAX_HEAD_DIM, Rope

NUMBERS = st.one_of(
    st.sampled_from(
        [0, 1, -1, 8.0, 0.5, 1e-300, 1e300, 1e12, 3.4e38, -3.4e38, 1 << 31, 10**400, float("inf"), float("nan")]
    ),
    st.floats(),
    st.integers(),
)
ANYTHING = st.one_of(NUMBERS, st.sampled_from([None, True, False, "8", [8], {}]))
KEYS = st.sampled_from(
    [
        "rope_theta",
        "partial_rotary_factor",
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
        "attention_factor",
        "beta_fast",
        "beta_slow",
        "mscale",
        "mscale_all_dim",
        "truncate",
    ]
)
TYPES = st.sampled_from(["default", "linear", "dynamic", "llama3", "yarn", "longrope"])
SOUND_PARAMETERS = {
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}


@given(
    kind=TYPES,
    parameters=st.dictionaries(KEYS, ANYTHING, max_size=3),
    head_dim=st.one_of(st.sampled_from([64, 128]), st.integers(0, (1 << 31) - 1)),
    rule=st.sampled_from([Rope(), Rope(partial=0.5), Rope(log_multiplier=0.1, truncates=False)]),
)
@example(kind="llama3", parameters={"factor": 1e-300}, head_dim=64, rule=Rope())
@example(kind="llama3", parameters={}, head_dim=(1 << 31) - 1, rule=Rope())
@example(kind="yarn", parameters={"factor": 10**400}, head_dim=64, rule=Rope())
@example(kind="default", parameters={"partial_rotary_factor": 3.4e38}, head_dim=64, rule=Rope(partial=0.5))
def test_any_parameters_are_read_or_refused(
    kind: str, parameters: dict[str, Any], head_dim: int, rule: SettingRule
) -> None:
    used = SOUND_PARAMETERS if kind == "llama3" else {"factor": 8.0} if kind in ("linear", "yarn") else {}
    values = {"rope_type": kind, **used, **parameters}
    config = PublishedConfig(
        {"rope_parameters": values, "head_dim": head_dim, "hidden_size": 64, "max_position_embeddings": 256}
    )
    assert isinstance(rule, ComputingRule)
    try:
        settings = rule.to_gguf(config)
        tables = {tensor.gguf: tensor.compute(config) for tensor in rule.computed}
    except AbaciError:
        return
    assert all(np.isfinite(value) for value in settings.values() if isinstance(value, float))
    table = tables[FREQUENCY_FACTORS]
    assert (table is None) == (kind != "llama3")
    if table is not None:
        assert len(table) <= MAX_HEAD_DIM // 2
        assert np.isfinite(table).all()
        assert (table > 0).all()
