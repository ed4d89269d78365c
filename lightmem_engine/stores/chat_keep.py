"""What a turn keeps beside its messages: the injected text, the session's block, the user's salt."""

from __future__ import annotations

import secrets
import sqlite3

from lightmem_engine.stores import chat_rows
from lightmem_engine.stores.chat_notes import standing
from lightmem_engine.types import Block, ChatAsk, Injection, Scope

_USER = "tenant = ? AND user = ?"


def inject(connection: sqlite3.Connection, scope: Scope, link: int, injection: Injection) -> Injection:
    """Keep what is injected at a link, as far as it still holds."""
    kept = Injection(standing(connection, scope, injection.notes), injection.today)
    connection.execute("UPDATE chat_link SET injection = ? WHERE id = ?", (chat_rows.injection_json(kept), link))
    return kept


def session_block(connection: sqlite3.Connection, scope: Scope, session: str) -> Block | None:
    """The block of a session that has one."""
    sql = f"SELECT block FROM chat_session WHERE {_USER} AND session = ?"
    row = connection.execute(sql, (scope.tenant, scope.user, session)).fetchone()
    return chat_rows.block_of(row[0]) if row and row[0] else None


def keep_block(connection: sqlite3.Connection, scope: Scope, session: str, ask: ChatAsk) -> Block | None:
    """The session's block: what it has, else what the request brings, as far as that still holds."""
    block = session_block(connection, scope, session)
    if block is not None or ask.block is None:
        return block
    block = _standing_block(connection, scope, ask.block)
    text = chat_rows.block_json(block)
    sql = f"UPDATE chat_session SET block = ? WHERE {_USER} AND session = ?"
    connection.execute(sql, (text, scope.tenant, scope.user, session))
    following = chat_rows.block_json(_standing_block(connection, scope, ask.next_block or ask.block))
    connection.execute(f"UPDATE chat_user SET block = ? WHERE {_USER}", (following, scope.tenant, scope.user))
    return block


def _standing_block(connection: sqlite3.Connection, scope: Scope, block: Block) -> Block:
    return Block(standing(connection, scope, block.notes), block.epoch, block.seen_ms)


def salt_of(connection: sqlite3.Connection, scope: Scope, *, share: bool = False) -> str:
    """The user's salt in hexadecimal, made on first use; with `share`, like that of the tenant's other users."""
    sql = f"SELECT salt FROM chat_user WHERE {_USER}"
    row = connection.execute(sql, (scope.tenant, scope.user)).fetchone()
    if row is None:
        if share:
            row = connection.execute("SELECT salt FROM chat_user WHERE tenant = ? LIMIT 1", (scope.tenant,)).fetchone()
        salt = secrets.token_bytes(32) if row is None else row[0]
        connection.execute("INSERT INTO chat_user (tenant, user, salt) VALUES (?, ?, ?)", (*_key(scope), salt))
        row = (salt,)
    return str(row[0].hex())


def _key(scope: Scope) -> tuple[str, str]:
    return scope.tenant, scope.user
