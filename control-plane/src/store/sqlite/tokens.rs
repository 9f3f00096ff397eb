//! API tokens and join tokens. Only hashes of their secrets are stored.

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::int;
use crate::store::{ApiToken, JoinToken, MAX_API_TOKENS, MAX_JOIN_TOKENS, StoreError, Timestamp, TokenId};

/// Tokens that were good for nothing for this long are forgotten: 30 days.
const KEPT_AFTER_END: i64 = 30 * 24 * 3_600_000;

pub(super) fn add_api_token(connection: &Connection, token: &ApiToken) -> Result<(), StoreError> {
    let ended = token.created.millis() - KEPT_AFTER_END;
    connection.prepare_cached("DELETE FROM api_tokens WHERE expires < ?1 OR revoked < ?1")?.execute([ended])?;
    room(connection, "api_tokens", "API tokens", MAX_API_TOKENS)?;
    let ApiToken { id, hash, name, role, created_by, created, expires, revoked } = token;
    let role = serde_json::to_string(role).map_err(|error| StoreError::Corrupt(error.to_string()))?;
    connection
        .prepare_cached(
            "INSERT INTO api_tokens (id, hash, name, role, created_by, created, expires, revoked)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![id.0, hash, name, role, created_by, created.millis(), millis(*expires), millis(*revoked)])?;
    Ok(())
}

const API_TOKEN: &str = "SELECT id, hash, name, role, created_by, created, expires, revoked FROM api_tokens";

pub(super) fn api_token(connection: &Connection, id: &TokenId) -> Result<Option<ApiToken>, StoreError> {
    let mut query = connection.prepare_cached(&format!("{API_TOKEN} WHERE id = ?1"))?;
    Ok(query.query_row([&id.0], read_api_token).optional()?)
}

pub(super) fn api_tokens(connection: &Connection) -> Result<Vec<ApiToken>, StoreError> {
    let mut query = connection.prepare_cached(&format!("{API_TOKEN} ORDER BY created DESC, id"))?;
    let rows = query.query_map([], read_api_token)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn read_api_token(row: &Row<'_>) -> rusqlite::Result<ApiToken> {
    let role: String = row.get(3)?;
    let role = serde_json::from_str(&role)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(3, Type::Text, error.into()))?;
    Ok(ApiToken {
        id: TokenId(row.get(0)?),
        hash: row.get(1)?,
        name: row.get(2)?,
        role,
        created_by: row.get(4)?,
        created: Timestamp::from_millis(row.get(5)?),
        expires: moment(row, 6)?,
        revoked: moment(row, 7)?,
    })
}

pub(super) fn revoke(connection: &Connection, id: &TokenId, at: Timestamp) -> Result<bool, StoreError> {
    let api = connection
        .prepare_cached("UPDATE api_tokens SET revoked = ?2 WHERE id = ?1 AND revoked IS NULL")?
        .execute(params![id.0, at.millis()])?;
    let join = connection
        .prepare_cached("UPDATE join_tokens SET revoked = ?2 WHERE id = ?1 AND revoked IS NULL")?
        .execute(params![id.0, at.millis()])?;
    Ok(api + join > 0)
}

pub(super) fn add_join_token(connection: &Connection, token: &JoinToken) -> Result<(), StoreError> {
    let ended = token.created.millis() - KEPT_AFTER_END;
    connection
        .prepare_cached("DELETE FROM join_tokens WHERE expires < ?1 OR revoked < ?1 OR used < ?1")?
        .execute([ended])?;
    room(connection, "join_tokens", "join tokens", MAX_JOIN_TOKENS)?;
    let JoinToken { id, hash, workload, created_by, created, expires, used, used_by, revoked } = token;
    connection
        .prepare_cached(
            "INSERT INTO join_tokens (id, hash, workload, created_by, created, expires, used, used_by, revoked)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?
        .execute(params![
            id.0,
            hash,
            workload,
            created_by,
            created.millis(),
            expires.millis(),
            millis(*used),
            used_by,
            millis(*revoked)
        ])?;
    Ok(())
}

const JOIN_TOKEN: &str =
    "SELECT id, hash, workload, created_by, created, expires, used, used_by, revoked FROM join_tokens";

pub(super) fn join_token(connection: &Connection, id: &TokenId) -> Result<Option<JoinToken>, StoreError> {
    let mut query = connection.prepare_cached(&format!("{JOIN_TOKEN} WHERE id = ?1"))?;
    Ok(query.query_row([&id.0], read_join_token).optional()?)
}

pub(super) fn join_tokens(connection: &Connection) -> Result<Vec<JoinToken>, StoreError> {
    let mut query = connection.prepare_cached(&format!("{JOIN_TOKEN} ORDER BY created DESC, id"))?;
    let rows = query.query_map([], read_join_token)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn read_join_token(row: &Row<'_>) -> rusqlite::Result<JoinToken> {
    Ok(JoinToken {
        id: TokenId(row.get(0)?),
        hash: row.get(1)?,
        workload: row.get(2)?,
        created_by: row.get(3)?,
        created: Timestamp::from_millis(row.get(4)?),
        expires: Timestamp::from_millis(row.get(5)?),
        used: moment(row, 6)?,
        used_by: row.get(7)?,
        revoked: moment(row, 8)?,
    })
}

/// One statement decides and marks, so that two callers cannot both win.
pub(super) fn use_join_token(
    connection: &Connection,
    id: &TokenId,
    at: Timestamp,
    by: &str,
) -> Result<bool, StoreError> {
    let used = connection
        .prepare_cached(
            "UPDATE join_tokens SET used = ?2, used_by = ?3
             WHERE id = ?1 AND used IS NULL AND revoked IS NULL AND expires > ?2",
        )?
        .execute(params![id.0, at.millis(), by])?;
    Ok(used > 0)
}

fn room(connection: &Connection, table: &str, what: &'static str, limit: u64) -> Result<(), StoreError> {
    let count: i64 = connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))?;
    if count < int(limit) { Ok(()) } else { Err(StoreError::Full { what, limit }) }
}

fn millis(moment: Option<Timestamp>) -> Option<i64> {
    moment.map(Timestamp::millis)
}

fn moment(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Timestamp>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(Timestamp::from_millis))
}
