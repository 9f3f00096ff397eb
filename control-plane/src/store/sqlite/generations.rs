//! Generations and their objects.

use std::collections::BTreeMap;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, Row, params};
use sha2::{Digest as _, Sha256};

use super::{int, log, uint};
use crate::store::{
    Change, Generation, MAX_GENERATIONS, MAX_PAGE, NewGeneration, NewObject, ObjectKey, Origin, StoreError,
    StoredObject, Timestamp,
};

pub(super) fn accept(connection: &Connection, change: &NewGeneration) -> Result<Generation, StoreError> {
    let before = latest(connection)?;
    let base = before.as_ref().map_or(0, |generation| generation.number);
    if base != change.base {
        return Err(StoreError::Conflict { expected: change.base, latest: base });
    }
    let number = base + 1;
    let mut objects = Objects::new(connection, number)?;
    for object in &change.puts {
        objects.put(object)?;
    }
    for key in &change.deletes {
        objects.delete(key)?;
    }
    let Objects { added, changed, removed, .. } = objects;
    let generation = Generation {
        number,
        who: change.who.clone(),
        at: change.at,
        source: change.source,
        restores: change.restores,
        message: change.message.clone(),
        added,
        changed,
        removed,
        objects: (before.map_or(0, |generation| generation.objects) + added).saturating_sub(removed),
    };
    insert(connection, &generation)?;
    for (path, hash) in &change.files {
        match hash {
            Some(hash) => connection
                .prepare_cached("INSERT OR REPLACE INTO files (path, hash) VALUES (?1, ?2)")?
                .execute(params![path, hash])?,
            None => connection.prepare_cached("DELETE FROM files WHERE path = ?1")?.execute([path])?,
        };
    }
    log::audit(connection, &change.audit)?;
    forget(connection, number)?;
    Ok(generation)
}

fn insert(connection: &Connection, generation: &Generation) -> Result<(), StoreError> {
    let Generation { number, who, at, source, restores, message, added, changed, removed, objects } = generation;
    connection
        .prepare_cached(
            "INSERT INTO generations (number, at, who, source, restores, message, added, changed, removed, objects)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        )?
        .execute(params![
            int(*number),
            at.millis(),
            who,
            source.as_str(),
            restores.map(int),
            message,
            added,
            changed,
            removed,
            objects
        ])?;
    Ok(())
}

/// Puts objects into the generation `number` and counts what that changes.
struct Objects<'c> {
    connection: &'c Connection,
    number: i64,
    added: u32,
    changed: u32,
    removed: u32,
}

impl<'c> Objects<'c> {
    fn new(connection: &'c Connection, number: u64) -> Result<Self, StoreError> {
        Ok(Self { connection, number: int(number), added: 0, changed: 0, removed: 0 })
    }

    fn put(&mut self, object: &NewObject) -> Result<(), StoreError> {
        let NewObject { key, text, file, line, origin } = object;
        let content = self.content(text)?;
        let ended = self.end(key)?;
        self.connection
            .prepare_cached(
                "INSERT INTO objects (kind, namespace, name, since, content, file, line, origin)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?
            .execute(params![key.kind, key.namespace, key.name, self.number, content, file, line, origin.as_str()])?;
        if ended {
            self.changed += 1
        } else {
            self.added += 1
        }
        Ok(())
    }

    fn delete(&mut self, key: &ObjectKey) -> Result<(), StoreError> {
        self.removed += u32::from(self.end(key)?);
        Ok(())
    }

    /// Ends the object's present form, if it has one.
    fn end(&self, key: &ObjectKey) -> Result<bool, StoreError> {
        let ended = self
            .connection
            .prepare_cached(
                "UPDATE objects SET until = ?4 WHERE kind = ?1 AND namespace = ?2 AND name = ?3 AND until IS NULL",
            )?
            .execute(params![key.kind, key.namespace, key.name, self.number])?;
        Ok(ended > 0)
    }

    fn content(&self, text: &str) -> Result<i64, StoreError> {
        let hash = Sha256::digest(text);
        let hash = hash.as_slice();
        let known = self.connection.prepare_cached("SELECT id FROM contents WHERE hash = ?1")?;
        let known = { known }.query_row([hash], |row| row.get(0)).optional()?;
        if let Some(id) = known {
            return Ok(id);
        }
        let mut insert = self.connection.prepare_cached("INSERT INTO contents (hash, text) VALUES (?1, ?2)")?;
        Ok(insert.insert(params![hash, text])?)
    }
}

/// Forgets generations that are too old, and what only they had.
fn forget(connection: &Connection, newest: u64) -> Result<(), StoreError> {
    let Some(oldest) = newest.checked_sub(MAX_GENERATIONS - 1).filter(|oldest| *oldest > 1).map(int) else {
        return Ok(());
    };
    connection.prepare_cached("DELETE FROM generations WHERE number < ?1")?.execute([oldest])?;
    let gone: Vec<i64> = connection
        .prepare_cached("DELETE FROM objects WHERE until IS NOT NULL AND until <= ?1 RETURNING content")?
        .query_map([oldest], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    let mut free = connection.prepare_cached(
        "DELETE FROM contents WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM objects WHERE content = ?1)",
    )?;
    for content in gone {
        free.execute([content])?;
    }
    Ok(())
}

const GENERATION: &str =
    "SELECT number, at, who, source, restores, message, added, changed, removed, objects FROM generations";

fn generation(row: &Row<'_>) -> rusqlite::Result<Generation> {
    Ok(Generation {
        number: uint(row.get(0)?),
        at: Timestamp::from_millis(row.get(1)?),
        who: row.get(2)?,
        source: origin(row, 3)?,
        restores: row.get::<_, Option<i64>>(4)?.map(uint),
        message: row.get(5)?,
        added: row.get(6)?,
        changed: row.get(7)?,
        removed: row.get(8)?,
        objects: row.get(9)?,
    })
}

fn origin(row: &Row<'_>, column: usize) -> rusqlite::Result<Origin> {
    let word: String = row.get(column)?;
    Origin::parse(&word).ok_or_else(|| super::log::unknown_word(column, &word))
}

pub(super) fn latest(connection: &Connection) -> Result<Option<Generation>, StoreError> {
    let mut query = connection.prepare_cached(&format!("{GENERATION} ORDER BY number DESC LIMIT 1"))?;
    Ok(query.query_row([], generation).optional()?)
}

pub(super) fn one(connection: &Connection, number: u64) -> Result<Option<Generation>, StoreError> {
    let mut query = connection.prepare_cached(&format!("{GENERATION} WHERE number = ?1"))?;
    Ok(query.query_row([int(number)], generation).optional()?)
}

pub(super) fn history(connection: &Connection, before: Option<u64>, limit: u32) -> Result<Vec<Generation>, StoreError> {
    let mut query =
        connection.prepare_cached(&format!("{GENERATION} WHERE number < ?1 ORDER BY number DESC LIMIT ?2"))?;
    let rows = query.query_map(params![before.map_or(i64::MAX, int), limit.min(MAX_PAGE)], generation)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

const OBJECT: &str =
    "SELECT kind, namespace, name, text, file, line, origin, since FROM objects JOIN contents ON contents.id = content";

fn object(row: &Row<'_>) -> rusqlite::Result<StoredObject> {
    let text = |column| row.get::<_, Arc<str>>(column);
    let key = ObjectKey { kind: text(0)?, namespace: text(1)?, name: text(2)? };
    let object = NewObject { key, text: text(3)?, file: text(4)?, line: row.get(5)?, origin: origin(row, 6)? };
    Ok(StoredObject { object, since: uint(row.get(7)?) })
}

pub(super) fn objects(connection: &Connection, number: u64) -> Result<Vec<StoredObject>, StoreError> {
    let transaction = connection.unchecked_transaction()?;
    known(&transaction, number)?;
    let mut query = transaction.prepare_cached(&format!(
        "{OBJECT} WHERE since <= ?1 AND (until IS NULL OR until > ?1) ORDER BY kind, namespace, name"
    ))?;
    let rows = query.query_map([int(number)], object)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(super) fn changes(connection: &Connection, number: u64) -> Result<Vec<Change>, StoreError> {
    let transaction = connection.unchecked_transaction()?;
    known(&transaction, number)?;
    let mut changes: BTreeMap<ObjectKey, Change> = BTreeMap::new();
    for (column, is_before) in [("until", true), ("since", false)] {
        let mut query = transaction.prepare_cached(&format!("{OBJECT} WHERE {column} = ?1"))?;
        for row in query.query_map([int(number)], object)? {
            let row = row?;
            let key = row.object.key.clone();
            let change = changes.entry(key.clone()).or_insert_with(|| Change { key, before: None, after: None });
            *(if is_before { &mut change.before } else { &mut change.after }) = Some(row);
        }
    }
    Ok(changes.into_values().collect())
}

fn known(connection: &Connection, number: u64) -> Result<(), StoreError> {
    one(connection, number)?.map(drop).ok_or(StoreError::NotFound(number))
}

pub(super) fn files(connection: &Connection) -> Result<BTreeMap<String, String>, StoreError> {
    let mut query = connection.prepare_cached("SELECT path, hash FROM files")?;
    let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}
