"""Write tests/tokenizer_cases.json: token ids of nasty text and of chats, as the original tokenizers give them.

    python scripts/make_tokenizer_cases.py --qwen FILE.gguf --smollm2 FILE.gguf --gemma3 FILE.gguf

needs `transformers`. The vocabularies come from the files; everything else comes from transformers: its
tokenizer classes for Qwen 2 and Gemma, its GPT-2 class with the digit splitting of SmolLM2's tokenizer.json, and its
chat template renderer.
"""

import argparse
import json
import random
from pathlib import Path

from tokenizers import pre_tokenizers
from transformers import Qwen2Tokenizer
from transformers.integrations.gguf.gguf_tokenizer_mapping import (
    add_gguf_special_tokens,
    byte_level_tokenizer,
    convert_gguf_tokenizer,
    get_gguf_tokenizer,
)
from transformers.utils.chat_template_utils import render_jinja_template

OUTPUT = Path(__file__).parent.parent / "tests" / "tokenizer_cases.json"

TEXTS = [
    "",
    " ",
    "Hello, world!",
    "hello",
    " hello",
    "  hello  world  ",
    "I'm you're he'll we've she'd it's DON'T I'M YOU'RE",
    "it’s ſ'ſ 'S 'ſ",
    "0 1 12 123 1234 12345 3.14159 1,000,000 ²³ ½ Ⅷ ١٢٣ ४५६ ①",
    "def f(x):\n    return x**2  # square\n\n\nclass A:\n\tpass\n",
    "\n",
    "\n\n\n",
    "a\nb\r\nc\rd\n\r\n",
    "\t\t\tx\t y",
    " \n \n  \n   x",
    "x" + " " * 31 + "y" + " " * 7,
    "a" + " " * 40 + "b" + " " * 70,
    "\n" * 40 + "end" + "\t" * 35,
    "trailing spaces    \n    \n",
    "\u00a0non\u00a0breaking\u2003em\u3000ideographic\u200bzero width\u0085next line",
    "\x00\x01\x02\x03\x1b[31mred\x7f\x1c\x1d\x1e\x1f",
    "日本語のテキスト、漢字とかな。中文文本。한국어 텍스트",
    "Привет, мир! Γειά σου Κόσμε. مرحبا بالعالم שלום עולם नमस्ते दुनिया สวัสดีชาวโลก",
    "mixed العربية and English ו עברית 123",
    "👩‍👩‍👧‍👦 👍🏽 🏳️‍🌈 🇩🇪🇫🇷 🫠 ☃️ ❤️‍🔥",
    "e\u0301 é n\u0303 ñ \u1100\u1161\u11a8 각 A\u030a Å \u0344 \u2126 ﬁ ｆｕｌｌ",
    "Z̸̡̨a̷͎l̴̰g̵̢o̶",
    "▁▁literal blocks▁ ▁",
    "Ġ Ċ <0x41> <0xE2> [PAD151670]",
    "<div><b>bold</b></div> <table><tr><td>1</td></tr></table> <h1>x</h1></s>",
    '<tool_call>{"name": "f", "arguments": {}}</tool_call>',
    "https://example.com/a?b=c&d=%20#e user@example.org C:\\path\\to",
    "$100 + €200 = £300 ^~|`<>=_-+*/\\!@#%&()[]{};:'\",.?",
    "camelCaseSnake_caseKEBAB-CASE SCREAMING",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "ababababababababababababababab abcabcabcabcabc",
    "Pneumonoultramicroscopicsilicovolcanoconiosis antidisestablishmentarianism",
    "\ufeffbyte order mark \ufffd replacement \U000e0041 tag \ue000 private",
    "𝕳𝖊𝖑𝖑𝖔 𐍈 𒀀 \U0001f9ff\U0010ffff",
]

ALPHABET = "abcXYZ  \n\t'sSlL019.,!-_<>|{}é́ßżшЯ中文か한👍🏽‍\u00a0\u2028\u0300▁½٣"


def texts() -> list[str]:
    """The texts above and, from a fixed seed, random ones over an alphabet of trouble."""
    source = random.Random(20240601)
    return TEXTS + ["".join(source.choices(ALPHABET, k=source.randint(1, 60))) for _ in range(120)]


CHATS = [
    [{"role": "user", "content": "Write a function that reverses a list."}],
    [
        {"role": "system", "content": "You are terse.\n"},
        {"role": "user", "content": "  What is 2 + 2?  "},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "👩‍👩‍👧‍👦 и 日本語?\n\n\n"},
    ],
    [{"role": "user", "content": "<div>1 < 2 && 3 > 2</div> <| |> <tool_call>x</tool_call> <"}],
    [{"role": "user", "content": "a" + " " * 20 + "\tb"}, {"role": "assistant", "content": "```py\nx = 1\n```"}],
]

GEMMA_TEMPLATE = Path(__file__).parent.parent / "src" / "abaci" / "hub" / "templates" / "gemma3.jinja"


def qwen2(path: Path):
    """The published class: NFC and its word pattern."""
    _, description, config = get_gguf_tokenizer(str(path))
    vocabulary = {token: i for i, token in enumerate(description["tokens"])}
    merges = [tuple(merge.split(" ")) for merge in description["merges"]]
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=merges)
    return add_gguf_special_tokens(tokenizer, description).backend_tokenizer, config


def smollm2(path: Path):
    """Single digits, then GPT-2's words."""
    _, description, config = get_gguf_tokenizer(str(path))
    tokenizer = add_gguf_special_tokens(byte_level_tokenizer(description), description).backend_tokenizer
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return tokenizer, config


def gemma3(path: Path):
    """The published class, its merges implied by the order of the vocabulary."""
    architecture, description, config = get_gguf_tokenizer(str(path))
    tokenizer, _ = convert_gguf_tokenizer(architecture, description)
    return tokenizer, {**config, "chat_template": GEMMA_TEMPLATE.read_text()}


def render(messages, config) -> str:
    rendered, _ = render_jinja_template(
        [messages],
        chat_template=config["chat_template"],
        add_generation_prompt=True,
        bos_token=config["bos_token"],
        eos_token=config["eos_token"],
    )
    return rendered[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    builders = {"qwen": qwen2, "smollm2": smollm2, "gemma3": gemma3}
    for name in builders:
        parser.add_argument(f"--{name}", type=Path, required=True)
    arguments = parser.parse_args()
    cases = {"texts": [{"text": text} for text in texts()], "chats": [{"messages": messages} for messages in CHATS]}
    for name, build in builders.items():
        tokenizer, config = build(getattr(arguments, name))
        for case in cases["texts"]:
            case[name] = tokenizer.encode(case["text"], add_special_tokens=False).ids
        for case in cases["chats"]:
            case[name] = tokenizer.encode(render(case["messages"], config), add_special_tokens=False).ids
    OUTPUT.write_text(
        "{\n" + ",\n".join(f"{json.dumps(kind)}: [\n{_lines(listed)}\n]" for kind, listed in cases.items()) + "\n}\n"
    )
    print(f"{', '.join(f'{len(listed)} {kind}' for kind, listed in cases.items())} in {OUTPUT}")


def _lines(cases) -> str:
    return ",\n".join(map(json.dumps, cases))


if __name__ == "__main__":
    main()
