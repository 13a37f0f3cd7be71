"""What comes from data is text in Markdown."""

import html
import re

import pytest

from zssmnet.report.markdown import code, text

HARMLESS = [
    "10001_1000001",
    "prostate-007",
    "Łódź 前列腺",
    "a, b (c) d/e.nii.gz: 5 % = 'x'",
    "s3",
    "0.05000 against 0.1",
]
HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    "[here](javascript:alert(1))",
    "![](https://somewhere.example/x.png)",
    "<https://somewhere.example>",
    "https://somewhere.example",
    "WWW.somewhere.example",
    "somebody@somewhere.example",
    "a|b",
    "`code` ``` **bold** _emphasis_ ~~gone~~ $x$ # heading",
    "\\[a](b)",
    "&lt;b&gt;",
    "line\nbreak\r\n\x1b[31mred\x00\u2028",
]


@pytest.mark.parametrize("value", HARMLESS)
def test_plain_text_stays_as_it_is(value: str):
    assert text(value) == value
    assert code(value) == f"`{value}`"


@pytest.mark.parametrize("value", HOSTILE)
def test_no_markup_is_left(value: str):
    shown = text(value)
    left = re.sub(r"&#\d+;", "", shown)
    assert not re.search(r"[<>\[\]`|*~\\&@]|://|www\.|\b_|_\b", left, re.IGNORECASE)
    assert shown.isprintable()


@pytest.mark.parametrize("value", HOSTILE)
def test_a_reader_sees_the_text(value: str):
    seen = html.unescape(text(value))
    assert seen == value if value.isprintable() else seen.isprintable()


@pytest.mark.parametrize("value", HOSTILE)
def test_code_cannot_be_left(value: str):
    shown = code(value)
    assert shown.isprintable()
    assert re.fullmatch(r"`[^`|]*`", shown) or shown == text(value)
