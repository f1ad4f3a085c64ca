"""docs/layout.md says what the compiler builds: offsets, sizes, types, constants, the file's map.

A small C program is made from the tables, compiled against csrc/layout.h and run. It prints what
is; the tables must say the same, and must leave no struct, no field and no byte out.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOC = ROOT / "docs" / "layout.md"
CORE = ROOT / "csrc"

C_TYPES = {
    "u8": "uint8_t",
    "u16": "uint16_t",
    "u32": "uint32_t",
    "u64": "uint64_t",
    "i32": "int32_t",
    "i64": "int64_t",
    "char": "char",
    "atomic u8": "hub_a8",
    "atomic u32": "hub_a32",
    "atomic u64": "hub_a64",
}

pytestmark = pytest.mark.skipif(
    shutil.which(os.environ.get("CC", "cc").split()[0]) is None or not CORE.is_dir(),
    reason="needs a C compiler and the sources",
)


@dataclass(frozen=True)
class Field:
    name: str
    offset: int
    size: int
    type: str


@dataclass(frozen=True)
class Struct:
    name: str
    size: int
    fields: tuple[Field, ...]


@dataclass(frozen=True)
class Layout:
    """What the document says."""

    structs: tuple[Struct, ...]
    constants: dict[str, int]
    regions: dict[str, int]
    length: int


# ---- reading the document ---------------------------------------------------------------------


def rows_of(text: str, *heading: str) -> list[list[str]]:
    """The rows of every table whose heading begins with these cells."""
    rows: list[list[str]] = []
    inside = False
    for line in text.splitlines():
        if not line.startswith("|"):
            inside = False
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if tuple(cells[: len(heading)]) == heading:
            inside = True
        elif inside and not set(cells[0]) <= {"-", ":"}:
            rows.append(cells)
    return rows


def read_structs(text: str) -> tuple[Struct, ...]:
    structs = []
    for part in re.split(r"^## ", text, flags=re.M)[1:]:
        heading = re.match(r"`(\w+)`: (\d+) bytes\n", part)
        if heading is None:
            continue
        rows = rows_of(part, "field", "offset", "size", "type", "written by")
        fields = [Field(row[0].strip("`"), int(row[1]), int(row[2]), row[3]) for row in rows]
        structs.append(Struct(heading[1], int(heading[2]), tuple(fields)))
    return tuple(structs)


def read_layout(text: str) -> Layout:
    constants = {}
    for heading in (("`state`", "value"), ("state", "value"), ("constant", "value")):
        for row in rows_of(text, *heading):
            constants[row[0].strip("`")] = int(row[1], 0)
    regions = {row[0]: int(row[4]) for row in rows_of(text, "region", "length", "aligned to")}
    length = re.search(r"room to grow: ([\d ]+) bytes long", text)
    assert length is not None
    return Layout(
        read_structs(text), constants, regions, int(length[1].replace(" ", "").replace("\n", ""))
    )


# ---- what is built ----------------------------------------------------------------------------


@cache
def declared() -> dict[str, list[str]]:
    """Every struct of layout.h that lives in shared memory, and the names of its fields."""
    header = re.sub(r"/\*.*?\*/", "", (CORE / "layout.h").read_text("utf-8"), flags=re.S)
    found = {}
    for body, name in re.findall(r"typedef struct \w+ \{(.*?)\} (\w+_shm);", header, flags=re.S):
        found[name] = re.findall(r"(\w+)(?:\[[^\]]*\])*;", body)
    return found


def c_program(layout: Layout) -> str:
    """Prints `what value` lines for all that the document names."""
    lines = [
        '#include "layout.h"',
        "#include <stdio.h>",
        '#define SAY(what, value) printf("%s %llu\\n", what, (unsigned long long)(value))',
        "int main(void) {",
    ]
    for struct in layout.structs:
        lines.append(f'SAY("{struct.name}", sizeof({struct.name}));')
        for field in struct.fields:
            path = f"{struct.name}.{field.name}"
            member = f"(({struct.name} *)0)->{field.name}"
            kind = re.fullmatch(r"([^\[]+)(\[\d+\])?", field.type)
            c_type = C_TYPES[kind[1]] + (kind[2] or "") if kind else "void"
            same = f"__builtin_types_compatible_p(__typeof__({member}), {c_type})"
            lines.append(f'SAY("{path} offset", offsetof({struct.name}, {field.name}));')
            lines.append(f'SAY("{path} size", sizeof({member}));')
            lines.append(f'SAY("{path} type", {same});')
    lines += [f'SAY("{name}", {name});' for name in layout.constants]
    lines += [
        "hub_config config; hub_geometry g;",
        "hub_config_default(&config);",
        "if (hub_layout_compute(&config, &g, NULL) < 0) return 1;",
        'SAY("header", 0);',
        'SAY("signals", g.signals_offset);',
        'SAY("class table", g.classes_offset);',
        'SAY("peer table", g.peers_offset);',
        'SAY("the host\'s lane", g.host_lane_offset);',
        'SAY("peer blocks", g.blocks_offset);',
        'SAY("slot meta, class by class", g.classes[0].meta_offset);',
        'SAY("holders, class by class", g.classes[0].holders_offset);',
        'SAY("slot data, class by class", g.classes[0].data_offset);',
        'SAY("length of the file", g.total_size);',
        "return 0; }",
    ]
    return "\n".join(lines) + "\n"


class Compiler:
    """Compiles against the core; its objects are made once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.command = [*shlex.split(os.environ.get("CC", "cc")), "-std=gnu11", "-O0", "-pthread"]
        self.objects: list[Path] = []
        self.runs = 0
        for source in sorted(CORE.glob("*.c")):
            target = folder / f"{source.stem}.o"
            subprocess.run([*self.command, "-c", str(source), "-o", str(target)], check=True)
            self.objects.append(target)

    def facts(self, layout: Layout) -> dict[str, int] | str:
        """What the program prints, or what the compiler says against it."""
        self.runs += 1
        source = self.folder / f"layout{self.runs}.c"
        program = self.folder / f"layout{self.runs}"
        source.write_text(c_program(layout), "utf-8")
        built = subprocess.run(
            [
                *self.command,
                f"-iquote{CORE}",
                str(source),
                *map(str, self.objects),
                "-o",
                str(program),
            ],
            capture_output=True,
            text=True,
        )
        if built.returncode != 0:
            return built.stderr
        printed = subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout
        return {
            line.rpartition(" ")[0]: int(line.rpartition(" ")[2]) for line in printed.splitlines()
        }


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Compiler:
    return Compiler(tmp_path_factory.mktemp("layout"))


# ---- comparing --------------------------------------------------------------------------------


def missing_parts(layout: Layout) -> list[str]:
    """Structs, fields and bytes that the document leaves out or says twice."""
    wrong = []
    said = {struct.name: struct for struct in layout.structs}
    wrong += [f"{name} has no table" for name in declared() if name not in said]
    for struct in layout.structs:
        if struct.name not in declared():
            wrong.append(f"{struct.name} is not in layout.h")
            continue
        names = [field.name for field in struct.fields]
        if names != declared()[struct.name]:
            wrong.append(f"{struct.name} has {declared()[struct.name]}, the table says {names}")
        end = 0
        for field in struct.fields:
            if field.offset != end:
                wrong.append(
                    f"{struct.name}.{field.name} does not begin where the last ends: {end}"
                )
            end = field.offset + field.size
        if end != struct.size:
            wrong.append(f"{struct.name}: the fields end at {end}, not at {struct.size}")
    return wrong


def mistakes(layout: Layout, compiler: Compiler) -> list[str]:
    wrong = missing_parts(layout)
    facts = compiler.facts(layout)
    if isinstance(facts, str):
        return [*wrong, f"does not compile: {facts}"]
    said: dict[str, int] = {**layout.constants, **layout.regions}
    said["length of the file"] = layout.length
    for struct in layout.structs:
        said[struct.name] = struct.size
        for field in struct.fields:
            path = f"{struct.name}.{field.name}"
            said |= {f"{path} offset": field.offset, f"{path} size": field.size, f"{path} type": 1}
    wrong += [
        f"{what}: the document says {value}, built is {facts.get(what)}"
        for what, value in said.items()
        if facts.get(what) != value
    ]
    wrong += [f"the document does not say: {what}" for what in facts if what not in said]
    return wrong


def enumerated(name: str) -> list[str]:
    """The members of an enum of the core."""
    for header in ("layout.h", "hub.h"):
        text = re.sub(r"/\*.*?\*/", "", (CORE / header).read_text("utf-8"), flags=re.S)
        found = re.search(rf"enum {name} \{{(.*?)\}};", text, flags=re.S)
        if found:
            return re.findall(r"(HUB_\w+)", found[1])
    raise AssertionError(f"no enum {name}")


def test_the_tables_are_what_is_built(compiler: Compiler) -> None:
    layout = read_layout(DOC.read_text("utf-8"))
    assert len(layout.structs) == len(declared()) >= 8
    assert mistakes(layout, compiler) == []


@pytest.mark.parametrize("enum", ["hub_slot_state", "hub_peer_state"])
def test_every_state_is_described(enum: str) -> None:
    constants = read_layout(DOC.read_text("utf-8")).constants
    assert [name for name in enumerated(enum) if name not in constants] == []


def replaced(old: str, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new, 1)

    return change


def without_line(start: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        lines = text.splitlines(keepends=True)
        kept = [line for line in lines if not line.startswith(start)]
        assert len(kept) == len(lines) - 1
        return "".join(kept)

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (replaced("| `max_bytes` | 40 |", "| `max_bytes` | 44 |"), "max_bytes"),
        (replaced("| `capacity` | 128 | 4 |", "| `capacity` | 128 | 8 |"), "capacity"),
        (replaced("| `next` | 8 | 4 | atomic u32 |", "| `next` | 8 | 4 | u32 |"), "next type"),
        (replaced("`hub_slot_shm`: 16 bytes", "`hub_slot_shm`: 24 bytes"), "hub_slot_shm"),
        (replaced("| `gen` | 28 |", "| `generation` | 28 |"), "generation"),
        (replaced("| `HUB_RING` | 2 |", "| `HUB_RING` | 3 |"), "HUB_RING"),
        (replaced("| `HUB_INLINE_MAX` | 240 |", "| `HUB_INLINE_MAX` | 256 |"), "HUB_INLINE_MAX"),
        (replaced("`blocks_offset` | 8192 |", "`blocks_offset` | 4096 |"), "peer blocks"),
        (without_line("| `host_left` |"), "host_left"),
        (without_line("| `exhausted` |"), "exhausted"),
        (replaced("## `hub_lane_shm`", "## hub_lane_shm"), "hub_lane_shm has no table"),
    ],
)
def test_a_wrong_table_is_found(
    change: Callable[[str], str], told: str, compiler: Compiler
) -> None:
    layout = read_layout(change(DOC.read_text("utf-8")))
    wrong = mistakes(layout, compiler)
    assert wrong
    assert told in "\n".join(wrong)
