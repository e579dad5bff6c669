"""Write tests/formats/word_rule_cases.json: token ids of hard texts under each word rule, as llama.cpp gives them.

    python scripts/make_word_rule_cases.py --smollm2 FILE.gguf

needs `llama-cpp-python` and `gguf`. Each rule is tried on the vocabulary of the one file, in a copy without tensors
that names the rule. Texts avoid what llama.cpp does differently from the models' own tokenizers: it never normalises,
and it takes combining marks for no letters in the rules that began with o200k.
"""

import argparse
import json
import tempfile
from pathlib import Path

import gguf
import llama_cpp

OUTPUT = Path(__file__).parent.parent / "tests" / "formats" / "word_rule_cases.json"

RULES = [
    *("gpt-2", "olmo", "smollm", "llama-bpe", "dbrx", "smaug-bpe", "glm4", "qwen2", "deepseek-r1-qwen", "qwen35"),
    *("tekken", "gpt-4o", "llama4", "deepseek-llm", "deepseek-coder", "deepseek-v3", "default", "stablelm2"),
]
TEXTS = [
    "Don't DON'T we'LL I'Ve they'd O'Brien 'sup",
    "it’s “quoted” ‘x’ — – … 'tis",
    "1 12 123 1234 12345678 3.14159 1,000,000 x2y33z444 v1.2.3",
    "٣٤٥٦ १२३४ Ⅷ ½ ²³ 1½",
    "HelloWorld fooBAR BAZqux camelCaseX ÀÉcole ÉCOLE McDonald iPhone",
    "日本語テスト한국어 中文测试 カタカナabc漢字123",
    "a\r\n\r\n\nb \n\n c\t\t\td   e \t f\n",
    "  leading", "trailing   ", "     ", "\n\n\n", " \n \n ", "\t", "x\n", "x \n y",
    "price: $12.50 (€10)!!! ... ???\n\n-- ++ ==> && || <=",
    "#include <a/b.h>\n//x/\n/* y */ path/to/file.py:12",
    "def f(x):\n    return x**2 + y_1  # sum\n\n\nclass A:\n\tpass\n",
    "<b>&nbsp;</b> {\"k\": [1, 2]} a=1;b==2&&!c",
    "Привет, мир! Ελληνικά עברית العربية ไทย",
    "😀👍🏽👩‍👧 🇩🇪❤️ 𝐀𝐁𝟙",
    " \u3000全角　ＡＢＣ１２３！ \u00a0nbsp\u200bzero",
    "e-mail@example.com https://x.y/z?q=1#f",
    "snake_case kebab-case __init__ $VAR `code` ~tilde^",
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--smollm2", type=Path, required=True)
    reader = gguf.GGUFReader(parser.parse_args().smollm2)
    with tempfile.TemporaryDirectory() as folder:
        cases = {rule: _ids(reader, rule, Path(folder) / f"{rule}.gguf") for rule in RULES}
    lines = [f"{json.dumps(rule)}: {json.dumps(ids)}" for rule, ids in cases.items()]
    text = '{\n"texts": ' + json.dumps(TEXTS) + ',\n"ids": {\n' + ",\n".join(lines) + "\n}\n}\n"
    OUTPUT.write_text(text)


def _ids(reader: gguf.GGUFReader, rule: str, path: Path) -> list[list[int]]:
    """Of every text, by a model that has the reader's vocabulary and this rule."""
    value = {key: reader.fields[f"tokenizer.ggml.{key}"].contents() for key in ("tokens", "token_type", "merges")}
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(8)
    writer.add_feed_forward_length(8)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(rule)
    writer.add_token_list(value["tokens"])
    writer.add_token_types(value["token_type"])
    writer.add_token_merges(value["merges"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    return [model.tokenize(text.encode(), add_bos=False, special=False) for text in TEXTS]


if __name__ == "__main__":
    main()
