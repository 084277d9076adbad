"""Several services on one machine: nothing is promised twice, and the RAG numbers keep to what is left."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from vramcalc.api.stacking import answer_stack
from vramcalc.cli import app
from vramcalc.errors import BadInputError, UsageError
from vramcalc.reports.stack import StackReport
from vramcalc.sources.stack_file import read_stack
from vramcalc.stack import Prompt

_DOCS = Path(__file__).parents[1] / "docs"
_CHAT = "name=chat,model=deepseek-r1-8b,engine=ollama,context=8k"
_MACHINE = "machine: {gpu: rtx4090}\n"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["stack", *arguments], env={"COLUMNS": "100", "NO_COLOR": "1"})


def stacked(tmp_path: Path, text: str) -> StackReport:
    path = tmp_path / "stack.yaml"
    path.write_text(text, encoding="utf-8")
    return answer_stack(path)


def _adds_up(report: StackReport) -> None:
    for card in report.cards:
        assert card.held_bytes + card.free_bytes == card.capacity_bytes
        assert card.peak_bytes >= card.held_bytes
        if report.fits:
            assert card.peak_bytes <= card.capacity_bytes
    for service in report.services:
        for name, before in service.held_before_bytes.items():
            capacity = next(card.capacity_bytes for card in report.cards if card.name == name)
            assert service.verdict != "fits" or before + service.held_bytes[name] <= capacity


def test_a_70b_and_an_embedding_model_share_two_cards() -> None:
    tight = answer_stack(_DOCS / "rag-server.yaml")
    offloaded = answer_stack(_DOCS / "rag-server-offload.yaml")

    for report in (tight, offloaded):
        _adds_up(report)
        assert [service.name for service in report.services] == ["embed", "chat"]
        assert report.services[1].memory_share is not None
        assert report.rag is not None
        assert report.fits == (report.rag.needed_tokens <= report.rag.n_context)
    assert tight.rag is not None
    assert offloaded.rag is not None
    rag = offloaded.rag
    assert rag.n_context > tight.rag.n_context  # 2 GiB of weights away leave room for the cache
    fixed = 200 + 1000 + 100
    assert fixed + rag.max_chunks * 512 + rag.max_tokens <= rag.n_context
    assert fixed + (rag.max_chunks + 1) * 512 + rag.max_tokens > rag.n_context
    assert rag.max_prompt_tokens + rag.max_tokens == rag.n_context
    assert offloaded.machine.host_memory_bytes == 200 * 10**9


def test_the_document_shows_the_file_it_runs() -> None:
    text = (_DOCS / "rag-server.md").read_text(encoding="utf-8")

    assert f"```yaml\n{(_DOCS / 'rag-server.yaml').read_text(encoding='utf-8')}```" in text


def test_shares_leave_room_for_who_comes_next(tmp_path: Path) -> None:
    services = (
        "services: [{name: a, model: qwen3-4b, engine: vllm, context: 4k}, {name: b, model: bge-m3, engine: vllm}]\n"
    )
    report = stacked(tmp_path, _MACHINE + services)

    _adds_up(report)
    assert report.fits
    shares = [service.memory_share or 0 for service in report.services]
    assert sum(shares) < 1
    assert "--gpu-memory-utilization" in report.services[0].launch


def test_a_share_as_asked_is_kept_and_the_second_engine_refused(tmp_path: Path) -> None:
    entry = "{{name: {}, model: qwen3-4b, engine: vllm, context: 4k, memory_share: 0.92}}"
    report = stacked(tmp_path, f"{_MACHINE}services: [{entry.format('a')}, {entry.format('b')}]\n")

    assert not report.fits
    assert [service.verdict for service in report.services] == ["fits", "does_not_fit"]
    assert "short" in report.services[1].why


def test_ollama_keeps_two_small_models_and_evicts_for_a_large_one() -> None:
    together = answer_stack(gpu="rtx3060", services=[_CHAT, "name=embed,model=bge-m3,engine=ollama"])
    apart = answer_stack(gpu="rtx3060", services=[_CHAT, "name=other,model=qwen3-14b,engine=ollama"])

    assert together.fits
    assert [service.evicts for service in together.services] == [(), ()]
    assert not apart.fits
    assert apart.services[1].evicts == ("chat",)
    assert any("Ollama unloads chat" in note for note in apart.notes)
    for report in (together, apart):
        _adds_up(report)


@given(
    context=st.integers(0, 200_000),
    chunk=st.integers(1, 4096),
    fixed=st.integers(0, 50_000),
    answer=st.integers(1, 50_000),
)
def test_the_numbers_never_ask_for_more_than_the_context(context: int, chunk: int, fixed: int, answer: int) -> None:
    prompt = Prompt(
        service="chat",
        chunks=1,
        chunk_tokens=chunk,
        system_tokens=fixed,
        history_tokens=0,
        question_tokens=0,
        answer_tokens=answer,
        concurrency=1,
    )
    max_tokens, max_chunks = prompt.numbers(context)

    assert 0 <= max_tokens <= answer
    assert max_chunks >= 0
    if fixed <= context:
        assert fixed + max_chunks * chunk + max_tokens <= context
    if max_tokens == answer:
        assert fixed + (max_chunks + 1) * chunk + max_tokens > context


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("machine: {gpu: rtx4090}\n", "services: Field required"),
        ("machine: {gpu: rtx4090}\nservices: []\n", "at least 1 item"),
        ("machine: {gpu: rtx4090}\nservices: [{name: a, model: qwen3-8b, colour: red}]\n", "colour"),
        (
            "machine: {gpu: rtx4090}\nservices: [{name: a, model: qwen3-8b}, {name: a, model: bge-m3}]\n",
            "two services have one name",
        ),
        (
            "machine: {gpu: rtx4090}\nservices: [{name: a, model: qwen3-8b}]\nrag: {service: b, chunks: 1, "  # noqa: ISC004
            "chunk_tokens: 1, answer_tokens: 1}\n",
            "rag.service names no service",
        ),
        ("machine: {gpu: rtx4090}\nservices: [{name: a, model: qwen3-8b, gpus: [1]}]\n", "not cards of this machine"),
        ("machine: {gpu: rtx4090}\nservices: [{name: a, model: qwen3-8b, context: many}]\n", "is not a count"),
        ("machine: {gpu: rtx4090}\nservices: [{name: a, model: qwen3-8b, cpu_offload: 3}]\n", "valid string"),
        ("machine: &m {gpu: rtx4090}\nservices: *m\n", "YAML references"),
        ("- a list\n", "not a mapping"),
    ],
)
def test_a_broken_file_is_told(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        stacked(tmp_path, text)


def test_a_file_or_services_and_a_machine() -> None:
    with pytest.raises(UsageError, match="a FILE or several --service"):
        answer_stack()
    with pytest.raises(UsageError, match="no GPU was named"):
        answer_stack(services=[_CHAT])
    with pytest.raises(BadInputError, match="is no setting"):
        answer_stack(gpu="rtx3060", services=["chat"])
    assert read_stack(_DOCS / "rag-server.yaml").rag is not None


def test_the_command_answers_in_json_and_checks(snapshot: object) -> None:
    arguments = ("-g", "rtx3060", "--service", _CHAT, "--service", "name=other,model=qwen3-14b,engine=ollama")
    report = json.loads(run(*arguments, "--json").stdout)

    assert report["services"][1]["evicts"] == ["chat"]
    assert run(*arguments, "--check").exit_code == 3
    assert run("no-such-file.yaml").exit_code == 5
    assert run(*arguments).stdout == snapshot
    assert run(*arguments, "-f", "markdown").stdout.count("\n") == 4
    assert run(*arguments, "-f", "csv").stdout.startswith("service,model")
