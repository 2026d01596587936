from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants.catalogue import MUTANTS, Mutant
from tests.mutants.trial import Verdict, copy_project, place_of, try_out

QUICK = [mutant for mutant in MUTANTS if mutant.is_quick]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_project(tmp_path_factory.mktemp("mutants"))


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.rule)
def test_every_mutant_fits_the_code_as_it_is(mutant: Mutant) -> None:
    assert place_of(mutant) > 0
    assert mutant.new != mutant.old


def test_there_are_thirty_and_a_handful_is_tried_each_time() -> None:
    assert len(MUTANTS) >= 30
    assert len({mutant.rule for mutant in MUTANTS}) == len(MUTANTS)
    assert len(QUICK) >= 5


@pytest.mark.parametrize("mutant", QUICK, ids=lambda mutant: mutant.rule)
def test_a_broken_rule_is_noticed(mutant: Mutant, tree: Path) -> None:
    verdict, noticed, _ = try_out(mutant, tree)

    assert verdict is Verdict.CAUGHT, noticed


def test_a_stale_mutant_fails_loudly() -> None:
    stale = Mutant(rule="none", file="daemon/fs.py", old="no such text", new="", proofs=())

    with pytest.raises(ValueError, match="0 places"):
        place_of(stale)
