from __future__ import annotations

from dataclasses import dataclass

import pytest

from daemon.naming import NoSuchFolder, find_folder


@dataclass(frozen=True)
class Folder:
    name: str
    id: str


PHOTOS = Folder("photos", "ab12" + "0" * 60)
VIDEOS = Folder("videos", "ab34" + "0" * 60)
NAMED_AS_PREFIX = Folder("ab34", "ff" * 32)


def test_a_name_or_the_unique_beginning_of_an_id_finds_a_folder() -> None:
    assert find_folder("photos", [PHOTOS, VIDEOS]) is PHOTOS
    assert find_folder("AB3", [PHOTOS, VIDEOS]) is VIDEOS
    assert find_folder(VIDEOS.id, [PHOTOS, VIDEOS]) is VIDEOS


def test_a_name_goes_before_the_beginning_of_an_id() -> None:
    assert find_folder("ab34", [VIDEOS, NAMED_AS_PREFIX]) is NAMED_AS_PREFIX


def test_an_ambiguous_beginning_is_refused_with_the_candidates() -> None:
    with pytest.raises(NoSuchFolder) as caught:
        find_folder("ab", [PHOTOS, VIDEOS, NAMED_AS_PREFIX])

    assert "2 folders are meant" in str(caught.value)
    assert caught.value.hint == "one of photos (ab120000), videos (ab340000)"
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("wanted", ["nope", "", "photo"])
def test_an_unknown_name_is_refused_with_the_candidates(wanted: str) -> None:
    with pytest.raises(NoSuchFolder) as caught:
        find_folder(wanted, [PHOTOS, VIDEOS])

    assert caught.value.hint == "folders here: photos (ab120000), videos (ab340000)"


def test_many_candidates_are_cut() -> None:
    folders = [Folder(f"f{number}", f"{number:064x}") for number in range(50)]

    with pytest.raises(NoSuchFolder) as caught:
        find_folder("x", folders)

    assert caught.value.hint.endswith("and 45 more")


def test_hostile_names_are_escaped_and_no_folder_at_all_is_said() -> None:
    with pytest.raises(NoSuchFolder, match=r"folder a\\x1b: no folder is shared here"):
        find_folder("a\x1b", [])
