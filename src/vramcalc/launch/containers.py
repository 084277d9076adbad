"""What Compose and Kubernetes share."""

from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from vramcalc.errors import RefusedError
from vramcalc.launch.service import Service


def check_image(service: Service) -> None:
    """Raise ``RefusedError`` where the engine publishes no image for the cards."""
    if service.vendor not in service.kind.image:
        raise RefusedError(
            f"no image of {service.engine} runs on {service.vendor} cards in a container", "take --target shell"
        )


class _Plain(yaml.SafeDumper):
    """Writes equal parts out instead of naming them."""

    def ignore_aliases(self, data: object) -> bool:
        """Return that nothing is named."""
        del data
        return True


def dump(title: str, documents: Iterable[Mapping[str, Any]]) -> str:
    """Return documents as YAML under a comment."""
    text = yaml.dump_all(documents, Dumper=_Plain, sort_keys=False, width=100, allow_unicode=True)
    return f"# {title}\n{text}"


def literal(text: str) -> str:
    """Return a text in which neither Compose nor the kubelet expands a variable."""
    return text.replace("$", "$$")
