"""Hold the statements that make all tables of a node's database.

Written from store.tables by `python -m tests.project.schema`; a test holds the two together. A
daemon on a new home needs neither SQLModel nor SQLAlchemy for them: that is 20 MB.
"""

from __future__ import annotations

SCHEMA = """
CREATE TABLE access_set ( no INTEGER NOT NULL, folder_no INTEGER NOT NULL, batches BLOB NOT NULL,
    PRIMARY KEY (no), UNIQUE (folder_no, batches) );
CREATE TABLE activity ( id BLOB NOT NULL, record BLOB NOT NULL, PRIMARY KEY (id) );
CREATE TABLE along_deletion ( directory_event BLOB NOT NULL, object_no INTEGER NOT NULL, PRIMARY
    KEY (directory_event, object_no) ) WITHOUT ROWID;
CREATE TABLE batch ( no INTEGER NOT NULL, folder_no INTEGER NOT NULL, id BLOB NOT NULL, log_no
    INTEGER NOT NULL, seq INTEGER NOT NULL, lamport INTEGER NOT NULL, access_no INTEGER NOT NULL,
    is_applied INTEGER NOT NULL, is_void INTEGER NOT NULL, header BLOB NOT NULL, signature BLOB
    NOT NULL, body BLOB NOT NULL, PRIMARY KEY (no), UNIQUE (id) );
CREATE INDEX batch_place ON batch (log_no, seq);
CREATE INDEX batch_unapplied ON batch (folder_no) WHERE is_applied = 0;
CREATE TABLE bucket ( folder_no INTEGER NOT NULL, no INTEGER NOT NULL, hash BLOB NOT NULL, PRIMARY
    KEY (folder_no, no) ) WITHOUT ROWID;
CREATE TABLE buried ( object_no INTEGER NOT NULL, event BLOB NOT NULL, value BLOB NOT NULL,
    PRIMARY KEY (object_no, event) ) WITHOUT ROWID;
CREATE TABLE chunk_list ( no INTEGER NOT NULL, folder_no INTEGER NOT NULL, value BLOB NOT NULL,
    chunks BLOB NOT NULL, PRIMARY KEY (no), UNIQUE (value, folder_no) );
CREATE TABLE directory_move ( folder_no INTEGER NOT NULL, "key" BLOB NOT NULL, object_no INTEGER
    NOT NULL, parent_no INTEGER NOT NULL, name BLOB NOT NULL, event_id BLOB NOT NULL, PRIMARY KEY
    (folder_no, "key") ) WITHOUT ROWID;
CREATE TABLE displaced ( name BLOB NOT NULL, folder_no INTEGER NOT NULL, record BLOB NOT NULL,
    PRIMARY KEY (name) );
CREATE TABLE event ( object_no INTEGER NOT NULL, batch_no INTEGER NOT NULL, position INTEGER NOT
    NULL, PRIMARY KEY (object_no, batch_no, position) ) WITHOUT ROWID;
CREATE TABLE folder ( no INTEGER NOT NULL, id BLOB NOT NULL, name VARCHAR NOT NULL, path BLOB NOT
    NULL, is_active INTEGER NOT NULL, root_no INTEGER NOT NULL, epoch BLOB, had_members INTEGER
    NOT NULL, PRIMARY KEY (no), UNIQUE (id) );
CREATE TABLE frontier ( folder_no INTEGER NOT NULL, batch_id BLOB NOT NULL, PRIMARY KEY
    (folder_no, batch_id) ) WITHOUT ROWID;
CREATE TABLE head ( object_no INTEGER NOT NULL, event_id BLOB NOT NULL, "key" BLOB NOT NULL,
    is_deletion INTEGER NOT NULL, is_head INTEGER NOT NULL, is_shown INTEGER NOT NULL, value BLOB
    NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, PRIMARY KEY (object_no, event_id)
    ) WITHOUT ROWID;
CREATE TABLE held_deletion ( folder_no INTEGER NOT NULL, path BLOB NOT NULL, PRIMARY KEY
    (folder_no, path) ) WITHOUT ROWID;
CREATE TABLE intent ( id BLOB NOT NULL, folder_no INTEGER NOT NULL, record BLOB NOT NULL, PRIMARY
    KEY (id) );
CREATE TABLE invite ( id BLOB NOT NULL, folder_no INTEGER NOT NULL, secret BLOB NOT NULL, role
    INTEGER NOT NULL, expires_ms INTEGER NOT NULL, used_by BLOB, PRIMARY KEY (id) );
CREATE TABLE kept ( folder_no INTEGER NOT NULL, name BLOB NOT NULL, object_no INTEGER NOT NULL,
    value BLOB NOT NULL, size INTEGER NOT NULL, PRIMARY KEY (folder_no, name) ) WITHOUT ROWID;
CREATE INDEX kept_value ON kept (value);
CREATE TABLE log ( no INTEGER NOT NULL, folder_no INTEGER NOT NULL, id BLOB NOT NULL, agent BLOB
    NOT NULL, epoch BLOB NOT NULL, PRIMARY KEY (no), UNIQUE (id) );
CREATE TABLE meta ( "key" VARCHAR NOT NULL, value BLOB NOT NULL, PRIMARY KEY ("key") );
CREATE TABLE object ( no INTEGER NOT NULL, folder_no INTEGER NOT NULL, id BLOB NOT NULL, kind
    INTEGER NOT NULL, parent_no INTEGER NOT NULL, name BLOB NOT NULL, place_event BLOB, place_key
    BLOB, last_move BLOB, base_parent_no INTEGER, base_name BLOB, latest_lamport INTEGER NOT NULL,
    head_event BLOB NOT NULL, head_key BLOB NOT NULL, value BLOB NOT NULL, size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL, mode INTEGER NOT NULL, flags INTEGER NOT NULL, PRIMARY KEY (no),
    UNIQUE (folder_no, id) );
CREATE INDEX object_place ON object (parent_no, name);
CREATE TABLE object_tag ( object_no INTEGER NOT NULL, tag BLOB NOT NULL, PRIMARY KEY (object_no,
    tag) ) WITHOUT ROWID;
CREATE TABLE peer ( agent BLOB NOT NULL, name VARCHAR NOT NULL, addresses BLOB NOT NULL,
    last_seen_ms INTEGER NOT NULL, PRIMARY KEY (agent) );
CREATE TABLE snapshot_piece ( hash BLOB NOT NULL, no INTEGER NOT NULL, folder_no INTEGER NOT NULL,
    piece BLOB NOT NULL, PRIMARY KEY (hash, no) );
CREATE TABLE synced ( object_no INTEGER NOT NULL, copy_event BLOB NOT NULL, folder_no INTEGER NOT
    NULL, parent_no INTEGER NOT NULL, name BLOB NOT NULL, kind INTEGER NOT NULL, value BLOB NOT
    NULL, inode INTEGER NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, ctime_ns
    INTEGER NOT NULL, mode INTEGER NOT NULL, looked_at_ns INTEGER NOT NULL, shared_mtime_ns
    INTEGER NOT NULL, events BLOB NOT NULL, placement BLOB NOT NULL, leftover INTEGER NOT NULL,
    PRIMARY KEY (object_no, copy_event) ) WITHOUT ROWID;
CREATE INDEX synced_place ON synced (parent_no, name);
CREATE INDEX synced_value ON synced (value);
CREATE TABLE void_deletion ( event_id BLOB NOT NULL, object_no INTEGER NOT NULL, PRIMARY KEY
    (event_id) ) WITHOUT ROWID;
CREATE TABLE waitingevent ( folder_no INTEGER NOT NULL, object_id BLOB NOT NULL, batch_no INTEGER
    NOT NULL, position INTEGER NOT NULL, PRIMARY KEY (folder_no, object_id, batch_no, position) )
    WITHOUT ROWID;
"""
