"""Names of C++ test cases, from which CMake makes tests."""

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]


def test_no_name_has_a_semicolon():
    """CMake would take it apart, and run two tests that match no test case and so pass."""
    sources = sorted(TESTS.rglob("*.cpp"))
    assert len(sources) > 100
    names = [name for path in sources for name in re.findall(r'TEST_CASE\(\s*"([^"]*)"', path.read_text())]
    assert len(names) > 1000
    assert [name for name in names if ";" in name] == []
