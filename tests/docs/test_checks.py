"""Each check of `tests/docs/names.py` reports the one fault of a made-up document."""

from collections.abc import Iterator

from tests.docs.markdown import Document
from tests.docs.names import (
    broken_links,
    missing_paths,
    unknown_flags,
    unknown_modules,
    unknown_routes,
    unknown_settings,
    unknown_targets,
)


def document(text: str) -> Document:
    return Document("docs/a.md", text)


def check_one_fault(faults: Iterator[str], *words: str) -> None:
    (fault,) = faults
    assert all(word in fault for word in words), fault


def test_a_dead_link_and_a_dead_anchor_are_reported() -> None:
    others = {"docs/b.md": Document("docs/b.md", "# A *Title*, `code` and [link](x)\n## Twice\n## Twice\n```sh\n# no heading\n```\n")}
    files = {"docs/a.md", "docs/b.md", "README.md"}
    assert others["docs/b.md"].anchors == {"a-title-code-and-link", "twice", "twice-1"}

    def check(text: str) -> Iterator[str]:
        return broken_links(document(text), others | {"docs/a.md": document(text)}, files.__contains__)

    good = "# One\n[a](b.md#twice-1) [b](../README.md) [c](https://example.org/x) [d](#one) `[e](none.md)`\n```\n[f](none.md)\n```\n"
    assert list(check(good)) == []
    check_one_fault(check(good + "[a](c.md)"), "docs/a.md:6:", "c.md")
    check_one_fault(check(good + "![a](c.png)"), "docs/a.md:6:", "c.png")
    check_one_fault(check(good + '<img src="c.png">'), "docs/a.md:6:", "c.png")
    check_one_fault(check(good + "[a](b.md#thrice)"), "docs/a.md:6:", "#thrice")
    check_one_fault(check(good + "[a](#two)"), "docs/a.md:6:", "#two")


def test_a_missing_file_is_reported() -> None:
    files = {"models/base.py", "models/engines/lstm.py", "train.py"}

    def check(text: str) -> Iterator[str]:
        return missing_paths(document(text), {"models"}, files.__contains__, lambda name: any(file.endswith(name) for file in files))

    good = "`models/base.py` `engines/lstm.py` `.json` `runs/mine` `runs/…/a.md` `DIR/a.json` `models/*.py` `tokens/s` `/x/a.py`\n"
    assert list(check(good)) == []
    check_one_fault(check(good + "`models/rows.py`"), "docs/a.md:2:", "models/rows.py")
    check_one_fault(check(good + "`python engines/none.py --x`"), "docs/a.md:2:", "engines/none.py")
    check_one_fault(check(good + "`models/none`"), "docs/a.md:2:", "models/none")
    check_one_fault(check(good + "```sh\npython test.py\n```"), "docs/a.md:3:", "test.py")
    check_one_fault(check(good + '```mermaid\na["train.py<br/>models/none.py"]\n```'), "docs/a.md:3:", "models/none.py")
    check_one_fault(check("a\n\nb `of\nmodels/none.py`\n"), "docs/a.md:3:", "models/none.py")


def test_a_wrong_flag_is_reported() -> None:
    known = {"train.py": {"--epochs"}, "torchrun": {"--nproc"}, "make bench": {"--seconds"}}

    def check(text: str) -> Iterator[str]:
        return unknown_flags(document(text), known)

    good = '`--epochs` `torchrun --nproc 2 train.py --epochs 1` `make bench BENCH="--seconds 8"`\n'
    good += "```sh\npython train.py \\\n  --epochs=2\n```\n"
    assert list(check(good)) == []
    check_one_fault(check(good + "`--epoch`"), "docs/a.md:6:", "--epoch ")
    check_one_fault(check(good + "`torchrun train.py --nproc 2`"), "docs/a.md:6:", "--nproc ", "train.py")
    check_one_fault(check(good + "`make bench BENCH=--epochs`"), "docs/a.md:6:", "--epochs ", "make bench")
    check_one_fault(check(good + "```sh\n.venv/bin/python ./train.py \\\n  --no-epochs\nls\n```"), "docs/a.md:7:", "--no-epochs ")


def test_an_unknown_setting_is_reported() -> None:
    check_one_fault(unknown_settings(document("a TRIGEN_ONE\nb TRIGEN_TWO=1"), {"TRIGEN_ONE"}), "docs/a.md:2:", "TRIGEN_TWO ")


def test_an_unknown_route_is_reported() -> None:
    known = ["/generate_text", "/v1/models/{model}", "/"]
    good = "`POST /generate_text` `/v1` `/v1/models/llm` `/v1/models/{model}` `/tmp`\n```sh\ncurl http://127.0.0.1:3000\n```\n"
    assert list(unknown_routes(document(good), known)) == []
    check_one_fault(unknown_routes(document(good + "`GET /generate`"), known), "docs/a.md:5:", "/generate:")
    check_one_fault(unknown_routes(document(good + "```sh\ncurl http://127.0.0.1:3000/v2\n```"), known), "docs/a.md:6:", "/v2:")


def test_an_unknown_target_is_reported() -> None:
    good = "`make test` make it so `PYTHON=python3 make PORT=1 test`\n```sh\nmake test   # and test\n```\n"
    assert list(unknown_targets(document(good), {"test"})) == []
    check_one_fault(unknown_targets(document(good + "`make PORT=1 tests`"), {"test"}), "docs/a.md:5:", "tests:")


def test_an_unknown_module_is_reported() -> None:
    good = "`python -m json.tool`\n"
    assert list(unknown_modules(document(good))) == []
    check_one_fault(unknown_modules(document(good + "`.venv/bin/python3 -m json.none`")), "docs/a.md:2:", "json.none`")
    check_one_fault(unknown_modules(document(good + "`python -m nowhere.none`")), "docs/a.md:2:", "nowhere.none`")
