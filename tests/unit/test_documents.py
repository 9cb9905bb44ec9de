"""The documents tell the truth where that can be compared: links, commands, names of tests and of
modules, await points.
"""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from functools import cache
from pathlib import Path

import snapfs
from snapfs.cli.arguments import Parser
from snapfs.cli.exits import CommandFailed
from snapfs.cli.main import COMMANDS
from snapfs.cli.reference import reference
from snapfs.errors import UsageError
from snapfs.fuse.option_texts import CANCELS, MEANINGS
from snapfs.fuse.options import option_names, parse_options, value_forms

ROOT = Path(__file__).parents[2]
PACKAGE = Path(snapfs.__file__).parent
DOCUMENTS = sorted(
    [ROOT / "README.md", *(ROOT / ".github").glob("*.md"), *PACKAGE.glob("doc/**/*.md")]
)
CHAPTERS = sorted((PACKAGE / "doc" / "design").glob("*.md"))
LAYERS = tuple(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists())
KIB = 1024


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def text_of(path: Path) -> str:
    return path.read_text()


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


@cache
def anchors(path: Path) -> set[str]:
    """As GitHub makes them of headings."""
    found = re.findall(r"^#+ (.+)$", without_code(text_of(path)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def test_a_link_leads_nowhere() -> None:
    wrong = []
    for path in DOCUMENTS:
        for target in re.findall(r"\]\(([^)\s]+)\)", without_code(text_of(path))):
            if target.startswith(("http:", "https:", "mailto:")):
                continue
            file, _, anchor = target.partition("#")
            to = (path.parent / file).resolve() if file else path
            if not to.exists() or (anchor and anchor not in anchors(to)):
                wrong.append(f"{name_of(path)}: {target}")
    assert not wrong, "\n".join(wrong)


def commands_in(text: str) -> list[str]:
    """Lines of code, and inline code, that call snapfs."""
    blocks = re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    indented = re.findall(r"(?:^    .*\n)+", without_code(text), re.MULTILINE)
    lines = "\n".join([*blocks, *indented]).replace("\\\n", " ").splitlines()
    inline = re.findall(r"`([^`]+)`", without_code(text))
    stripped = [
        re.sub(r"^(sudo )?(\.venv/bin/)?(?=snapfs )", "", line.strip()) for line in lines + inline
    ]
    return [" ".join(line.split()) for line in stripped if re.match(r"snapfs [a-z]", line)]


def parse(words: list[str]) -> None:
    """As the command line does, without doing it. A command's name alone stands for the command."""
    if not words or (len(words) == 1 and words[0] in COMMANDS):
        return
    if words[0] == "snapshot" and len(words) == 2:
        return
    command = COMMANDS[words[0]]
    parser = Parser(prog=f"snapfs {words[0]}", allow_abbrev=False)
    importlib.import_module(f"snapfs.cli.commands.{command.module}").configure(parser)
    arguments = parser.parse_args(words[1:])
    if words[0] == "mount":
        for options in arguments.options:
            parse_options(options)


def test_a_command_is_not_one() -> None:
    wrong, count = [], 0
    for path in DOCUMENTS:
        # The reference is made from the parsers, and shows the forms of commands.
        for line in commands_in(text_of(path)) if path.name != "reference.md" else ():
            for part in re.split(r"\|\||&&|[;>]", re.sub(r" #.*", "", line)):
                words = shlex.split(part)[1:]
                try:
                    parse(words)
                except (CommandFailed, UsageError, KeyError) as exc:
                    wrong.append(f"{name_of(path)}: {line}: {exc}")
                count += 1
    assert not wrong, "\n".join(wrong)
    assert count > 50


def test_a_target_of_make_is_missing() -> None:
    targets = set(re.findall(r"^([a-z-]+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    named = {
        (name_of(path), target)
        for path in DOCUMENTS
        for target in re.findall(r"(?:`|^    )make ([a-z-]+)", text_of(path), re.MULTILINE)
    }
    assert {(path, target) for path, target in named if target not in targets} == set()


def test_what_is_run_before_a_commit_is_less_than_make_check() -> None:
    recipe = re.search(r"^check:.*\n((?:\t.*\n)+)", text_of(ROOT / "Makefile"), re.MULTILINE)
    assert recipe is not None
    lines = [line.strip() for line in recipe[1].splitlines()]
    # A line that make does not echo shows something, and checks nothing.
    commands = [line.replace("$(VENV)", ".venv") for line in lines if not line.startswith("@")]
    hooks = text_of(ROOT / ".pre-commit-config.yaml")
    assert commands == re.findall(r"^ +entry: (.+)$", hooks, re.MULTILINE)


def test_a_test_that_is_named_is_missing() -> None:
    named = {
        (name_of(path), name)
        for path in DOCUMENTS
        for name in re.findall(r"`(tests/[\w/]+(?:\.py)?)`", text_of(path))
    }
    assert len(named) > 50
    assert {(path, name) for path, name in named if not (ROOT / name).exists()} == set()


def test_a_promise_has_no_proof() -> None:
    text = (PACKAGE / "doc" / "promises.md").read_text()
    promises = re.split(r"\n- ", text)[1:]
    assert len(promises) > 40
    for promise in promises:
        files = re.split(r"\n  - ", promise)[1:]
        assert files, promise
        for file in files:
            path, *functions = re.findall(r"`([^`]+)`", file)
            defined = re.findall(r"^(?:async )?def (test_\w+)", text_of(ROOT / path), re.MULTILINE)
            assert defined, path
            assert set(functions) <= set(defined), file


@cache
def sources() -> dict[Path, str]:
    return {path: path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}


def find_module(parts: list[str]) -> tuple[Path, list[str]]:
    """The longest package or module that a dotted name begins with, and the rest of the name."""
    place = PACKAGE
    for index, part in enumerate(parts):
        if (place / part).is_dir():
            place /= part
        elif (place / f"{part}.py").exists():
            return place / f"{part}.py", parts[index + 1 :]
        else:
            return place / "__init__.py", parts[index:]
    return place / "__init__.py", []


@cache
def words_of_classes() -> dict[str, set[str]]:
    """Class -> the words in the modules that it and its base classes stand in."""
    words: dict[str, set[str]] = {}
    bases: dict[str, set[str]] = {}
    for text in sources().values():
        for name, inherited in re.findall(r"^class (\w+)(?:\(([^)]*)\))?:", text, re.MULTILINE):
            words.setdefault(name, set()).update(re.findall(r"\w+", text))
            bases.setdefault(name, set()).update(re.findall(r"\w+", inherited))
    for _ in range(5):  # deep enough for any of them
        for name, above in bases.items():
            words[name].update(*(words.get(base, ()) for base in above))
    return words


def test_a_module_or_a_name_in_it_is_missing() -> None:
    classes = words_of_classes()
    wrong = []
    for path in DOCUMENTS:
        text = without_code(text_of(path))
        for name in re.findall(rf"`((?:{'|'.join(LAYERS)})\.[a-z][\w.]*)`", text):
            module, rest = find_module(name.split("."))
            body = sources()[module].split('"""', 2)[-1]  # words of a docstring are no names
            if not set(rest) <= set(re.findall(r"\w+", body)):
                wrong.append(f"{name_of(path)}: {name}")
        for owner, member in re.findall(r"`([A-Z]\w+)\.(\w+)`", text):
            if owner.isupper() or member == "md":
                continue
            if member not in classes.get(owner, ()):
                wrong.append(f"{name_of(path)}: {owner}.{member}")
    assert not wrong, "\n".join(wrong)


def test_a_line_is_too_long() -> None:
    long = [
        (name_of(path), line)
        for path in DOCUMENTS
        for line in text_of(path).splitlines()
        if len(line) > 100
    ]
    assert not long, "\n".join(f"{name}: {line}" for name, line in long)


def test_the_readme_is_five_documents_again() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= 8 * KIB


def test_a_chapter_has_another_form() -> None:
    assert len(CHAPTERS) > 25
    for path in CHAPTERS:
        assert len(path.read_bytes()) <= 8 * KIB, path
        headings = re.findall(r"^## (.+)$", without_code(text_of(path)), re.MULTILINE)
        assert headings == ["What", "Why so", "Alternatives", "What must hold"], path


def test_a_document_is_in_no_index() -> None:
    doc = PACKAGE / "doc"
    linked = set()
    for index in (doc / "README.md", doc / "guide" / "README.md"):
        targets = re.findall(r"\]\(([^)#\s]+)", text_of(index))
        linked |= {(index.parent / target).resolve() for target in targets} | {index.resolve()}
    assert {path.resolve() for path in doc.rglob("*.md")} <= linked


def test_the_reference_is_that_of_another_version() -> None:
    """``make reference`` makes it anew."""
    assert (PACKAGE / "doc" / "reference.md").read_text() == reference()


def test_a_mount_option_has_no_meaning() -> None:
    assert set(MEANINGS) | set(CANCELS) >= option_names()
    assert set(value_forms()) <= set(MEANINGS)
    assert set(CANCELS.values()) <= set(MEANINGS)


def awaiting(text: str) -> set[str]:
    """The functions in a module that await something."""
    found: set[str] = set()

    def walk(node: ast.AST, inside: tuple[str, ...]) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                walk(child, (*inside, child.name))
            else:
                if isinstance(child, ast.Await | ast.AsyncWith | ast.AsyncFor):
                    found.add(".".join(inside))
                walk(child, inside)

    walk(ast.parse(text), ())
    return found


def test_an_await_point_is_not_described() -> None:
    """Every function that awaits stands in lifecycles.md, below its module's heading, and no other
    function does.
    """
    text = (PACKAGE / "doc" / "lifecycles.md").read_text().split("\n## Every await", 1)[1]
    described: dict[str, set[str]] = {}
    for section in re.split(r"\n### ", text)[1:]:
        heading, _, body = re.split(r"\n## ", section)[0].partition("\n")
        names = {
            name
            for item in re.split(r"\n- ", body)[1:]
            for name in re.findall(r"`([\w.]+)`(?=[,:])", " ".join(item.split()))
        }
        for module in re.findall(r"`([\w.]+)`", heading):
            described.setdefault(module, set()).update(names)
    known = set()
    for path, source in sources().items():
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        functions = awaiting(source) if "await " in source or "async " in source else set()
        missing = functions - described.get(module, set())
        assert not missing, f"doc/lifecycles.md lacks {sorted(missing)} of {module}"
        known |= functions
    assert set().union(*described.values()) <= known


def test_a_requirement_that_is_cited_has_no_text() -> None:
    requirements = (PACKAGE / "doc" / "requirements.md").read_text()
    known = set(re.findall(r"^- \*\*([A-K]\d+)\*\*:", requirements, re.MULTILINE))
    assert len(known) > 40
    cited = re.findall(
        r"\(([A-DF-HJK]\d{1,2}(?:(?:,| to) [A-DF-HJK]\d{1,2})*)[);:]", "\n".join(sources().values())
    )
    assert cited
    for group in cited:
        assert set(re.findall(r"[A-Z]\d+", group)) <= known, group
