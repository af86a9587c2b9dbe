"""The store: the newest word wins, whatever way it came; who belongs to whom."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llm_operator.kube.store import Entry, Key, Store

OWNER = Key("ns", "llama")
OTHER = Key("ns", "falcon")


def item(
    version: int, *, name: str = "a", kind: str = "Pod", uid: str = "u1", owner: Key | None = OWNER
) -> Entry:
    return Entry(kind, "ns", name, uid, version, owner, fact=version)


def fact(store: Store, name: str = "a", kind: str = "Pod") -> object:
    found = store.get(kind, "ns", name)
    return found and found.fact


def test_the_newest_version_wins_in_any_order() -> None:
    store = Store()
    assert store.put(item(5))
    assert not store.put(item(4))
    assert not store.put(item(5))
    assert fact(store) == 5
    assert store.put(item(6))
    assert fact(store) == 6


def test_a_late_event_of_a_predecessor_does_not_replace_its_namesake() -> None:
    store = Store()
    store.put(item(9, uid="new"))
    assert not store.put(item(7, uid="old"))
    store.remove("Pod", "ns", "a", uid="old", version=8)
    assert fact(store) == 9


def test_a_namesake_replaces_its_predecessor() -> None:
    store = Store()
    store.put(item(5, uid="old"))
    assert store.put(item(9, uid="new"))
    assert fact(store) == 9


def test_an_answer_that_comes_after_the_deletion_raises_nobody_from_the_dead() -> None:
    store = Store()
    store.put(item(5))
    store.remove("Pod", "ns", "a", uid="u1", version=7)
    assert not store.put(item(6))
    assert fact(store) is None
    assert store.owned(OWNER, "Pod") == []


def test_a_listing_older_than_a_deletion_does_not_bring_the_object_back() -> None:
    store = Store()
    store.put(item(5))
    store.remove("Pod", "ns", "a", uid="u1", version=12)
    store.replace("Pod", [item(5)], version=10)
    assert fact(store) is None


def test_what_left_a_watch_by_its_labels_can_be_read_back_at_that_version() -> None:
    # Such a DELETED event carries the version that the object still has.
    store = Store()
    store.put(item(5))
    store.remove("Pod", "ns", "a", uid="u1", version=7)
    assert store.put(item(7))


def test_a_new_object_may_take_the_name_of_a_deleted_one() -> None:
    store = Store()
    store.put(item(5))
    store.remove("Pod", "ns", "a", uid="u1", version=7)
    assert store.put(item(8, uid="u2"))
    assert fact(store) == 8


def test_removing_what_is_not_there_is_fine() -> None:
    store = Store()
    store.remove("Pod", "ns", "a")
    store.remove("Pod", "ns", "a", uid="u1", version=3)
    assert len(store) == 0


def test_owned_is_by_owner_and_kind_in_order_of_name() -> None:
    store = Store()
    for name, kind, owner in [
        ("b", "Pod", OWNER),
        ("a", "Pod", OWNER),
        ("s", "Service", OWNER),
        ("c", "Pod", OTHER),
        ("n", "Pod", None),
    ]:
        store.put(item(1, name=name, kind=kind, owner=owner))
    assert [e.name for e in store.owned(OWNER, "Pod")] == ["a", "b"]
    assert [e.name for e in store.owned(OTHER, "Pod")] == ["c"]
    assert store.owned(Key("elsewhere", "llama"), "Pod") == []
    assert sorted(e.name for e in store.all("Pod")) == ["a", "b", "c", "n"]


def test_an_object_that_changes_hands_leaves_its_former_owner() -> None:
    store = Store()
    store.put(item(1))
    store.put(item(2, owner=OTHER))
    assert store.owned(OWNER, "Pod") == []
    assert [e.version for e in store.owned(OTHER, "Pod")] == [2]
    store.put(item(3, owner=None))
    assert store.owned(OTHER, "Pod") == []
    store.remove("Pod", "ns", "a")
    assert len(store) == 0


def test_a_listing_drops_what_it_lacks_unless_that_is_younger() -> None:
    store = Store()
    for entry in (item(5, name="gone"), item(20, name="young"), item(6, name="kept")):
        store.put(entry)
    store.put(item(1, name="s", kind="Service"))
    store.replace("Pod", [item(8, name="kept"), item(9, name="new")], version=10)
    assert fact(store, "gone") is None
    assert fact(store, "young") == 20
    assert fact(store, "kept") == 8
    assert fact(store, "new") == 9
    assert fact(store, "s", "Service") == 1
    assert [e.name for e in store.owned(OWNER, "Pod")] == ["kept", "new", "young"]


def test_a_listing_does_not_undo_what_an_answer_already_said() -> None:
    store = Store()
    store.put(item(12))
    store.replace("Pod", [item(8)], version=10)
    assert fact(store) == 12


def test_deletions_are_not_remembered_for_ever() -> None:
    store = Store()
    for number in range(50):
        store.put(item(number, name=f"p{number}"))
        store.remove("Pod", "ns", f"p{number}", uid="u1", version=number + 100)
    assert len(store._deleted_at) == 50
    store.replace("Pod", [], version=120)
    assert (
        len(store._deleted_at) == 29
    )  # deleted at 121 to 149: a listing under way may still show them


HISTORY = st.lists(st.sampled_from(["change", "delete and make anew"]), max_size=6)


@given(HISTORY, st.booleans(), st.randoms())
def test_any_order_of_delivery_ends_in_the_last_state(
    steps: list[str], ends_deleted: bool, random: object
) -> None:
    """The history of one name, delivered in any order and with repetitions."""
    uid, version, events = 0, 1, [("put", item(1, uid="u0"))]
    for step in steps:
        version += 2
        if step == "delete and make anew":
            events.append(("del", item(version - 1, uid=f"u{uid}")))
            uid += 1
        events.append(("put", item(version, uid=f"u{uid}")))
    last: int | None = version
    if ends_deleted:
        events.append(("del", item(version + 1, uid=f"u{uid}")))
        last = None
    events += events[::2]
    random.shuffle(events)  # type: ignore[attr-defined]
    store = Store()
    for verb, entry in events:
        if verb == "put":
            store.put(entry)
        else:
            store.remove("Pod", "ns", "a", entry.uid, entry.version)
    assert fact(store) == last
    assert [e.version for e in store.owned(OWNER, "Pod")] == ([] if last is None else [last])
