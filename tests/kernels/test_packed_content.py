"""What is packed of a folder stays what it was, or says that it is another: earlier packed weights would be used on."""

import hashlib

import pytest
from golden_folders import golden_folder
from golden_models import CheckpointTensors

from abaci.formats.huggingface import HuggingFaceCheckpoint
from abaci.kernels.packing import CONTENT_VERSION, stored_matrices
from abaci.models.families import spec_from_gguf

CONTENTS = {
    "deepseek_v2": "64af151ba63f94e2",
    "deepseek_v3": "6d8a43d00b272dbb",
    "gemma3_text": "294f4eb5a51a8f23",
    "gemma4_text": "61b5fd4c6fe7a4ed",
    "gemma4_text-dense": "2014ee59160e27b1",
    "gemma4_text-mixture": "9703fc838d7f179b",
    "glm4_moe": "a887b23a003bcca1",
    "gpt_oss": "5e0f987a7c1cc85b",
    "llama": "9181b85489a5b2f7",
    "llama-biased": "eb8ae455b9388aea",
    "ministral3": "40e3d51b7e04768b",
    "mistral": "40e3d51b7e04768b",
    "mixtral": "a011c23cc3eee34f",
    "olmo3": "b2e5557b7aa5d5fd",
    "phi3": "35c343c67a48e356",
    "qwen2": "2d754618db83a1e0",
    "qwen2-yarn": "6932c0048f450cb6",
    "qwen2_moe": "8042ab67ebfa8e07",
    "qwen3": "174becf656a57f8f",
    "qwen3_5_moe_text": "3665039f4e1b702a",
    "qwen3_5_text": "7e9a8e01016a6118",
    "qwen3_moe": "ae18a2a9a589ad2b",
    "qwen3_next": "8e90e141c8dfca02",
    "smollm3": "21f23db1475ef3b8",
}


@pytest.mark.parametrize("name", CONTENTS)
def test_a_change_of_what_is_computed_raises_the_version(name: str) -> None:
    """Where the folder itself is as before, raise CONTENT_VERSION, here too, and note the new digests."""
    assert (CONTENT_VERSION, digest(name)) == (1, CONTENTS[name])


def digest(name: str) -> str:
    """Of all matrices of a folder as they are packed."""
    total = hashlib.sha256()
    with HuggingFaceCheckpoint.open(golden_folder(name), sorts_columns=True) as checkpoint:
        spec = spec_from_gguf(checkpoint.metadata, checkpoint.tensors)
        matrices = stored_matrices(spec, CheckpointTensors(checkpoint))
        for matrix, tensor in sorted(matrices.items()):
            total.update(repr((matrix, tensor.format.label, tensor.shape)).encode())
            total.update(tensor.data)
    return total.hexdigest()[:16]
