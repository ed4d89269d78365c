"""`kv_manifest`: which KV caches stand. Its rows end with what they were made of, whoever ends that.

A manifest belongs to a segment, and ends when that is extracted or goes; or to a place in a conversation (`link` of
`thread`: the cache covers the prompt up to that message), and ends when the message is superseded, when what was
injected before it changes, when the session's block changes, and with the thread. Both end when one of their messages
is deleted or changed. Triggers see to it, so that no way of changing memory can forget it. An ended manifest leaves its
number in `kv_gone` until its files are gone; a number says nothing about anybody.
"""

KV_MANIFESTS = """
CREATE TABLE kv_manifest (
    id TEXT PRIMARY KEY,
    tenant TEXT NOT NULL, user TEXT NOT NULL,
    thread INTEGER, link INTEGER, segment INTEGER,
    fingerprint BLOB NOT NULL, num_tokens INTEGER NOT NULL, num_bytes INTEGER NOT NULL, tokens BLOB,
    created_ms INTEGER NOT NULL, used_ms INTEGER NOT NULL,
    CHECK ((thread IS NULL) = (link IS NULL) AND (thread IS NULL) <> (segment IS NULL))
) WITHOUT ROWID;
CREATE INDEX kv_manifest_by_user ON kv_manifest (tenant, user);
CREATE INDEX kv_manifest_by_thread ON kv_manifest (thread, link);
CREATE INDEX kv_manifest_by_link ON kv_manifest (link);
CREATE INDEX kv_manifest_by_segment ON kv_manifest (segment);
CREATE INDEX kv_manifest_by_time ON kv_manifest (used_ms);

CREATE TABLE kv_gone (id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TRIGGER kv_manifest_ends AFTER DELETE ON kv_manifest BEGIN
    INSERT OR IGNORE INTO kv_gone VALUES (old.id);
END;

CREATE TRIGGER kv_segment_ends AFTER UPDATE OF state ON segment WHEN new.state <> 'closed' BEGIN
    DELETE FROM kv_manifest WHERE segment = old.id;
END;
CREATE TRIGGER kv_segment_goes AFTER DELETE ON segment BEGIN
    DELETE FROM kv_manifest WHERE segment = old.id;
END;
CREATE TRIGGER kv_thread_goes AFTER DELETE ON chat_thread BEGIN
    DELETE FROM kv_manifest WHERE thread = old.id;
END;
CREATE TRIGGER kv_link_ends AFTER UPDATE OF superseded_ms ON chat_link WHEN new.superseded_ms IS NOT NULL BEGIN
    DELETE FROM kv_manifest WHERE link = old.id;
END;
CREATE TRIGGER kv_injection_changes AFTER UPDATE OF injection ON chat_link
WHEN old.injection IS NOT NULL AND new.injection IS NOT old.injection BEGIN
    DELETE FROM kv_manifest WHERE thread = old.thread AND link >= old.id;
END;
CREATE TRIGGER kv_block_changes AFTER UPDATE OF block ON chat_session
WHEN old.block IS NOT NULL AND new.block IS NOT old.block BEGIN
    DELETE FROM kv_manifest WHERE thread IN (
        SELECT id FROM chat_thread WHERE tenant = old.tenant AND user = old.user AND session = old.session
    );
END;
CREATE TRIGGER kv_session_goes AFTER DELETE ON chat_session BEGIN
    DELETE FROM kv_manifest WHERE thread IN (
        SELECT id FROM chat_thread WHERE tenant = old.tenant AND user = old.user AND session = old.session
    );
END;
CREATE TRIGGER kv_message_goes BEFORE DELETE ON message BEGIN
    DELETE FROM kv_manifest WHERE thread IN (SELECT thread FROM chat_link WHERE message = old.seq);
    DELETE FROM kv_manifest WHERE segment IN (SELECT segment FROM sensed WHERE message = old.seq);
END;
CREATE TRIGGER kv_message_changes AFTER UPDATE OF content ON message WHEN new.content <> old.content BEGIN
    DELETE FROM kv_manifest WHERE thread IN (SELECT thread FROM chat_link WHERE message = old.seq);
    DELETE FROM kv_manifest WHERE segment IN (SELECT segment FROM sensed WHERE message = old.seq);
END;
CREATE TRIGGER kv_message_ends AFTER UPDATE OF superseded_ms ON message WHEN new.superseded_ms IS NOT NULL BEGIN
    DELETE FROM kv_manifest WHERE segment IN (SELECT segment FROM sensed WHERE message = old.seq);
END;
CREATE TRIGGER kv_salt_goes AFTER DELETE ON chat_user BEGIN
    DELETE FROM kv_manifest WHERE tenant = old.tenant AND user = old.user;
END;
"""
