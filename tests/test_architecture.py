"""The map names every room."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "vramcalc"
NAMED = set(re.findall(r"`([\w/.]+)`", (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")))
UNNAMED = frozenset({"__init__", "__main__", "__pycache__"})


def rooms(folder: Path) -> list[str]:
    """Return the modules and packages directly in a folder."""
    found = [path for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()]
    return sorted(path.stem for path in found if path.stem not in UNNAMED)


@pytest.mark.parametrize("folder", ["", "sources", "engines", "api", "launch"])
def test_the_map_names_every_room(folder: str) -> None:
    told = {name.rstrip("/").removesuffix(".py") for name in NAMED}
    use_cases = {"comparing", "detecting", "explaining", "inspecting", "planning", "solving", "stacking", "validating"}
    by_rule = use_cases | {"watching"} if folder == "api" else set()

    assert [room for room in rooms(PACKAGE / folder) if room not in told | by_rule] == []


def test_the_map_names_nothing_that_is_gone() -> None:
    folders = {name for name in NAMED if name.endswith("/") and "." not in name}
    known = {f"{path.name}/" for path in PACKAGE.rglob("*") if path.is_dir()}
    beside = {"docs/", "data/measured/", "fuzz/"}

    assert folders - known - beside == set()
