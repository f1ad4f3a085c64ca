"""The demo's CSS minifier: examples one by one, and properties against a tokenizer written here
as the specification describes it, a character at a time."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shmhub.demo.css import minify


def small(source: str) -> str:
    return minify(source.encode()).decode()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("", ""),
        ("  a  {  }  ", "a{}"),
        ("a { color : red ; }", "a{color:red}"),
        ("a{color:red;;;margin:0;}", "a{color:red;margin:0}"),
        ("a , b > c ~ d + e f{}", "a,b>c~d+e f{}"),
        ("a /* x */ b{c:d /* y */ e}", "a b{c:d e}"),
        # a comment separates, but is no descendant combinator
        ("a/**/b{}", "a/**/b{}"),
        (".a/**/.b{}", ".a.b{}"),
        ("a{b:c/**/d}", "a{b:c/**/d}"),
        ("a{b:1/**/px}", "a{b:1/**/px}"),
        ("/* ; } { */a{}", "a{}"),
        ("a{}/* never closed", "a{}"),
        ("/*! licence */ a { }", "/*! licence */a{}"),
        ("a{b:c;/*! in between */d:e}", "a{b:c;/*! in between */d:e}"),
        # strings are opaque
        ('a{b:"  /* x */ ; } "}', 'a{b:"  /* x */ ; } "}'),
        ("a{b:'it\\'s  { '}", "a{b:'it\\'s  { '}"),
        ('a{b:"two\\\nlines  "}', 'a{b:"two\\\nlines  "}'),
        ('a::before { content : "a" "b" }', 'a::before{content:"a" "b"}'),
        # urls are opaque, too
        ("a{b:url( x.png )  c}", "a{b:url(x.png) c}"),
        ("a{b:url(data:image/png;base64,AA//*==)}", "a{b:url(data:image/png;base64,AA//*==)}"),
        ('a{b:url( "x y" )}', 'a{b:url("x y")}'),
        ("a{b:URL(  x  )}", "a{b:URL(x)}"),
        ("@import url( x ) screen ;", "@import url(x) screen;"),
        # calc needs its white space around + and -, and only there
        ("a{b:calc( 1px + ( 2px * 3 ) - 4px / 5 )}", "a{b:calc(1px + (2px*3) - 4px/5)}"),
        ("a{b:calc(1px + -2px)}", "a{b:calc(1px + -2px)}"),
        ("a{b:calc(var( --x ) - 1px)}", "a{b:calc(var(--x) - 1px)}"),
        # white space before an opening parenthesis makes it one
        (
            "@media screen and ( min-width : 1px ) { a { } }",
            "@media screen and (min-width:1px){a{}}",
        ),
        ("@media (1px <= width) , print{}", "@media (1px <= width),print{}"),
        ("@media(min-width:1px){a{}}", "@media(min-width:1px){a{}}"),
        ("@supports (a : b) and (not (c : d)){}", "@supports (a:b) and (not (c:d)){}"),
        ("@supports selector( a :hover ){}", "@supports selector(a :hover){}"),
        ("@page :first { margin : 1in ; }", "@page :first{margin:1in}"),
        ("@layer a , b ;", "@layer a,b;"),
        ("@media x { @media y { a { b : c } } d { } }", "@media x{@media y{a{b:c}}d{}}"),
        ("@font-face { src : url(a) , url(b) }", "@font-face{src:url(a),url(b)}"),
        # selectors
        ("a :hover{}", "a :hover{}"),
        ("a:hover{}", "a:hover{}"),
        ("a :not( .b , .c ) .d{}", "a :not(.b,.c) .d{}"),
        (":nth-child( 2n + 1 ){}", ":nth-child(2n + 1){}"),
        ('[ a = "b" i ] * [c]{}', '[a="b" i] * [c]{}'),
        ("a { &:hover { b : c } d : e }", "a{&:hover{b:c}d:e}"),
        ("a { b :hover { c : d } }", "a{b :hover{c:d}}"),
        # what older readers take for one token
        ("u + a{}", "u +a{}"),
        ("a{b:u+/**/a}", "a{b:u+/**/a}"),
        ("a{b:|/**/=}", "a{b:|/**/=}"),
        # numbers and colours
        ("a{b:0.50em -0.5px +0.25% 10.0 .0}", "a{b:.5em -.5px +.25% 10.0 .0}"),
        ("a{b:1.50e3 1.0e-2 1.50ex}", "a{b:1.50e3 1.0e-2 1.5ex}"),
        ("a{unicode-range:U+0025-00FF , u+4??}", "a{unicode-range:U+0025-00FF,u+4??}"),
        ("a{b:#AAbbCC #aabbccdd #aabbcd #abc}", "a{b:#AbC #abcd #aabbcd #abc}"),
        ("#aabbcc{color:#aabbcc}", "#aabbcc{color:#abc}"),
        ("a{filter:f(c=#aabbcc)}", "a{filter:f(c=#aabbcc)}"),
        ("a{b:c ! important}", "a{b:c!important}"),
        ("a{*zoom : 1;_height : 2px}", "a{*zoom:1;_height:2px}"),
        ("a{font : 12px / 1.50 b}", "a{font:12px/1.5 b}"),
        ("a{b:1 / * 2}", "a{b:1/ *2}"),
        # custom properties: token by token, scripts can read them
        ("a{--b:  { c : d }  e ; --f:0.50  #aabbcc}", "a{--b:{ c : d } e;--f:0.50 #aabbcc}"),
        ("a{--b: ;--c:;d:e}", "a{--b: ;--c:;d:e}"),
        ("a{--b:[ ; ] ( } )}", "a{--b:[ ; ] ( } )}"),
        # the encoding's name counts only as the very first bytes
        ('@charset "utf-8"; a{}', '@charset "utf-8";a{}'),
        ('/**/@charset "utf-8";a{}', "a{}"),
        ("<!-- a{} -->", "a{}"),
        # between rules a semicolon spoils the next rule, and must go on doing so
        ("a{} ; b{} c{}", "a{}; b{}c{}"),
        ("\ufeff a { }", "\ufeffa{}"),
        ("\u00e9 { content : '\u2192' }", "\u00e9{content:'\u2192'}"),
        ("a\\{ { b : c }", "a\\{{b:c}"),
    ],
)
def test_example(source: str, expected: str) -> None:
    assert small(source) == expected


@pytest.mark.parametrize(
    "source",
    [
        'a { b: "unclosed }',
        'a { b: "newline\n" }',
        "a { b: url( x y ) }",
        "a { b: u\\72l(x  //  y) }",
        "a { b: ( c ] }",
        "a { b : c ",
        "a } b { }",
        "just some text",
        "a { b : c \\\n }",
        "a { b : \0 }",
        "a { b: url( /**/ 'x') }",
    ],
)
def test_what_cannot_be_read_is_returned_as_it_came(source: str) -> None:
    assert small(source) == source


def test_bytes_that_are_not_utf8_go_through() -> None:
    assert minify(b"a { b : '\xff\xfe' }") == b"a{b:'\xff\xfe'}"


def test_any_buffer_will_do() -> None:
    source = b"a { b : c }"
    assert minify(memoryview(source)) == minify(bytearray(source)) == b"a{b:c}"


def test_thousands_of_open_blocks_are_no_problem() -> None:
    assert small("a { " * 20000 + "} " * 20000) == "a{" * 20000 + "}" * 20000


# -- properties ----------------------------------------------------------------------------------


def significant(source: str) -> list[str]:
    """Tokens that mean something, a character at a time; white space between them as " ".

    The comparison below needs no more than: words, numbers, strings, urls and single characters.
    """
    out: list[str] = []
    i = 0
    word = re.compile(r"[-\w.%#@\\]")
    while i < len(source):
        c = source[i]
        if source.startswith("/*", i):
            end = source.find("*/", i + 2)
            i = len(source) if end < 0 else end + 2
        elif c in " \t\n\r\f":
            while i < len(source) and source[i] in " \t\n\r\f":
                i += 1
            out.append(" ")
        elif c in "\"'":
            j = i + 1
            while j < len(source) and source[j] != c:
                j += 2 if source[j] == "\\" else 1
            out.append(source[i : j + 1])
            i = j + 1
        elif word.match(c):
            j = i
            while j < len(source) and word.match(source[j]):
                j += 1
            text = source[i:j]
            raw = source.startswith("(", j) and source[j + 1 :].lstrip()[:1] not in ("'", '"')
            if text.lower() == "url" and raw:
                j = source.index(")", j) + 1
                text = "url(" + source[i + 4 : j - 1].strip() + ")"
            out.append(text)
            i = j
        else:
            out.append(c)
            i += 1
    return out


NAMES = st.sampled_from(["a", "b-c", ".d", "#ef", "*", "a:hover", "x::before", "[k]", "[k='v; }']"])
COMBINATORS = st.sampled_from([" ", " > ", ",", " , ", "~", "\n+\n", " /* c */ ", ">/**/"])
SPACES = st.sampled_from(["", " ", "\n\t", "/* { */", " /*;*/ "])
VALUES = st.sampled_from(
    [
        "red", "0.5em", "-1px", "1.50", "#aabbcc", "#abcdef", "url(a/b.png)", "url( 'c d' )",
        '"str; } /* */"', "calc(1px + 2px)", "calc( (1px - 2px) * 3 )", "var(--x, 0.50)",
        "rgb( 0 , 0 , 0 )", "12px / 1.5 serif", "! important",
    ]
)  # fmt: skip


@st.composite
def declarations(draw: st.DrawFn) -> str:
    name = draw(st.sampled_from(["color", "margin", "--own", "-x-y", "*zoom"]))
    values = draw(st.lists(VALUES, min_size=1, max_size=4))
    gap = draw(SPACES)
    colon = ":" if name == "--own" else f"{gap}:{draw(SPACES)}"
    return name + colon + " ".join(values) + draw(SPACES)


@st.composite
def rules(draw: st.DrawFn, depth: int = 2) -> str:
    selector = draw(NAMES)
    for _ in range(draw(st.integers(0, 3))):
        selector += draw(COMBINATORS) + draw(NAMES)
    body = ";".join(draw(st.lists(declarations(), max_size=4)))
    rule = f"{selector}{draw(SPACES)}{{{draw(SPACES)}{body}{draw(SPACES)}}}"
    if depth and draw(st.booleans()):
        prelude = draw(st.sampled_from(["media screen and (min-width : 10px)", "supports (a : b)"]))
        inner = "".join(draw(st.lists(rules(depth - 1), max_size=3)))
        rule = f"@{prelude}{draw(SPACES)}{{{inner}{rule}}}"
    return rule


SHEETS = st.lists(st.tuples(rules(), SPACES), max_size=5).map(lambda r: "".join(map("".join, r)))


def squeezed(source: str) -> list[str]:
    """All that must be the same: significant tokens without spaces, short numbers, colours."""
    out: list[str] = []
    for token in significant(source):
        number = re.fullmatch(r"(-?)0*(\.\d*[1-9])0*([a-z%]*)|(\d+\.\d*[1-9])0*([a-z%]*)", token)
        colour = re.fullmatch(r"#([0-9a-f])\1([0-9a-f])\2([0-9a-f])\3", token)
        if token == "}" and out and out[-1] == ";":
            out.pop()
        if number:
            token = "".join(number.groups(default=""))
        elif colour:
            token = "#" + "".join(colour.groups())
        if token != " " and not (token == ";" and out and out[-1] in ";{"):
            out.append(token)
    return out


@settings(max_examples=150, deadline=None)
@given(SHEETS)
def test_every_significant_token_stays(source: str) -> None:
    result = small(source)
    assert squeezed(result) == squeezed(source)
    assert len(result) <= len(source)


@settings(max_examples=150, deadline=None)
@given(SHEETS)
def test_a_second_time_changes_nothing(source: str) -> None:
    result = small(source)
    assert small(result) == result


@settings(max_examples=600, deadline=None)
@given(st.text(alphabet="ab-_0.5#@:;,{}()[]<>!/*+~='\"\\ \n\u00e9", max_size=40))
def test_any_text_is_survived_and_settles(source: str) -> None:
    result = small(source)
    assert len(result) <= len(source)
    assert small(result) == result


def test_descendants_stay_descendants() -> None:
    """The white space that is kept is kept where it was."""
    result = small("a b , c > d .e:not( .f ) .g [h] * i{}")
    assert significant(result) == significant("a b,c>d .e:not(.f) .g [h] * i{}")
