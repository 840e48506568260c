"""A file with every kind of input: gaps, text with gaps, integer ids with gaps, and awkward column names."""

import numpy as np


def write_mixed(path, rows=120):
    generator = np.random.default_rng(3)
    with open(path, "w", encoding="utf-8") as file:
        file.write("app id,Fenster (größe),idle time,class,scaled,probability,always,productive\n")
        for _ in range(rows):
            app = generator.choice(["", "7", "-2147483648", "4294967295"])
            title = generator.choice(["", "Büro", "it's \\ {web}", "c"])
            idle, small = generator.choice(["", "0", "1e-7", "250000", "-3.5"]), generator.random() * 1e-4
            size, stamp = generator.choice(["large", "small"]), generator.integers(2**45, 2**45 + 2**20)
            label = int(generator.random() < 0.3 + 0.4 * (app == "7"))
            file.write(f"{app},{title},{idle},{small:.8f},{size},{stamp},0,{label}\n")
    return path
