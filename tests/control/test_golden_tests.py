"""The autoscaler's golden tests, somebody's bug each (operator/DESIGN.md): none of them gets lost."""

import re
from pathlib import Path

NUMBERS = range(1, 18)


def test_each_of_them_is_there_by_its_name():
    found = re.compile(r"^(?:async )?def test_g(\d+)_", re.MULTILINE)
    texts = [path.read_text() for path in Path(__file__).parent.rglob("test_*.py")]
    assert {int(number) for text in texts for number in found.findall(text)} == set(NUMBERS)
