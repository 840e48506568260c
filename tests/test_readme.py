"""README and docs: links lead somewhere, commands parse, and README's blocks run in the order shown."""

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, environment_of_a_user

DOCUMENTS = sorted(path for folder in (".", "docs", "benchmarks") for path in (ROOT / folder).glob("*.md"))
SHOWN = [ROOT / "README.md", ROOT / "docs/input-formats.md", ROOT / "docs/modern-stack.md"]  # run in this order
NOT_RUN = {  # beginnings of lines, most of which need the internet or another environment
    "make ": "creates .venv",
    "python -m venv ": "creates .venv",
    ". .venv/": "activates .venv",
    "python -m pip ": "downloads packages",
    "uv run ": "downloads packages",
    "python train_model.py ": "takes long, and has tests of its own",
}
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SCRIPT = re.compile(r"python (\w+)\.py ([^|$>;&]*)")
COMMAND = re.compile(r"python (\w+|benchmarks/\w+)\.py((?:\"[^\"]*\"|[^`\n|\"])*)")
named = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def blocks_of(path: Path) -> list[tuple[str, str]]:
    """The language and the content of each fenced block."""
    return BLOCK.findall(path.read_text(encoding="utf-8"))


def anchors_of(path: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a document."""
    text = BLOCK.sub("", path.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@named
def test_links(path):
    text = BLOCK.sub("", path.read_text(encoding="utf-8"))
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", text):
        target, _, anchor = "".join(link).partition("#")
        if target.startswith(("http://", "https://")):
            continue
        file = (path.parent / target).resolve() if target else path
        if not file.exists() or (anchor and anchor not in anchors_of(file)):
            dead.append("".join(link))
    assert not dead


def test_documents_named_in_the_code_exist():
    sources = [*ROOT.glob("*.py"), *ROOT.glob("harvest/**/*.py"), *ROOT.glob("benchmarks/*.py")]
    found = re.findall(r"(?:docs|benchmarks)/[\w-]+\.md", "".join(path.read_text(encoding="utf-8") for path in sources))
    assert found and not [name for name in found if not (ROOT / name).exists()]


@named
def test_commands_parse(path):
    """Every command of a script of this repository, in blocks and in the text, has flags that the script knows."""
    text = re.sub(r" *\\\n\s*", " ", path.read_text(encoding="utf-8"))
    for script, arguments in COMMAND.findall(text):
        argv = shlex.split(arguments, comments=True)
        assert (ROOT / f"{script}.py").exists(), script
        if script.startswith("benchmarks/"):
            source = (ROOT / f"{script}.py").read_text(encoding="utf-8")
            flags = [flag for flag in argv if flag.startswith("--")]
            assert all(f'"{flag.replace("--no-", "--")}"' in source for flag in flags), (script, flags)
        elif "--help" not in argv:
            importlib.import_module(script).parse_args(argv)


def test_readme_is_short():
    assert 700 < len((ROOT / "README.md").read_text(encoding="utf-8").split()) < 1_000


@pytest.fixture
def checkout(tmp_path):
    """A copy of the files of the repository, without environments, and an environment whose python runs this test."""
    ignored = shutil.ignore_patterns(".*", "__pycache__", "artifacts")

    def ignore(folder: str, names: list[str]) -> set[str]:
        return ignored(folder, names) | ({"model", "data"} if Path(folder) == ROOT else set())

    shutil.copytree(ROOT, tmp_path / "checkout", ignore=ignore)
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    return tmp_path / "checkout", environment_of_a_user(PATH=path)


def run_line(line: str, folder: Path, environment: dict[str, str]) -> None:
    options = {"cwd": folder, "env": environment, "text": True}
    if line.startswith("tensorboard "):  # it serves until it is stopped
        command = ["timeout", "60", *shlex.split(line), "--port", "0"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, **options) as server:
            assert any("http://localhost:" in text for text in server.stderr)
            server.terminate()
        return
    command = ["bash", "-o", "pipefail", "-c", line]
    done = subprocess.run(command, capture_output=True, timeout=600, **options)
    assert done.returncode == (124 if line.startswith("timeout ") else 0), (line, done.stdout[-2_000:], done.stderr)


@pytest.mark.slow
def test_blocks_run_in_the_order_shown(checkout, monkeypatch):
    """A script is a process of its own the first time; what was run already is not run again."""
    folder, environment = checkout
    monkeypatch.chdir(folder)
    done_before, started = set(), set()
    for language, block in (found for path in SHOWN for found in blocks_of(path)):
        assert language in ("bash", "python", "text")
        if language == "python":
            command = [sys.executable, "-c", block]
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
            assert done.returncode == 0 and done.stdout.strip(), (block, done.stderr)
        for line in block.splitlines() if language == "bash" else []:
            reason = next((reason for start, reason in NOT_RUN.items() if line.startswith(start)), "")
            command = SCRIPT.fullmatch(line)
            if reason or line in done_before:
                print(f"not run, {reason or 'was run already'}: {line}")
            elif command and command[1] in started:
                assert importlib.import_module(command[1]).main(shlex.split(command[2])) == 0, line
            else:
                run_line(line, folder, environment)
                started |= {command[1]} if command else set()
            done_before.add(line)
