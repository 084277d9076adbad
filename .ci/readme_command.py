"""Print the code block of README.md that follows the marker `<!-- command: NAME -->`."""

import re
import sys
from pathlib import Path

name = sys.argv[1]
text = Path("README.md").read_text(encoding="utf-8")
match = re.search(rf"<!-- command: {re.escape(name)} -->\s*```sh\n(.*?)```", text, re.DOTALL)
if match is None:
    sys.exit(f"README.md has no command marked {name!r}")
sys.stdout.write(match[1])
