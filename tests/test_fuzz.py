"""Mutated files: the reader gives a correct table or one line of error, never a traceback, and writes nothing."""

import os
import random

import numpy as np

import train_model_modern as modern

MUTATIONS = int(os.environ.get("MUTATIONS", "1500"))  # make soak: 5 000
BITS = [
    b",",
    b"\n",
    b"\r\n",
    b'"',
    b"\0",
    b";",
    b"inf",
    b"-",
    b"1e999",
    b"\xff",
    b"\xe9",
    b"\xef\xbb\xbf",
    b"nan",
    b"0x1",
    b" ",
    b"",
    b"99999999999999999999",
    b"yes",
]


def mutate(content, chance):
    """Change a file in one to four places: bytes, cells, lines, ends."""
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(content) + 1)
        lines = content.split(b"\n")
        kind = chance.randrange(8)
        if kind == 0:
            content = content[:place] + chance.choice(BITS) + content[place:]
        elif kind == 1:
            content = content[:place] + content[place + chance.randint(1, 30) :]
        elif kind == 2:
            content = content[:place]
        elif kind == 3:
            del lines[chance.randrange(len(lines))]
            content = b"\n".join(lines)
        elif kind == 4:
            lines.insert(chance.randrange(len(lines)), chance.choice(lines))
            content = b"\n".join(lines)
        elif kind == 5:
            number = chance.randrange(len(lines))
            cells = lines[number].split(b",")
            cells[chance.randrange(len(cells))] = chance.choice(BITS)
            lines[number] = b",".join(cells)
            content = b"\n".join(lines)
        elif kind == 6:
            number = chance.randrange(len(lines))
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
    assert set(np.unique(table.label)) == {0, 1} and not np.isinf(table.numbers).any()
    assert table.numbers.shape == (rows, len(table.of_kind("number"))) and table.codes.shape == (
        rows,
        len(table.of_kind("category")),
    )
    for column, codes in zip(table.of_kind("category"), table.codes.T, strict=True):
        assert codes.min() >= 0 and codes.max() < len(column.vocabulary)


def test_mutated_files(tmp_path):
    modern.write_sample(tmp_path / "a.csv", 60, 1)
    v0 = (tmp_path / "a.csv").read_bytes()
    newer = [b"timestamp,foreground_app,title,idle_time,focused_domain_hash,share,productive"]
    newer += [
        b"%d,%d,page %d,%d,%s,0.%d,%d"
        % (1795081854 + n, n % 4, n % 3, n * 7, b"" if n % 5 else b"%d" % (n % 9), n, n % 2)
        for n in range(60)
    ]
    bases = [v0, v0.split(b"\n", 1)[1], b"\n".join(newer) + b"\n"]
    chance, path, outcomes = random.Random(7), tmp_path / "mutated.csv", {"table": 0, "refused": 0}
    for number in range(MUTATIONS):
        content = mutate(chance.choice(bases), chance)
        path.write_bytes(content)
        flags = ["--skip-bad-rows"] if number % 3 == 0 else []
        try:
            check_table(modern.read_table(modern.parse_options([str(path), *flags])), content)
            outcomes["table"] += 1
        except modern.UserError as error:
            assert "\n" not in str(error) and str(path) in str(error), (number, str(error))
            outcomes["refused"] += 1
        except Exception as error:
            raise AssertionError(f"mutation {number}: {type(error).__name__}: {error}\n{content[:3000]!r}") from error
    assert min(outcomes.values()) > MUTATIONS // 10
    assert sorted(os.listdir(tmp_path)) == ["a.csv", "mutated.csv"]
