"""The NOTICE file: the wanted lines, word for word."""

from abaci.hub.licences.closure import ModelFacts
from abaci.hub.licences.notice import write_notice
from abaci.hub.licences.report import examine


def test_a_distills_notice() -> None:
    report = examine(ModelFacts("deepseek-r1:8b", repository="deepseek-ai/DeepSeek-R1-Distill-Llama-8B"), None)
    assert write_notice(report) == (
        "deepseek-r1:8b\n"
        "Licences: MIT AND LicenseRef-scancode-llama-3.1-license-2024\n"
        "\n"
        "Made from:\n"
        "  meta-llama/Llama-3.1-8B (LicenseRef-scancode-llama-3.1-license-2024)\n"
        "\n"
        "MIT License\n"
        "  https://spdx.org/licenses/MIT.html\n"
        "\n"
        "Llama 3.1 Community License Agreement\n"
        "  https://github.com/meta-llama/llama-models/blob/main/models/llama3_1/LICENSE\n"
        "  Built with Llama\n"
        "  Llama 3.1 is licensed under the Llama 3.1 Community License, Copyright © Meta Platforms, Inc. "
        "All Rights Reserved.\n"
        "  Use is subject to section 1.b.iv: https://llama.meta.com/llama3_1/use-policy\n"
    )


def test_a_licence_without_a_record_is_named_as_such() -> None:
    text = write_notice(examine(ModelFacts("model", metadata="some-licence"), None))
    assert "LicenseRef-some-licence\n  There is no record of this licence" in text
