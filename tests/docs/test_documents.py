"""The documents show what the program prints."""

from pathlib import Path

import pytest

from tests.docs.blocks import console_blocks, rerun, rewrite

DOCUMENTS = sorted((Path(__file__).parents[2] / "docs").glob("**/*.md"))


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(block, id=f"{path.stem} {index}")
        for path in DOCUMENTS
        for index, block in enumerate(console_blocks(path.read_text(encoding="utf-8")), start=1)
    ],
)
def test_documents_show_what_the_program_prints(block: str) -> None:
    assert rerun(block) == block


def test_a_stale_block_is_seen_and_rewritten(tmp_path: Path) -> None:
    stale = "# Title\n\n```console\n$ vramcalc estimate \\\n>   -m nobody -g h100\nall is well\n```\n\nText.\n"
    document = tmp_path / "page.md"
    document.write_text(stale)
    (block,) = console_blocks(stale)
    rewrite(document)

    assert rerun(block) != block
    assert "no model is called 'nobody'" in document.read_text()
    assert document.read_text().endswith("```\n\nText.\n")


def test_only_the_program_itself_is_run() -> None:
    with pytest.raises(ValueError, match="only vramcalc is run"):
        rerun("$ rm -rf something\n")
