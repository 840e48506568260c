"""Take the README's pictures of TensorBoard and of the report: train on generated rows, open them in Chromium.

python docs/screenshots.py    (needs Chromium, and what requirements-cpu.txt installs)
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
TABS = {"scalars": "scalars", "histograms": "histograms", "graphs": "graphs"}
FLAGS = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking"
FLAGS += " --disable-component-update --disable-sync --hide-scrollbars"


def main() -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if not browser:
        raise SystemExit("Chromium is not installed")
    with tempfile.TemporaryDirectory() as folder:
        train = [
            sys.executable,
            DOCS.parent / "train_model_modern.py",
            "--sample",
            "2000",
            "--model-dir",
            folder,
            "--quiet",
        ]
        subprocess.run(train, check=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        server = subprocess.Popen(
            [sys.executable, "-m", "tensorboard.main", "--logdir", f"{folder}/logs", "--port", str(port)],
            stderr=subprocess.DEVNULL,
        )
        try:
            while b"validation" not in runs(port):
                time.sleep(0.5)
            addresses = {name: f"http://127.0.0.1:{port}/#{tab}" for tab, name in TABS.items()}
            addresses["report"] = f"file://{folder}/report.html"
            for name, address in addresses.items():
                command = [
                    browser,
                    *FLAGS.split(),
                    f"--user-data-dir={folder}/{name}",
                    f"--window-size=1200,{2700 if name == 'report' else 760}",
                    "--virtual-time-budget=15000",
                ]
                target = DOCS / f"{name}.png"
                subprocess.run(
                    [*command, f"--screenshot={target}", address],
                    check=True,
                    capture_output=True,
                )
                print(f"{target}: {target.stat().st_size:,} bytes")
        finally:
            server.terminate()


def runs(port: int) -> bytes:
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/data/runs").read()
    except OSError:
        return b""


if __name__ == "__main__":
    main()
