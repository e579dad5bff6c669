"""Standard streams that are closed, or that cannot take every character."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
LATIN_1 = {"PYTHONIOENCODING": "latin-1"}


def abaci(redirection: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, started by a shell that redirects its streams."""
    command = ["sh", "-c", f'exec "$0" -m abaci "$@" {redirection}', sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABACI_HOME", str(tmp_path / "home"))


def test_a_result_for_a_closed_output_is_an_error() -> None:
    result = abaci(">&-", "--help")
    assert (result.returncode, result.stdout) == (6, "")
    assert result.stderr == "error: standard output is closed\nhint: Send it to a file, or to /dev/null.\n"


def test_a_verb_without_a_result_needs_no_output() -> None:
    result = abaci(">&-", "list")
    assert (result.returncode, result.stderr.splitlines()[0][:20]) == (0, "no model is here yet")


@pytest.mark.parametrize("redirection", ["2>&-", "2< /dev/null"])
def test_remarks_are_left_out_where_they_cannot_be_written(redirection: str) -> None:
    assert abaci(redirection, "list", "--json").returncode == 0
    assert abaci(redirection, "no-such-verb").returncode == 2
    assert json.loads(abaci(redirection, "list", "--json").stdout) == []


def test_a_file_does_not_get_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    program = (
        "import os, sys\n"
        "from abaci.cli.streams import prepare_streams\n"
        "prepare_streams()\n"
        "os.write(os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY), b'model')\n"
        "os.write(2, b'what a library says of an error')\n"
    )
    path = tmp_path / "file"
    subprocess.run(["sh", "-c", 'exec "$0" -c "$@" <&- >&- 2>&-', sys.executable, program, str(path)], check=True)
    assert path.read_bytes() == b"model"


@pytest.mark.parametrize(
    ("environment", "line"),
    [(ASCII, b"caf? ???\n"), (LATIN_1, b"caf\xe9 ???\n"), ({"PYTHONUTF8": "1"}, "café 日本語\n".encode())],
)
def test_characters_that_an_output_lacks_are_replaced_but_not_in_json(environment: dict[str, str], line: bytes) -> None:
    program = (
        "from abaci.cli.streams import prepare_streams\n"
        "from abaci.cli.terminal import print_json\n"
        "from abaci.cli.writers import PlainWriter\n"
        "prepare_streams()\n"
        "text = 'caf\\xe9 \\u65e5\\u672c\\u8a9e'\n"
        "writer = PlainWriter()\n"
        "writer.write(text)\n"
        "writer.finish()\n"
        "print_json(text)\n"
    )
    output = subprocess.check_output([sys.executable, "-c", program], env={**os.environ, **environment})
    shown, _, document = output.partition(b"\n")
    assert shown + b"\n" == line
    assert json.loads(document) == "café 日本語"
