"""Bills of materials: valid against the schema of CycloneDX 1.6, with hashes, licences and bases."""

import json
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from abaci.hub.licences.closure import BaseModel
from abaci.hub.sbom import ModelDescription, ModelFile, write_sbom

LLAMA = "LicenseRef-scancode-llama-3.1-license-2024"
FULL = ModelDescription(
    name="deepseek-r1:8b",
    licences=f"MIT AND {LLAMA}",
    files=[ModelFile("model-00001-of-00002.gguf", 10, "a" * 64), ModelFile("model-00002-of-00002.gguf", 20, "b" * 64)],
    base_models=[BaseModel("meta-llama/Llama-3.1-8B", LLAMA), BaseModel("someone/else")],
    title="DeepSeek R1 Distill Llama 8B",
    architecture="llama",
    repository="deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
    source="hugging-face",
    num_parameters=8_030_261_248,
    context_length=131_072,
    quantisation="Q4_K",
)
BARE = ModelDescription(name="model", licences="NOASSERTION", files=[ModelFile("model.gguf", 1, "c" * 64)])


def errors_of(document: dict[str, Any]) -> Any:
    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document))


@pytest.mark.parametrize("model", [FULL, BARE], ids=["full", "bare"])
def test_it_is_valid(model: ModelDescription) -> None:
    document = write_sbom(model)
    assert errors_of(document) is None
    document["metadata"]["component"]["modelCard"]["unheard_of"] = 1
    assert errors_of(document) is not None


def test_it_says_what_is_known() -> None:
    document = write_sbom(FULL)
    model = document["metadata"]["component"]
    assert (document["bomFormat"], document["specVersion"], model["type"]) == (
        "CycloneDX",
        "1.6",
        "machine-learning-model",
    )
    assert model["licenses"] == [{"expression": f"MIT AND {LLAMA}"}]
    assert model["purl"] == "pkg:huggingface/deepseek-ai/DeepSeek-R1-Distill-Llama-8B"
    assert {base["name"]: base.get("licenses") for base in model["pedigree"]["ancestors"]} == {
        "meta-llama/Llama-3.1-8B": [{"expression": LLAMA}],
        "someone/else": None,
    }
    assert model["modelCard"]["modelParameters"]["modelArchitecture"] == "llama"
    assert {file["name"]: file["hashes"] for file in document["components"]} == {
        file.name: [{"alg": "SHA-256", "content": file.sha256}] for file in FULL.files
    }
    [dependency] = [entry for entry in document["dependencies"] if entry["ref"] == model["bom-ref"]]
    assert sorted(dependency["dependsOn"]) == sorted(file["bom-ref"] for file in document["components"])


def test_it_does_not_say_what_is_not() -> None:
    model = write_sbom(BARE)["metadata"]["component"]
    assert not {"licenses", "purl", "pedigree", "externalReferences", "properties"} & set(model)
    assert model["hashes"] == [{"alg": "SHA-256", "content": "c" * 64}]
