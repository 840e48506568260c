"""Mutated files: the reader gives a correct table or one line of error, never a traceback, and writes nothing."""

import os
import random

import numpy as np
import pytest
from table_files import arguments

from harvest.cli import UserError
from harvest.data.sample import write_sample
from harvest.data.table import read_table

MUTATIONS = int(os.environ.get("MUTATIONS", "1500"))  # make soak: 5 000
FEW = 200
BITS = [b",", b"\n", b"\r\n", b'"', b"\0", b";", b"inf", b"-", b"1e999", b"\xff", b"\xe9", b"\xef\xbb\xbf", b"nan"]
BITS += [b"0x1", b" ", b"", b"99999999999999999999", b"yes"]


def mutate(content, chance):
    """Change a file in one to four places: bytes, cells, lines, ends."""
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(content) + 1)
        lines = content.split(b"\n")
        number = chance.randrange(len(lines))
        kind = chance.randrange(8)
        if kind == 0:
            content = content[:place] + chance.choice(BITS) + content[place:]
        elif kind == 1:
            content = content[:place] + content[place + chance.randint(1, 30) :]
        elif kind == 2:
            content = content[:place]
        elif kind == 3:
            del lines[number]
            content = b"\n".join(lines)
        elif kind == 4:
            lines.insert(number, chance.choice(lines))
            content = b"\n".join(lines)
        elif kind == 5:
            cells = lines[number].split(b",")
            cells[chance.randrange(len(cells))] = chance.choice(BITS)
            lines[number] = b",".join(cells)
            content = b"\n".join(lines)
        elif kind == 6:
            lines[number] = b",".join(b'"' + cell + b'"' for cell in lines[number].split(b","))
            content = b"\n".join(lines)
        else:
            content = content[:place] + bytes([chance.randrange(256)]) + content[place + 1 :]
        if not content:
            break
    return content


def check_table(table, content):
    rows = len(table.label)
    assert 20 <= rows <= content.count(b"\n") + content.count(b"\r") + 1
    assert set(np.unique(table.label)) == {0, 1} and len(table.frame) == rows
    assert {*table.frame} == {column.name for column in table.columns if column.kind != "dropped"}
    for column in table.of_kind("number"):
        assert not np.isinf(table.numbers(column.name)).any()
    for column in table.of_kind("category"):
        codes = table.codes(column.name)
        assert codes.min() >= 0 and codes.max() < len(column.vocabulary)


def bases(path):
    """A v0 file, one without a header, and one of more kinds of columns."""
    write_sample(path, 60, 1)
    v0 = path.read_bytes()
    newer = [b"timestamp,foreground_app,title,idle_time,focused_domain_hash,share,productive"]
    newer += [
        b"%d,%d,page %d,%d,%s,0.%d,%d"
        % (1795081854 + n, n % 4, n % 3, n * 7, b"" if n % 5 else b"%d" % (n % 9), n, n % 2)
        for n in range(60)
    ]
    return [v0, v0.split(b"\n", 1)[1], b"\n".join(newer) + b"\n"]


@pytest.mark.parametrize("count, seed", [(FEW, 7), pytest.param(MUTATIONS, 8, marks=pytest.mark.slow)])
def test_mutated_files(tmp_path, count, seed):
    files = bases(tmp_path / "mutated.csv")
    chance, path, outcomes = random.Random(seed), tmp_path / "mutated.csv", {"table": 0, "refused": 0}
    for number in range(count):
        content = mutate(chance.choice(files), chance)
        path.write_bytes(content)
        try:
            check_table(read_table(arguments(path, skip_bad_rows=number % 3 == 0))[0], content)
            outcomes["table"] += 1
        except UserError as error:
            assert "\n" not in str(error) and str(path) in str(error), (number, str(error))
            outcomes["refused"] += 1
        except Exception as error:
            raise AssertionError(f"mutation {number}: {type(error).__name__}: {error}\n{content[:3000]!r}") from error
    assert min(outcomes.values()) > count // 10
    assert os.listdir(tmp_path) == ["mutated.csv"]
