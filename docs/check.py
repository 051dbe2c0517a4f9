"""Checks the documentation: links, anchors, pages, code blocks, and that lists are those of the code.

Needs nothing but Python. `docs/check.sh` runs it, and builds the book where mdbook is installed.
"""

import html
import pathlib
import re
import sys
import unicodedata

ROOT = pathlib.Path(__file__).resolve().parent.parent
BOOK = ROOT / "docs"
PAGES = sorted(BOOK.rglob("*.md"))
OTHERS = [
    *(path for path in ROOT.glob("*.md")),
    *(ROOT / "tests").rglob("README.md"),
]
SKIP = {"target", "node_modules", "book"}

FENCE = re.compile(r"^ *(`{3,}|~{3,})(.*)$")
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
INCLUDE = re.compile(r"\{\{#include ([^}]+)\}\}")

problems = []


def check(holds, where, problem):
    if not holds:
        problems.append(f"{where}: {problem}")


def name(path):
    return str(path.relative_to(ROOT))


def text(path):
    """A file as the book sees it, with what it includes."""
    include = lambda match: text((path.parent / match[1].strip()).resolve())
    return INCLUDE.sub(include, path.read_text())


def blocks(path):
    """The fenced blocks of a file, each with its line, its info string and the line above it."""
    fence, above = None, ""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        match = FENCE.match(line)
        if fence is None and match:
            fence = match[1]
            yield number, match[2].strip(), above
        elif fence is not None and match and match[1].startswith(fence) and not match[2].strip():
            fence = None
        elif fence is None and line.strip():
            above = line
    check(fence is None, name(path), "a code block is not closed")


def prose(source):
    """The text without code, in which brackets mean nothing."""
    kept, fence = [], None
    for line in source.splitlines():
        match = FENCE.match(line)
        if fence is None and match:
            fence = match[1]
        elif fence is not None:
            if match and match[1].startswith(fence) and not match[2].strip():
                fence = None
        else:
            kept.append(line)
    source = re.sub(r"<!--.*?-->", "", "\n".join(kept), flags=re.DOTALL)
    return re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", source, flags=re.DOTALL)


def anchors(source):
    """The ids that mdbook and GitHub give to headings; both count repeated ones."""
    found, counts = set(), {}
    lines, fence = [], None
    for line in source.splitlines():
        match = FENCE.match(line)
        if fence is None and match:
            fence = match[1]
        elif fence is not None and match and match[1].startswith(fence) and not match[2].strip():
            fence = None
        elif fence is None:
            lines.append(line)
    for line in lines:
        heading = re.match(r"^#{1,6}\s+(.*?)\s*#*$", line)
        if heading:
            words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1]).replace("`", "").replace("*", "")
            words = html.unescape(words).strip().lower()
            is_kept = lambda char: char in "-_ " or unicodedata.category(char)[0] in "LN"
            anchor = "".join(char for char in words if is_kept(char)).replace(" ", "-")
            count = counts.get(anchor, 0)
            counts[anchor] = count + 1
            found.add(anchor if count == 0 else f"{anchor}-{count}")
    return found


def check_links(path):
    for target in LINK.findall(prose(path.read_text())):
        if re.match(r"^[a-z][a-z0-9+.-]*:", target):
            continue
        file, _, anchor = target.partition("#")
        to = (path.parent / file).resolve() if file else path
        if not to.exists():
            check(False, name(path), f"{target}: there is no such file")
        elif anchor:
            is_page = to.suffix == ".md"
            check(is_page and anchor in anchors(text(to)), name(path), f"{target}: there is no such heading")


def check_blocks(path):
    for line, info, above in blocks(path):
        where = f"{name(path)}:{line}"
        # rustdoc takes a block without a language for Rust.
        check(info, where, "the code block names no language")
        flags = re.split(r"[,\s]+", info)
        if flags[0] == "rust":
            check("ignore" not in flags or "<!-- ignored:" in above, where, "an ignored block gives no reason")
            check(name(path) in compiled(), where, "Rust that sdk/src/lib.rs does not compile")


def compiled():
    """The files whose code rustdoc compiles."""
    source = (ROOT / "sdk/src/lib.rs").read_text()
    return {str(pathlib.PurePath(path)) for path in re.findall(r'include_str!\("\.\./\.\./([^"]+\.md)"\)', source)}


def check_summary():
    summary = BOOK / "SUMMARY.md"
    listed = {(BOOK / target).resolve() for target in LINK.findall(summary.read_text())}
    for page in PAGES:
        check(page in listed or page == summary, name(page), "SUMMARY.md does not list it")


def check_lists():
    """What the pages list must be what the code has."""
    read = lambda path: (ROOT / path).read_text()
    operations, routing = read("docs/operations.md"), read("docs/routing.md")
    alerts = read("deploy/monitoring/alerts.yaml")
    for alert in re.findall(r"- alert: (\w+)", alerts):
        check(f"### {alert}\n" in operations, "docs/operations.md", f"no runbook for {alert}")
        link = f"docs/operations.md#{alert.lower()}\n"
        check(link in alerts, "deploy/monitoring/alerts.yaml", f"{alert} does not name its runbook")
    reasons = re.findall(r'Self::\w+ => "(\w+)"', read("sdk/src/route.rs"))
    check(reasons, "sdk/src/route.rs", "no reasons were found")
    for reason in reasons:
        check(f"| `{reason}` |" in routing, "docs/routing.md", f"the reason `{reason}` is missing")
    metrics = [ROOT / "proxy/src/metrics.rs", *(ROOT / "proxy/src/metrics").glob("*.rs")]
    registered = r'\b(?:register|gauge|encode_descriptor)\(\s*"(\w+)"'
    names = [metric for path in metrics for metric in re.findall(registered, path.read_text())]
    check(len(names) > 10, "proxy/src/metrics.rs", "few metrics were found")
    for metric in names:
        known = re.search(rf"`qdrant_router_{metric}(_total)?[`{{]", operations)
        check(known, "docs/operations.md", f"the metric `{metric}` is missing")
    for metric in re.findall(r"`qdrant_router_(\w+?)(?:_total)?(?:\{[^}]*\})?`", operations):
        check(metric in names, "docs/operations.md", f"no metric is called `{metric}`")
    for route in re.findall(r'\.route\("(/[a-z/]*)', read("proxy/src/admin.rs")):
        route = route.rstrip("/") or "/"
        is_asset = route in ("/dashboard", "/favicon")
        check(is_asset or f"{route}`" in read("docs/proxy.md"), "docs/proxy.md", f"the path {route} is missing")


def main():
    for path in [*PAGES, *OTHERS]:
        if not SKIP & set(path.relative_to(ROOT).parts):
            check_links(path)
            check_blocks(path)
    check_summary()
    check_lists()
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"documentation: {len(PAGES)} pages, {len(problems)} problems")
    sys.exit(bool(problems))


main()
