"""Checks the includes of the checkout against daemon/ARCHITECTURE.md, and checks that the check finds mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest
from arrows import reached_from, read_includes, read_table, sources_of_target, wrong_arrows

ROOT = Path(__file__).resolve().parents[2]

TABLE = """
| folder | may include |
| --- | --- |
| include/muster | |
| daemon/base | include/muster |
| daemon/store | daemon/base, include/muster |
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for path, text in {
        "include/muster/types.hpp": "#include <vector>\n",
        "daemon/base/time.hpp": "#include <muster/types.hpp>\n",
        "daemon/store/store.hpp": '#include "base/time.hpp"\n#include <spdlog/spdlog.h>\n',
        "daemon/store/store.cpp": '#include "store.hpp"\n',
    }.items():
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path


def test_every_include_is_an_arrow_of_the_table():
    table = read_table((ROOT / "daemon" / "ARCHITECTURE.md").read_text(encoding="utf-8"))
    assert wrong_arrows(ROOT, table) == []


def test_public_headers_include_the_standard_library_and_each_other_only():
    public = (i for i in read_includes(ROOT) if i.source.parent == Path("include/muster"))
    assert [str(i) for i in public if not i.header.startswith("muster/") and not i.header.isidentifier()] == []


# Headers whose functions ask the system for something. Only daemon/base may use them.
OF_THE_SYSTEM = ("sys/", "linux/", "fcntl.h", "poll.h", "pthread.h", "signal.h", "unistd.h", "boost/asio")
# Files that may include them all the same, in the folders that the node is made of.
AT_THE_EDGE = {"memfd_backing.cpp", "populator.cpp"}


def pure_sources() -> list[Path]:
    sources = sources_of_target(ROOT / "daemon" / "session" / "CMakeLists.txt", "musterd_node")
    for folder in ("memory", "store", "cluster"):
        sources += (ROOT / "daemon" / folder).glob("*.cpp")
    return [path.relative_to(ROOT) for path in sources if path.name not in AT_THE_EDGE]


def test_the_node_is_pure():
    includes = reached_from(pure_sources(), ROOT)
    assert {"daemon/session/node.hpp", "daemon/memory/backing.hpp"} <= {str(include.source) for include in includes}
    own = [include for include in includes if include.source.parent != Path("daemon/base")]
    wrong = [i for i in own if i.header.startswith(OF_THE_SYSTEM) or i.header.endswith("memfd_backing.hpp")]
    assert [str(include) for include in wrong] == []


def test_what_headers_bring_in_is_reached(tree: Path):
    (tree / "daemon/base/time.hpp").write_text("#include <sys/mman.h>\n")
    headers = [str(include) for include in reached_from([Path("daemon/store/store.cpp")], tree)]
    assert "daemon/base/time.hpp:1 includes sys/mman.h" in headers


def test_the_checkout_is_really_read():
    sources = {str(include.source.parent) for include in read_includes(ROOT)}
    assert {"include/muster", "daemon/session", "daemon/collective"} <= sources


def test_a_right_tree_passes(tree: Path):
    assert wrong_arrows(tree, read_table(TABLE)) == []


@pytest.mark.parametrize(
    ("path", "line", "complaint"),
    [
        ("daemon/base/up.cpp", '#include "store/store.hpp"', "daemon/base may not include daemon/store"),
        ("daemon/base/up.cpp", '#  include "../store/store.hpp"', "daemon/base may not include daemon/store"),
        ("include/muster/up.hpp", '#include "daemon/base/time.hpp"', "include/muster may not include daemon/base"),
        ("daemon/base/lost.cpp", '#include "nowhere.hpp"', "no such file"),
        ("daemon/other/new.cpp", '#include "base/time.hpp"', "no row of the table holds daemon/other"),
    ],
)
def test_a_planted_wrong_arrow_is_caught(tree: Path, path: str, line: str, complaint: str):
    planted = tree / path
    planted.parent.mkdir(exist_ok=True)
    planted.write_text(line + "\n")
    [wrong] = wrong_arrows(tree, read_table(TABLE))
    assert complaint in wrong
    assert f"{path}:1" in wrong


def test_a_table_that_names_an_unknown_folder_is_refused():
    with pytest.raises(ValueError, match="daemon/cluster"):
        read_table(TABLE + "| daemon/session | daemon/cluster |\n")
