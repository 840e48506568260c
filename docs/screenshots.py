"""Take the pictures of TensorBoard and of the report in docs/: train on generated rows and open them in Chromium.

python docs/screenshots.py           (needs Chromium and the packages of requirements-cpu.txt)
python docs/screenshots.py report    (only this picture)
"""

import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from tensorboard import default, program

DOCS = Path(__file__).resolve().parent
TAGS = "&_smoothingWeight=0.3&tagFilter=epoch/(accuracy%7Clearning_rate%7Closs%7Crecall)"
# Pixels; the report down to the mistakes.
SIZES = {"scalars": "1200,760", "histograms": "1200,760", "graphs": "1200,1000", "report": "1040,1070"}
FLAGS = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking"
FLAGS += " --disable-component-update --disable-sync --hide-scrollbars --virtual-time-budget=15000"


def main() -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if not browser:
        raise SystemExit("Chromium is not installed")
    with tempfile.TemporaryDirectory() as folder:
        train = [sys.executable, DOCS.parent / "train_model_modern.py", "--sample", "2000", "--quiet"]
        subprocess.run([*train, "--model-dir", folder], check=True)
        board = program.TensorBoard(default.get_plugins())
        board.configure(logdir=f"{folder}/logs", port=0, load_fast="false")
        server = board.launch()
        while b"validation" not in urllib.request.urlopen(f"{server}data/runs").read():
            time.sleep(0.5)
        for name in sys.argv[1:] or SIZES:
            address = f"{server}#{name}{TAGS if name == 'scalars' else ''}"
            if name == "report":
                address = f"file://{cut_report(Path(folder))}"
            target = DOCS / f"{name}.png"
            command = [browser, *FLAGS.split(), f"--user-data-dir={folder}/{name}", f"--window-size={SIZES[name]}"]
            subprocess.run([*command, f"--screenshot={target}", address], check=True, capture_output=True)
            print(f"{target}: {target.stat().st_size:,} bytes")


def cut_report(folder: Path) -> Path:
    """A copy of the report that ends before the list of labels."""
    page = (folder / "report.html").read_text(encoding="utf-8")
    top, (_, tag, script) = page.partition("<h3>")[0], page.rpartition("<script>")
    (folder / "cut.html").write_text(top + tag + script, encoding="utf-8")
    return folder / "cut.html"


if __name__ == "__main__":
    main()
