"""Who waits for whom, found by comparing what all ranks called last."""

from __future__ import annotations

from collections.abc import Sequence

from pyparallel.comm._flight_log import NOT_DESCRIBED, Record

_NAMED = 8  # one line


def find_waits(ranks: Sequence[Record]) -> None:
    """Gives each rank its ``waits``: for whom, in which operation.

    A collective waits for the ranks that have not called as many, or called something else in its
    place; a message for its other rank.
    """
    reached = {entry["rank"]: _collectives(entry) for entry in ranks}
    for entry in ranks:
        pending = [one for one in entry["operations"] if one["state"] != "completed"]
        collective = next((one for one in pending if one["peer"] is None), None)
        waits = [(one, one["peer"]) for one in pending if one["peer"] is not None]
        if collective is not None:
            others = [rank for rank in reached if rank != entry["rank"]]
            missing = [rank for rank in others if _is_missing(collective, reached[rank])]
            waits += [(collective, rank) for rank in missing]
        entry["waits"] = [
            {"rank": rank, "operation": one["operation"], "number": one["number"]}
            for one, rank in waits
        ]


def in_words(ranks: Sequence[Record]) -> str:
    """On one line; a circle is named on a second."""
    text = "; ".join(_describe(entry) for entry in ranks[:_NAMED])
    if len(ranks) > _NAMED:
        text += f"; and {len(ranks) - _NAMED} ranks more"
    circle = _circle({entry["rank"]: [w["rank"] for w in entry["waits"]] for entry in ranks})
    if circle:
        path = " -> ".join(map(str, [*circle, circle[0]]))
        text += f"\nranks wait for each other in a circle: {path}"
    return text


def _collectives(entry: Record) -> dict[int, Record]:
    return {one["tag"]: one for one in entry["operations"] if one["peer"] is None}


def _is_missing(collective: Record, reached: dict[int, Record]) -> bool:
    tag = collective["tag"]
    if tag in reached:
        return _differ(collective, reached[tag])
    return bool(tag > max(reached, default=-1))  # else it was so long ago that it is forgotten


def _differ(one: Record, other: Record) -> bool:
    if one["kind"] != other["kind"]:
        return True
    texts = {one["operation"], other["operation"]}
    known = not any(NOT_DESCRIBED in text for text in texts)
    return known and len(texts) > 1 and one["kind"] != "all_to_all"  # whose sizes may differ


def _describe(entry: Record) -> str:
    rank, operations, waits = f"rank {entry['rank']}", entry["operations"], entry["waits"]
    if entry["left"]:
        return f"{rank} has left"
    if entry["process"] is None:
        return f"{rank} does not answer"
    if not operations:
        return f"{rank} has called nothing"
    if not waits:
        last = operations[-1]
        where = "is elsewhere, its last call was" if last["state"] == "completed" else "is in"
        return f"{rank} {where} {last['operation']}"
    groups: dict[str, list[str]] = {}
    for wait in waits:
        name = "any rank" if wait["rank"] < 0 else f"rank {wait['rank']}"
        groups.setdefault(wait["operation"], []).append(name)
    return rank + " and".join(
        f" waits for {_list(names)} in {operation}" for operation, names in groups.items()
    )


def _list(names: list[str]) -> str:
    shown = names[:_NAMED]
    more = f" and {len(names) - _NAMED} ranks more" if len(names) > _NAMED else ""
    return ", ".join(shown) + more


def _circle(waits: dict[int, list[int]]) -> list[int]:
    """The ranks from the first that a path meets again, or nothing."""
    seen: set[int] = set()
    for first in waits:
        path, rest = [first], [iter(waits[first])]
        seen.add(first)
        while rest:
            following = next(rest[-1], None)
            if following is None:
                path.pop()
                rest.pop()
            elif following in path:
                return path[path.index(following) :]
            elif following in waits and following not in seen:
                seen.add(following)
                path.append(following)
                rest.append(iter(waits[following]))
    return []
