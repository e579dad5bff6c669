"""What each rounding of an engine costs, one at a time, against the float32 model.

    python scripts/fidelity_roundings.py MODEL.gguf FOLDER [ROUNDING ...]     needs the extra `golden`

FOLDER holds what `fidelity.py tokenise` and `reference` made; results are put there, for `fidelity.py report`. The
reference itself runs once more with values rounded on their way into the cache or into matrices. That shows what a
choice of types costs, not what an engine computes: its kernels round in other places too, and sum in their own order.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from fidelity import ROWS_AT_A_TIME, LogitBlocks, save_results
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers_reference import final_hidden, load_model

ACTIVATION_GROUP = 32


@dataclass(frozen=True)
class Rounding:
    """The cache's type, and the matrices, chosen by name, whose inputs are rounded to int8."""

    cache: torch.dtype = torch.float32
    rounds_input: Callable[[str], bool] = lambda name: False


def always(name: str) -> bool:
    return True


def is_head(name: str) -> bool:
    return name == "lm_head"


def is_down(name: str) -> bool:
    return name.endswith("down_proj")


ROUNDINGS = {
    "cache-float16": Rounding(torch.float16),
    "cache-bfloat16": Rounding(torch.bfloat16),
    "int8": Rounding(rounds_input=always),
    "int8-cache-float16": Rounding(torch.float16, always),
    "int8-cache-bfloat16": Rounding(torch.bfloat16, always),
    "int8-head-only": Rounding(rounds_input=is_head),
    "int8-but-head": Rounding(rounds_input=lambda name: not is_head(name)),
    "int8-but-down": Rounding(rounds_input=lambda name: not is_down(name)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("roundings", nargs="*", metavar="ROUNDING", help=", ".join(ROUNDINGS))
    arguments = parser.parse_args()
    if unknown := set(arguments.roundings) - set(ROUNDINGS):
        parser.error(f"no such rounding: {', '.join(sorted(unknown))}")
    model = load_model(arguments.model)
    for name in arguments.roundings or ROUNDINGS:
        rounding = ROUNDINGS[name]
        hooks = [
            module.register_forward_pre_hook(round_input)
            for path, module in model.named_modules()
            if isinstance(module, nn.Linear) and rounding.rounds_input(path)
        ]
        save_results(arguments.folder, name, lambda token_ids, cache=rounding.cache: logits(model, token_ids, cache))
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def logits(model: PreTrainedModel, token_ids: list[int], cache_type: torch.dtype) -> LogitBlocks:
    """Logits of successive positions of one sequence."""
    hidden = torch.from_numpy(final_hidden(model, token_ids, RoundedCache(cache_type)))
    for rows in hidden.split(ROWS_AT_A_TIME):
        with torch.no_grad():
            yield model.lm_head(rows).numpy()


def round_input(module: nn.Module, arguments: tuple[Tensor]) -> tuple[Tensor]:
    """The input of a matrix as int8 in groups, each with a float32 scale, and back."""
    (x,) = arguments
    groups = x.unflatten(-1, (-1, ACTIVATION_GROUP))
    scale = groups.abs().amax(-1, keepdim=True).clamp_min(1e-30) / 127
    return ((groups / scale).round() * scale).flatten(-2)


class RoundedCache(DynamicCache):
    """A cache in which keys and values have been rounded to another type."""

    def __init__(self, kind: torch.dtype) -> None:
        super().__init__()
        self._kind = kind

    def update(self, key_states: Tensor, value_states: Tensor, *arguments, **named) -> tuple[Tensor, Tensor]:
        rounded = (states.to(self._kind).to(states.dtype) for states in (key_states, value_states))
        return super().update(*rounded, *arguments, **named)


if __name__ == "__main__":
    main()
