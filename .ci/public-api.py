"""Checks that the SDK's public API shows no types but its own and those of crates that its users are meant to see.

A crate whose types are shown can have no new major version without one of ours. Needs nothing but Python and cargo.
"""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = "qdrant-router"

# Every crate that may be seen, and what for.
ALLOWED = {
    "bytes": "chunks of bodies",
    "http": "requests and responses",
    "http_body": "bodies",
    "qdrant_client": "its requests, replies and errors, as those of the client",
    "serde_core": "serde's traits, of what is read or written as JSON",
    "serde_json": "the body of a `Question`",
    "smallvec": "the scopes of an `Intent` and the replicas of a `Shard`, mostly one or few",
    "tower_service": "the trait that `Router` implements",
    "uuid": "ids of points",
}
STANDARD = {"alloc", "core", "std"}

# The number that rustdoc gives to the crate that it documents.
OWN = 0

problems = []


def check(holds, where, problem):
    if not holds:
        problems.append(f"{where}: {problem}")


def documented():
    """What rustdoc tells of the library without the hidden `internals`, which no default feature opens."""
    options = ["-Z", "unstable-options", "--output-format", "json"]
    command = ["cargo", "rustdoc", "--quiet", "--locked", "--package", PACKAGE, "--lib", "--", *options]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"RUSTDOC": str(ROOT / ".ci/rustdoc")}, check=True)
    metadata = ["cargo", "metadata", "--no-deps", "--locked", "--format-version", "1"]
    target = json.loads(subprocess.check_output(metadata, cwd=ROOT))["target_directory"]
    return json.loads((pathlib.Path(target) / "doc" / f"{PACKAGE.replace('-', '_')}.json").read_text())


def named(signature):
    """The ids of all types and traits that a signature names, at any depth."""
    if isinstance(signature, dict):
        if "path" in signature and "id" in signature:
            yield signature["id"]
        signature = list(signature.values())
    if isinstance(signature, list):
        for part in signature:
            yield from named(part)


class Api:
    """The items that can be reached from the root of the crate."""

    def __init__(self, crate):
        self.index, self.paths, self.crates = crate["index"], crate["paths"], crate["external_crates"]
        self.visited = set()
        # The crates, each with the places that show it.
        self.shown = {}
        self.visit(crate["root"], [])

    def visit(self, id, within):
        item = self.index.get(str(id))
        if item is None or id in self.visited:
            return
        self.visited.add(id)
        ((kind, inner),) = item["inner"].items()
        path = within + [item["name"]] if item["name"] else within
        if kind == "use":
            self.show(inner["id"], within)
        if kind == "impl" and (inner["is_synthetic"] or inner["blanket_impl"]):
            return  # Of any type, whatever we do.
        for type in named(inner):
            self.show(type, path)
        for child in children(kind, inner):
            self.visit(child, path)

    def show(self, id, path):
        place = "::".join(path)
        known = self.paths.get(str(id)) or self.index.get(str(id))
        check(known, place, f"rustdoc does not say which crate item {id} is of")
        if known and known["crate_id"] != OWN:
            self.shown.setdefault(self.crates[str(known["crate_id"])]["name"], set()).add(place)


def children(kind, inner):
    """The ids of the items inside an item."""
    match kind:
        case "module" | "trait" | "impl":
            return inner["items"]
        case "use":
            return [inner["id"]]
        case "struct" | "union":
            return fields(inner.get("kind", inner)) + inner["impls"]
        case "enum":
            return inner["variants"] + inner["impls"]
        case "variant":
            return fields(inner["kind"])
        case _:
            return []


def fields(kind):
    """Of a unit, a tuple (with gaps for what is private) or named fields."""
    if isinstance(kind, str):
        return []
    ids = kind.get("tuple") or next((kind[of]["fields"] for of in ("plain", "struct") if of in kind), [])
    return [id for id in ids if id is not None]


def main():
    api = Api(documented())
    for crate, places in sorted(api.shown.items()):
        for place in sorted(places):
            check(crate in STANDARD or crate in ALLOWED, place, f"shows `{crate}`, which is not for users to see")
    # Also where a newer rustdoc writes what is not understood here.
    for crate in ALLOWED:
        check(crate in api.shown, ".ci/public-api.py", f"nothing shows `{crate}`")
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"public API: {len(ALLOWED)} crates may be seen, {len(problems)} problems")
    sys.exit(bool(problems))


main()
