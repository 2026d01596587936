from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from daemon.status import (
    Behind,
    EndedStatus,
    FolderPeer,
    FolderStatus,
    PeerStatus,
    Pending,
    Problem,
    Status,
    render,
    to_json,
)
from daemon.terminal import Terminal
from tests.daemon.fake_node import healthy_status

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
PLAIN = Terminal(stream=io.StringIO())


def shown(status: Status) -> str:
    return render(status, PLAIN, now=NOW, user_home="/home/u")


def contract_status() -> Status:
    """The status of docs/contract.md."""
    status = healthy_status()
    photos = replace(
        status.folders[0],
        peers=(
            FolderPeer(agent="cc" * 32, in_sync=True),
            FolderPeer(
                agent="dd" * 32,
                in_sync=False,
                behind=Behind(events=500, bytes=int(1.2 * 2**30), files=412),
                rate_bytes_per_s=31 * 2**20,
            ),
        ),
    )
    problem = Problem(problem="disk full: 1.1 GiB short", hint="free space; it goes on by itself")
    videos = FolderStatus(
        name="videos",
        id="ee" * 32,
        path="/home/u/Videos",
        role="write",
        state="faulty",
        files=38,
        bytes=91 * 2**30,
        problems=(problem,),
    )
    nas = PeerStatus(agent="dd" * 32, name="nas", connected=True, rtt_ms=2.0)
    return replace(status, folders=(photos, videos), peers=(*status.peers, nas))


def test_status_looks_as_in_the_contract() -> None:
    assert shown(contract_status()) == (
        "laptop   running, with problems, up 3 days\n"
        "photos   ~/Photos    1,204 files, 700 MiB    in sync\n"
        "  desktop   in sync                     0.4 ms\n"
        "  nas       412 files, 1.2 GiB to go    31 MiB/s, 39 s left\n"
        "videos   ~/Videos    38 files, 91 GiB        faulty\n"
        "  ! disk full: 1.1 GiB short             free space; it goes on by itself\n"
    )


def test_a_healthy_node_says_so() -> None:
    assert shown(healthy_status()).splitlines()[0] == "laptop   healthy, up 3 days"


@pytest.mark.parametrize("part", ["node", "folder", "peer"])
def test_any_problem_is_unhealthy_and_shown(part: str) -> None:
    status = healthy_status()
    problems = (Problem(problem="it \x1b is wrong", hint="mend it"),)
    assert status.is_healthy
    if part == "node":
        status = replace(status, node=replace(status.node, problems=problems))
    elif part == "folder":
        status = replace(status, folders=(replace(status.folders[0], problems=problems),))
    else:
        status = replace(status, peers=(replace(status.peers[0], problems=problems),))

    assert not status.is_healthy
    assert "! it \\x1b is wrong" in shown(status)
    assert "mend it" in shown(status)


def test_a_stopped_node_says_so() -> None:
    status = healthy_status()
    status = replace(status, node=replace(status.node, pid=None))

    assert shown(status).startswith("laptop   not running\n")


@pytest.mark.parametrize(
    ("changes", "summary"),
    [
        ({"peers": ()}, "shared with nobody yet"),
        ({"peers": (FolderPeer(agent="99" * 32, in_sync=False),)}, "up to date here"),
        ({"state": "scanning"}, "scanning"),
        (
            {"state": "syncing", "pending": Pending(files=2, bytes=3 << 20)},
            "2 files, 3.0 MiB to go",
        ),
        ({"state": "held", "held_deletions": 120}, "held: 120 deletions"),
        ({"state": "paused"}, "paused"),
    ],
)
def test_each_state_of_a_folder_has_its_words(changes: dict[str, object], summary: str) -> None:
    status = healthy_status()
    status = replace(status, folders=(replace(status.folders[0], **changes),))  # type: ignore[arg-type]

    assert shown(status).splitlines()[1].endswith(summary)


def test_what_one_may_act_on_is_shown_though_nothing_is_wrong() -> None:
    status = healthy_status()
    folder = replace(
        status.folders[0],
        conflicts=1, local_changes=2, held_deletions=3, watch="polling", skipped=("fifo",),
    )  # fmt: skip

    text = shown(replace(status, folders=(folder,)))

    assert "  1 conflict copy " in text
    assert "`dizzyd revert photos`" in text
    assert "`dizzyd confirm photos`, or `dizzyd undo-deletions photos`" in text
    assert "watch: polling" in text
    assert "1 special file skipped" in text


def test_an_absent_peer_is_away_and_an_unknown_one_has_its_id() -> None:
    status = healthy_status()
    away = replace(
        status.peers[0], connected=False, last_seen_at="2026-11-23T09:00:00Z", name="de\nsk"
    )

    assert "  de\\nsk   away    seen 3 hours ago\n" in shown(replace(status, peers=(away,)))
    assert "  cccccccc   away    never seen\n" in shown(replace(status, peers=()))


def test_a_folder_that_ended_is_no_problem_and_says_who_is_to_be_told() -> None:
    ended = EndedStatus(
        name="music",
        id="d" * 64,
        path="/home/anna/Music",
        by="e" * 64,
        ended_at="2026-11-23T09:00:00Z",
        untold=("c" * 64,),
    )

    status = replace(healthy_status(), ended=(ended,))
    told = replace(status, ended=(replace(ended, untold=(), by=status.node.agent),))

    assert status.is_healthy
    assert (
        "music    /home/anna/Music    ended by its owner 3 hours ago; its files stay,"
        " 1 member to be told\n"
    ) in shown(status)
    assert "ended by you 3 hours ago; its files stay\n" in shown(told)


def test_no_folder_says_what_to_do() -> None:
    assert "`dizzyd share PATH`" in shown(replace(healthy_status(), folders=()))


def test_json_has_the_keys_of_the_contract() -> None:
    plain = to_json(healthy_status())

    assert list(plain) == ["node", "folders", "peers", "rejected", "ended"]
    assert set(plain["node"]) >= {
        "name", "agent", "version", "pid", "home", "listen", "started_at", "uptime_s", "problems",
    }  # fmt: skip
    (folder,) = plain["folders"]
    assert set(folder) >= {
        "name", "id", "path", "role", "state", "files", "directories", "bytes", "pending",
        "conflicts", "local_changes", "held_deletions", "watch", "history", "log", "state_root",
        "last_change_at", "problems", "peers",
    }  # fmt: skip
    assert set(folder["pending"]) >= {"files", "bytes"}
    assert set(folder["history"]) >= {"versions", "bytes"}
    assert set(folder["log"]) >= {"batches", "events", "heads"}
    assert set(folder["peers"][0]) >= {"agent", "in_sync", "behind"}
    assert set(folder["peers"][0]["behind"]) >= {"events", "bytes"}
    assert set(plain["peers"][0]) >= {
        "agent", "name", "connected", "address", "since", "rtt_ms", "received_bytes", "sent_bytes",
        "last_seen_at", "problems",
    }  # fmt: skip
