//! Answers of proxies, and the audit log. Both only grow, and are cut at their limits.

use rusqlite::types::Type;
use rusqlite::{Connection, Row, params};

use super::{int, uint};
use crate::store::{
    Answer, AuditEntry, AuditRecord, MAX_ANSWERS, MAX_AUDIT, MAX_PAGE, Outcome, StoreError, Timestamp, Verdict,
};

pub(super) fn record_answers(connection: &Connection, answers: &[Answer]) -> Result<(), StoreError> {
    let mut insert = connection.prepare_cached(
        "INSERT INTO answers (proxy, generation, at, refused, kind, resource, field, reason)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?;
    for Answer { proxy, generation, at, verdict } in answers {
        let (refused, [kind, resource, field, reason]) = match verdict {
            Verdict::Accepted => (false, [""; 4]),
            Verdict::Refused { kind, resource, field, reason } => (true, [&**kind, resource, field, reason]),
        };
        insert.execute(params![proxy, int(*generation), at.millis(), refused, kind, resource, field, reason])?;
    }
    let newest = connection.last_insert_rowid();
    connection.prepare_cached("DELETE FROM answers WHERE id <= ?1")?.execute([newest - int(MAX_ANSWERS)])?;
    Ok(())
}

pub(super) fn answers(connection: &Connection, proxy: Option<&str>, limit: u32) -> Result<Vec<Answer>, StoreError> {
    const ANSWER: &str = "SELECT proxy, generation, at, refused, kind, resource, field, reason FROM answers";
    let limit = limit.min(MAX_PAGE);
    let rows: Result<Vec<Answer>, rusqlite::Error> = match proxy {
        Some(proxy) => connection
            .prepare_cached(&format!("{ANSWER} WHERE proxy = ?1 ORDER BY id DESC LIMIT ?2"))?
            .query_map(params![proxy, limit], answer)?
            .collect(),
        None => connection
            .prepare_cached(&format!("{ANSWER} ORDER BY id DESC LIMIT ?1"))?
            .query_map([limit], answer)?
            .collect(),
    };
    Ok(rows?)
}

fn answer(row: &Row<'_>) -> rusqlite::Result<Answer> {
    let verdict = if row.get(3)? {
        Verdict::Refused { kind: row.get(4)?, resource: row.get(5)?, field: row.get(6)?, reason: row.get(7)? }
    } else {
        Verdict::Accepted
    };
    Ok(Answer { proxy: row.get(0)?, generation: uint(row.get(1)?), at: Timestamp::from_millis(row.get(2)?), verdict })
}

pub(super) fn audit(connection: &Connection, entry: &AuditEntry) -> Result<(), StoreError> {
    let AuditEntry { at, who, from, action, subject, outcome, detail } = entry;
    let mut insert = connection.prepare_cached(
        "INSERT INTO audit (at, who, origin, action, subject, outcome, detail) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    let newest = insert.insert(params![at.millis(), who, from, action, subject, outcome.as_str(), detail])?;
    connection.prepare_cached("DELETE FROM audit WHERE id <= ?1")?.execute([newest - int(MAX_AUDIT)])?;
    Ok(())
}

pub(super) fn audit_log(
    connection: &Connection,
    before: Option<u64>,
    limit: u32,
) -> Result<Vec<AuditRecord>, StoreError> {
    let mut query = connection.prepare_cached(
        "SELECT id, at, who, origin, action, subject, outcome, detail FROM audit WHERE id < ?1 ORDER BY id DESC LIMIT ?2",
    )?;
    let rows = query.query_map(params![before.map_or(i64::MAX, int), limit.min(MAX_PAGE)], |row| {
        let word: String = row.get(6)?;
        let entry = AuditEntry {
            at: Timestamp::from_millis(row.get(1)?),
            who: row.get(2)?,
            from: row.get(3)?,
            action: row.get(4)?,
            subject: row.get(5)?,
            outcome: Outcome::parse(&word).ok_or_else(|| unknown_word(6, &word))?,
            detail: row.get(7)?,
        };
        Ok(AuditRecord { id: uint(row.get(0)?), entry })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// A word that this program never writes.
pub(super) fn unknown_word(column: usize, word: &str) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, format!("`{word}` is not a known word").into())
}
