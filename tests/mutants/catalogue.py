"""List deliberate breakages of safety rules, each with the tests that have to notice.

A mutant is a replacement of text that occurs exactly once, so that one that went stale fails
loudly. `proofs` are arguments of pytest; at least one test among them has to fail.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_APPLY = "tests/daemon/test_apply.py"
_FS = "tests/daemon/test_fs.py"
_CONTRACT = "tests/daemon/test_disk_contract.py"
_ORDER = "tests/daemon/test_order_of_durability.py"
_RULES = "tests/store/test_merge_rules.py"
_TABLE = "tests/store/test_merge_table.py"
_RECORDER = "tests/store/test_recorder.py"
_SIGNING = "tests/store/test_signing.py"
_PREV = "tests/store/test_prev.py"
_LOG = "tests/store/test_log.py"
_SNAPSHOT = "tests/store/test_snapshot.py"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One breakage: what it takes away, where, and who has to notice."""

    rule: str
    file: str
    old: str
    new: str
    proofs: tuple[str, ...]
    is_quick: bool = False  # one of the handful in `make test`


MUTANTS: Final = (
    # -- durable before said ---------------------------------------------------------------------
    Mutant(
        rule="what an event names is durable before the event",
        file="daemon/durable.py",
        old="    disk.sync_files([*files, *sorted(directories)])\n",
        new="",
        proofs=(_ORDER,),
        is_quick=True,
    ),
    Mutant(
        rule="the parents of names that appeared are durable before the event",
        file="daemon/fs_sync.py",
        old="        for parent in parents:\n            self._sync_directory(parent)\n",
        new="",
        proofs=(_ORDER,),
    ),
    Mutant(
        rule="many changed files are one syncfs, not none",
        file="daemon/fs_sync.py",
        old="            syscalls.syncfs(self._held.root)\n",
        new="            pass\n",
        proofs=(_ORDER, _FS),
    ),
    Mutant(
        rule="contents are durable before they get their names",
        file="daemon/putting.py",
        old="            await self._runner.run(self._disk.sync)\n",
        new="            pass\n",
        proofs=(_ORDER, _APPLY),
    ),
    Mutant(
        rule="names are durable before synced says so",
        file="daemon/putting.py",
        old="                await self._runner.run(self._make_durable, put.placed)\n",
        new="                pass\n",
        proofs=(_ORDER,),
    ),
    Mutant(
        rule="new files are committed after a sync that came after their names",
        file="daemon/putting.py",
        old="            await self._runner.run(self._make_durable, waiting.placed)\n",
        new="            pass\n",
        proofs=(_ORDER, _APPLY),
    ),
    Mutant(
        rule="a failed sync is a failed apply",
        file="daemon/fs_sync.py",
        old="            except OSError as cause:\n                self._sync_stages(cause)\n",
        new="            except OSError:\n                pass\n",
        proofs=(_FS, _APPLY),
    ),
    Mutant(
        rule="a round staged before a failed sync is not believed",
        file="daemon/putting.py",
        old="        if staged.damages == self.damages:\n            return True\n",
        new="        return True\n",
        proofs=(_APPLY,),
    ),
    Mutant(
        rule="intents are durable before the first rename",
        file="daemon/putting.py",
        old="            if waiting is None:\n"
        "                await self._journal.begin(intents)\n"
        "            async with self.hands:\n"
        "                # What people did may have been recorded since the plan was made.\n"
        "                jobs, late = run.part_late(jobs)\n"
        "                placed = await to_its_end(self._runner.run(run.placer.execute, jobs))\n",
        new="            jobs, late = run.part_late(jobs)\n"
        "            placed = await to_its_end(self._runner.run(run.placer.execute, jobs))\n"
        "            if waiting is None:\n"
        "                await self._journal.begin(intents)\n",
        proofs=(_ORDER, _APPLY),
        is_quick=True,
    ),
    Mutant(
        rule="what comes where nothing stood has an intent",
        file="daemon/recovery.py",
        old="                    self._bind(claim, intent.number, is_placed=False)\n",
        new="                    pass\n",
        proofs=("tests/daemon/test_new_names.py",),
    ),
    Mutant(
        rule="a transaction is on the disk when it ends",
        file="store/db.py",
        old='        connection.execute("PRAGMA synchronous = FULL")\n',
        new='        connection.execute("PRAGMA synchronous = OFF")\n',
        proofs=(_ORDER,),
    ),
    Mutant(
        rule="batches of others are durable before anything is done for them",
        file="daemon/journal.py",
        old="        with db.transaction():\n"
        "            _write_intents(db, self._folder_no, intents)\n",
        new="        with db.lazily(is_owed=True), db.transaction():\n"
        "            _write_intents(db, self._folder_no, intents)\n",
        proofs=(_ORDER,),
    ),
    Mutant(
        rule="what is said to be applied is durable",
        file="daemon/replica.py",
        old="            self._shelf.db.settle()",
        new="            pass",
        proofs=(_ORDER,),
    ),
    Mutant(
        rule="a failed commit leaves nothing open",
        file="store/db.py",
        old="            if self.connection.in_transaction:\n"
        '                self.execute("ROLLBACK")\n',
        new="",
        proofs=("tests/store/test_db.py",),
    ),
    Mutant(
        rule="what a run emitted leaves after its transaction",
        file="daemon/bracket.py",
        old="                self._telling.show_outputs(run, emitted)\n"
        "        except Exception as error:\n",
        new="                self._release(released)\n"
        "                self._telling.show_outputs(run, emitted)\n"
        "        except Exception as error:\n",
        proofs=("tests/daemon/test_engine.py",),
    ),
    Mutant(
        rule="the config is replaced whole, once it is durable",
        file="daemon/replacing.py",
        old="        os.fsync(descriptor)\n    finally:\n        os.close(descriptor)\n\n\n"
        "def _make_directory_durable",
        new="    finally:\n        os.close(descriptor)\n\n\ndef _make_directory_durable",
        proofs=("tests/daemon/test_config_edit.py", _ORDER),
    ),
    # -- what users write ------------------------------------------------------------------------
    Mutant(
        rule="nothing is renamed over a name that is taken",
        file="daemon/fs_stage.py",
        old="target, new_name, syscalls.RENAME_NOREPLACE)",
        new="target, new_name, 0)",
        proofs=(_CONTRACT, _APPLY),
        is_quick=True,
    ),
    Mutant(
        rule="a file is replaced by an exchange, so that the old one stays",
        file="daemon/fs_names.py",
        old="        flag = syscalls.RENAME_EXCHANGE\n"
        "        syscalls.renameat2(self._shop.directory, keep_as, at.directory, at.name, flag)\n",
        new="        flag = 0\n"
        "        syscalls.renameat2(self._shop.directory, keep_as, at.directory, at.name, flag)\n",
        proofs=(_CONTRACT,),
    ),
    Mutant(
        rule="what is displaced is looked at",
        file="daemon/displaced.py",
        old="    if not is_unchanged:\n        found = disk.look_stage(stage)\n",
        new="    if False:\n        found = disk.look_stage(stage)\n",
        proofs=(_APPLY,),
    ),
    Mutant(
        rule="what somebody writes to waits in tmp",
        file="daemon/displaced.py",
        old="    if not is_quiet and disk.is_stage_being_written(stage):\n",
        new="    if False:\n",
        proofs=(_APPLY,),
    ),
    Mutant(
        rule="displaced files are looked at again",
        file="daemon/displaced.py",
        old="    return [Kept(kept, row), "
        "Watched(_watch_in_history(kept, path, row, stat, now_ns))]\n",
        new="    return [Kept(kept, row)]\n",
        proofs=(_APPLY,),
    ),
    Mutant(
        rule="a file is as synced says before it is replaced",
        file="daemon/site.py",
        old="        if whole and not is_as_synced(stat, row):\n"
        "            raise Waits(path, Why.CHANGED_HERE)\n",
        new="",
        proofs=(_APPLY,),
    ),
    Mutant(
        rule="what a crash left in tmp and is not ours goes to history",
        file="daemon/leftovers.py",
        old="            elif stat.kind in (FileKind.FILE, FileKind.SYMLINK):\n"
        "                self._outcomes += keep_unknown(self._disk, self._names, name)\n",
        new="            elif stat.kind in (FileKind.FILE, FileKind.SYMLINK):\n"
        "                self._disk.remove_stage(name)\n",
        proofs=(_APPLY, "-k", "lost or crash"),
    ),
    Mutant(
        rule="a user's displaced bytes that a crash left in history are found by their moment",
        file="daemon/displaced.py",
        old="        history = holding(history, row, value)\n",
        new="        history = history_name(names.moment_ns(), row, value)\n",
        proofs=("tests/daemon/test_crash_beside_user.py", "-k", "replaced"),
    ),
    Mutant(
        rule="a verify that goes on tells again what it had found",
        file="daemon/file_inspection.py",
        old="        if not (damages.files or damages.history or damages.other):\n",
        new="        if not damages.other:\n",
        proofs=("tests/daemon/test_verify_resumes.py",),
    ),
    Mutant(
        rule="a synced row read in the tick of its change is racy",
        file="daemon/differences.py",
        old="    return row.kind is not Kind.DIRECTORY and is_racy(",
        new="    return False and is_racy(",
        proofs=("tests/daemon/test_scanner.py",),
    ),
    Mutant(
        rule="a file that changed while it was read has no content",
        file="daemon/fs_look.py",
        old="    if count != size or _identity(after) != identity:\n",
        new="    if count != size:\n",
        proofs=(_FS,),
    ),
    # -- nothing is taken for a deletion ---------------------------------------------------------
    Mutant(
        rule="a root without its mark is lost",
        file="daemon/fs_held.py",
        old='                raise self._lost("another directory stands there now")\n',
        new="                pass\n",
        proofs=(_FS,),
    ),
    Mutant(
        rule="a mass deletion that nobody watched is held",
        file="daemon/matching.py",
        old="    return is_unwatched and missing > HELD_FROM and 2 * missing > total\n",
        new="    return False\n",
        proofs=("tests/daemon/test_matching.py",),
        is_quick=True,
    ),
    # -- prev and merging ------------------------------------------------------------------------
    Mutant(
        rule="prev is what this disk held, not what the log has",
        file="daemon/previous.py",
        old="    prev = dict.fromkeys(split_ids(row.events))\n    if current is None:\n"
        "        current = state.rows([row.object_no]).get(row.object_no)\n",
        new="    prev = dict.fromkeys(split_ids(row.events))\n    if current is None:\n"
        "        current = state.rows([row.object_no]).get(row.object_no)\n"
        "    if current is not None:\n"
        "        prev[current.head_event] = None\n",
        proofs=(_PREV,),
        is_quick=True,
    ),
    Mutant(
        rule="every head of the same bytes is replaced along",
        file="daemon/previous.py",
        old="        elif current.flags & ALIVE and current.value == row.value:\n"
        "            prev[current.head_event] = None\n",
        new="",
        proofs=(_PREV,),
    ),
    Mutant(
        rule="disk equal to a head binds and is no event",
        file="daemon/alterations.py",
        old="        bound = [row for row in rows if self._binds_head(row, act.looked)]\n",
        new="        bound: list[SyncedRow] = []\n",
        proofs=(_RECORDER,),
    ),
    Mutant(
        rule="a joiner's old copy is no head",
        file="store/fold.py",
        old="        and (head.is_deletion or previous[event_id] or head.value not in outdated)\n",
        new="",
        proofs=(_PREV, _RULES, _TABLE),
    ),
    Mutant(
        rule="a deletion does not count as other bytes",
        file="store/fold.py",
        old="            if not head.is_deletion:\n                for p in prev:\n",
        new="            if True:\n                for p in prev:\n",
        proofs=(_PREV, _RULES, _TABLE),
    ),
    Mutant(
        rule="the head of the greatest key comes first",
        file="store/fold.py",
        old="    return tuple(sorted(found, key=lambda head: head.key, reverse=True))\n",
        new="    return tuple(sorted(found, key=lambda head: head.key))\n",
        proofs=(_RULES, _TABLE, "tests/store/test_merge_random.py"),
    ),
    Mutant(
        rule="a deletion that did not know of a move is void",
        file="store/fold.py",
        old="            if fact.event_id not in known_to[move.event_id]:\n"
        "                void.add(fact.event_id)\n",
        new="            if False:\n                void.add(fact.event_id)\n",
        proofs=(_RULES, _TABLE),
    ),
    Mutant(
        rule="the mode of the greatest key counts",
        file="store/fold.py",
        old="event.mode is not None and fact.key > mode_key:",
        new="event.mode is not None and fact.key < mode_key:",
        proofs=(_RULES, _TABLE, "tests/store/test_merge_random.py"),
    ),
    # -- log, signatures, roles ------------------------------------------------------------------
    Mutant(
        rule="a batch is signed by its author",
        file="store/signing.py",
        old="    if not verify_signature(header.agent, _BATCH_DOMAIN",
        new="    if False and not verify_signature(header.agent, _BATCH_DOMAIN",
        proofs=(_SIGNING,),
        is_quick=True,
    ),
    Mutant(
        rule="the root covers the events",
        file="store/signing.py",
        old="    if merkle_root(event_ids) != header.events_root:\n",
        new="    if False:\n",
        proofs=(_SIGNING,),
    ),
    Mutant(
        rule="lamport is one more than the greatest of prev and deps",
        file="store/lineage.py",
        old='        return "" if header.lamport == lamport + 1 else "bad-lamport"\n',
        new='        return "" if header.lamport >= lamport else "bad-lamport"\n',
        proofs=(_LOG,),
    ),
    Mutant(
        rule="prev is the batch before, of the same log",
        file="store/lineage.py",
        old="            if row[0] != log_no or row[1] + 1 != header.seq:\n"
        '                return "bad-prev"\n',
        new="",
        proofs=(_LOG,),
    ),
    Mutant(
        rule="a batch waits for its parents",
        file="store/log.py",
        old="        if missing:\n",
        new="        if False:\n",
        proofs=(_LOG,),
    ),
    Mutant(
        rule="who may not write changes nothing",
        file="store/access.py",
        old="    return member is not None and member.role <= Role.WRITE\n",
        new="    return member is not None\n",
        proofs=(_LOG, "tests/store/test_properties.py"),
    ),
    Mutant(
        rule="who may not admit admits nobody",
        file="store/access.py",
        old="    if member is None or member.role > Role.ADMIN:\n        return False\n",
        new="    if member is None:\n        return False\n",
        proofs=(_PREV,),
    ),
    Mutant(
        rule="a fork is told",
        file="store/log.py",
        old="                result.forked.add(AgentId(signed.header.agent))\n",
        new="                pass\n",
        proofs=(_LOG,),
    ),
    # -- names and strangers ---------------------------------------------------------------------
    Mutant(
        rule="no name leads out of its directory",
        file="store/paths.py",
        old='    if not name or name in (b".", b".."):\n',
        new='    if not name or name in (b".",):\n',
        proofs=("tests/store/test_paths.py",),
    ),
    Mutant(
        rule="nobody sends a `.dizzyd`",
        file="store/decoding.py",
        old='                    return (), "unsafe-name"\n',
        new="                    pass\n",
        proofs=(_LOG,),
    ),
    Mutant(
        rule="no symlink is followed",
        file="daemon/fs_below.py",
        old="    | syscalls.RESOLVE_NO_SYMLINKS\n",
        new="",
        proofs=(_FS, "-k", "B8"),
    ),
    Mutant(
        rule="small contents are what their hash says",
        file="daemon/contents.py",
        old="            if blob_hash(content) == ref.hash:\n",
        new="            if True:\n",
        proofs=("tests/daemon/test_right_bytes.py",),
    ),
    Mutant(
        rule="large contents are what their hash says",
        file="peers/large.py",
        old="        return self.sink.hash() == self.ref.hash\n",
        new="        return True\n",
        proofs=("tests/daemon/test_right_bytes.py", "tests/peers/test_fetch.py"),
    ),
    Mutant(
        rule="an invite admits one",
        file="daemon/door.py",
        old="        if used_by is not None:\n",
        new="        if False:\n",
        proofs=("tests/e2e/test_invites.py",),
    ),
    Mutant(
        rule="a version is buried only if nothing that comes later can miss it",
        file="store/burial.py",
        old="        if rests_on_buried and is_replaced and is_outdated:\n",
        new="        if is_replaced and is_outdated:\n",
        proofs=("tests/store/test_burial.py",),
    ),
    Mutant(
        rule="bytes that were never replaced by others are not buried",
        file="store/burial.py",
        old="        if rests_on_buried and is_replaced and is_outdated:\n",
        new="        if rests_on_buried and is_replaced:\n",
        proofs=("tests/store/test_burial.py",),
    ),
    Mutant(
        rule="a snapshot is believed by the state that it folds to",
        file="store/checkpoint.py",
        old="    if state.root() != checkpoint.state_root:\n",
        new="    if False:\n",
        proofs=(_SNAPSHOT, "-k", "P11"),
    ),
    Mutant(
        rule="a snapshot is believed by the word of the owner alone",
        file="store/joined.py",
        old="    if stored.log.owner() != signed.header.agent:\n",
        new="    if False:\n",
        proofs=("tests/store/test_joined.py",),
    ),
    Mutant(
        rule="what a snapshot left something out of is served to nobody",
        file="store/stored_batches.py",
        old="        if batch_no <= restored_no and not is_whole(header, body):\n",
        new="        if False:\n",
        proofs=("tests/store/test_joined.py",),
    ),
    Mutant(
        rule="a snapshot is given up where a copied home ends the folder without what it rests on",
        file="store/checkpoint.py",
        old="        if self.log.is_overruled:\n",
        new="        if False:\n",
        proofs=(_SNAPSHOT, "-k", "copy_of_the_owners"),
    ),
)
