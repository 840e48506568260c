"""Take the pictures of TensorBoard and of the report in docs/: train on generated rows and open them in Chromium.

python docs/screenshots.py           (needs Chromium and the packages of requirements-cpu.txt)
python docs/screenshots.py report    (only this picture)
"""

import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

DOCS = Path(__file__).resolve().parent
TABS = ("scalars", "histograms", "graphs")
SHOWN = {"scalars": "&_smoothingWeight=0.3&tagFilter=epoch/(accuracy%7Clearning_rate%7Closs%7Crecall)"}
SIZE, GRAPH_SIZE, REPORT_SIZE = "1200,760", "1200,1000", "1040,1070"  # pixels; the report down to the mistakes
FLAGS = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking"
FLAGS += " --disable-component-update --disable-sync --hide-scrollbars --virtual-time-budget=15000"


def main() -> None:
    names = sys.argv[1:] or [*TABS, "report"]
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if not browser:
        raise SystemExit("Chromium is not installed")
    with tempfile.TemporaryDirectory() as folder:
        train = [sys.executable, DOCS.parent / "train_model_modern.py", "--sample", "2000", "--quiet"]
        subprocess.run([*train, "--model-dir", folder], check=True)
        for name in names:
            if name == "report":
                take(browser, name, f"file://{folder}/{cut_report(Path(folder))}", REPORT_SIZE, folder)
        if tabs := [name for name in names if name in TABS]:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            command = [sys.executable, "-m", "tensorboard.main", "--logdir", f"{folder}/logs", "--port", str(port)]
            server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            try:
                while b"validation" not in runs(port):
                    time.sleep(0.5)
                for name in tabs:
                    address = f"http://127.0.0.1:{port}/#{name}{SHOWN.get(name, '')}"
                    take(browser, name, address, GRAPH_SIZE if name == "graphs" else SIZE, folder)
            finally:
                server.terminate()


def cut_report(folder: Path) -> str:
    """The file name of a copy of the report that ends before the list of labels."""
    page = (folder / "report.html").read_text(encoding="utf-8")
    top, (_, tag, script) = page.partition("<h3>")[0], page.rpartition("<script>")
    (folder / "cut.html").write_text(top + tag + script, encoding="utf-8")
    return "cut.html"


def take(browser: str, name: str, address: str, size: str, folder: str) -> None:
    target = DOCS / f"{name}.png"
    command = [browser, *FLAGS.split(), f"--user-data-dir={folder}/{name}", f"--window-size={size}"]
    subprocess.run([*command, f"--screenshot={target}", address], check=True, capture_output=True)
    print(f"{target}: {target.stat().st_size:,} bytes")


def runs(port: int) -> bytes:
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/data/runs").read()
    except OSError:
        return b""


if __name__ == "__main__":
    main()
