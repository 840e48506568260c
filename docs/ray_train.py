"""Train on the machines of a Ray cluster: pip install "ray[train]", then

    python docs/ray_train.py --workers 4 --model-dir /model -- /data --trust-network

Ray Train chooses the machines, sets TF_CONFIG on each, and restarts the run if a worker is lost. Arguments after -- are
passed to train_model_modern.py. The data files and this repository must be at the same paths on every machine, and so
must the model directory of a run that Ray may restart.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

TRAINER = Path(__file__).resolve().parent.parent / "train_model_modern.py"


def train_worker(settings: dict) -> None:
    """Run the trainer on one machine; Ray has set TF_CONFIG in the environment."""
    arguments, folder = settings["arguments"], Path(settings["model_dir"])
    if (folder / "resume.npz").exists():  # a lost worker ended this run
        arguments = [*arguments, "--resume"]
    command = [sys.executable, str(TRAINER), *arguments, "--model-dir", str(folder)]
    subprocess.run(command, check=True)


def main() -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.tensorflow import TensorflowTrainer

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--model-dir", default="model")
    parser.add_argument("arguments", nargs="*", help="arguments of train_model_modern.py, after --")
    options = parser.parse_args()
    TensorflowTrainer(
        train_worker,
        train_loop_config={"arguments": options.arguments, "model_dir": os.path.abspath(options.model_dir)},
        scaling_config=ScalingConfig(num_workers=options.workers),
        run_config=RunConfig(failure_config=FailureConfig(max_failures=3)),
    ).fit()


if __name__ == "__main__":
    main()
