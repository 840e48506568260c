"""Train on the machines of a Ray cluster: pip install "ray[train]", then

    python docs/ray_train.py --workers 4 --model-dir /model -- /data --trust-network

Ray Train picks the machines, sets TF_CONFIG on each and starts again when a worker is gone; from then on the run is
that of any group, and what stands behind -- goes to train_model_modern.py. The files it reads, and this repository,
must be at the same paths on every machine, and so must the model directory of a run that Ray may start again.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

TRAINER = Path(__file__).resolve().parent.parent / "train_model_modern.py"


def train_worker(settings: dict) -> None:
    """What Ray runs on each machine, with TF_CONFIG in its environment."""
    arguments, folder = settings["arguments"], Path(settings["model_dir"])
    if (folder / "resume.npz").exists():  # of a run that a lost worker ended
        arguments = [*arguments, "--resume"]
    command = [sys.executable, str(TRAINER), *arguments, "--model-dir", str(folder)]
    subprocess.run(command, check=True, env=os.environ.copy())


def main() -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.tensorflow import TensorflowTrainer

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--model-dir", default="model")
    parser.add_argument("arguments", nargs="*", help="of train_model_modern.py, behind --")
    options = parser.parse_args()
    TensorflowTrainer(
        train_worker,
        train_loop_config={"arguments": options.arguments, "model_dir": os.path.abspath(options.model_dir)},
        scaling_config=ScalingConfig(num_workers=options.workers),
        run_config=RunConfig(failure_config=FailureConfig(max_failures=3)),
    ).fit()


if __name__ == "__main__":
    main()
