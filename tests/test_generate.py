"""`generate.py` in this process, with the models of one training run."""

import re
from pathlib import Path

import pytest

from generate import Options, main
from tests.conftest import Trained
from training.errors import TrainingError

PASSAGE = "Anna Berg, who painted too, kept the light."


@pytest.mark.parametrize("model", ["bigram", "rnn", "llm"])
def test_every_artifact_continues_a_text(model: str, trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for seed in (1, 1, 2):
        main(Options("The light", str(trained.output / model), length=12, seed=seed))
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]
    assert all(text.startswith("The light") and text.endswith("\n") for text in texts)


def test_a_hugging_face_directory_is_exported_first(tiny_base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(Options("The light", str(tiny_base), length=3, seed=1))
    printed = capsys.readouterr()
    assert printed.out.startswith("The light")
    assert "exporting" in printed.err  # stdout is for the text


def test_a_question_about_a_passage_gets_answers_or_a_refusal(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "passage.txt"
    file.write_text(PASSAGE)
    llm = str(trained.output / "llm")
    for context in (PASSAGE, str(file)):
        main(Options("Who kept the light?", llm, context, extractive=True, answers=2, no_answer_threshold=1))
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == lines[2:]
    for line in lines[:2]:
        answer, sure, start, end = re.fullmatch(r"(.*) \((\d+)% sure, characters (\d+) to (\d+)\)", line).groups()  # type: ignore[union-attr]
        assert PASSAGE[int(start) : int(end)] == answer
        assert 0 <= int(sure) <= 100
    main(Options("Who kept the light?", llm, PASSAGE, no_answer_threshold=0))
    assert re.fullmatch(r"Not in this passage \(\d+% sure\)\n", capsys.readouterr().out)
    answers = []
    for seed in (1, 2):
        main(Options("Who kept the light?", llm, length=4, seed=seed))
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1]  # greedy, as in the service
    assert not answers[0].startswith("Who kept the light?")  # a question is answered, not continued


def test_mistakes_are_named(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"--model: .*no such directory"):
        main(Options("The", str(tmp_path / "missing")))
    with pytest.raises(TrainingError, match="answers no questions"):
        main(Options("Who?", str(trained.output / "bigram"), PASSAGE))
    (tmp_path / "image").write_bytes(bytes([255, 254, 253]))
    with pytest.raises(TrainingError, match="not a readable text file"):
        main(Options("Who?", str(trained.output / "llm"), str(tmp_path / "image")))
    with pytest.raises(TrainingError, match="too long"):
        main(Options("The", str(trained.output / "llm"), length=5000))
    with pytest.raises(ValueError, match="--top-p must be from 0 to 1"):
        Options("The", top_p=2)
