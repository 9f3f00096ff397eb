//! `history` and `audit`.

use super::args::{AuditArgs, HistoryArgs, Output};
use super::table::{plain, table};
use super::{CommandError, Done, json, no_yaml, settings};
use crate::api::wire::{AuditBody, GenerationBody, GenerationDetail, ObjectRef};

pub(super) async fn history(args: HistoryArgs) -> Result<Done, CommandError> {
    no_yaml(args.output)?;
    let client = settings::client(&args.server)?;
    if let Some(number) = args.generation {
        let detail: GenerationDetail = client.get(&format!("/v1/generations/{number}")).await?;
        return Ok(Done::ok(if args.output == Output::Json { json(&detail) } else { one(&detail) }));
    }
    let found: Vec<GenerationBody> = client.get(&format!("/v1/generations?limit={}", args.limit)).await?;
    if args.output == Output::Json {
        return Ok(Done::ok(json(&found)));
    }
    let rows: Vec<Vec<String>> = found.iter().map(row).collect();
    Ok(Done::ok(table(&["GENERATION", "WHEN", "WHO", "SOURCE", "CHANGES", "OBJECTS", "MESSAGE"], &rows)))
}

fn row(generation: &GenerationBody) -> Vec<String> {
    let source = match generation.restores {
        Some(restores) => format!("{} to {restores}", generation.source),
        None => generation.source.clone(),
    };
    vec![
        generation.number.to_string(),
        generation.at.clone(),
        plain(&generation.who),
        source,
        format!("+{} ~{} -{}", generation.added, generation.changed, generation.removed),
        generation.objects.to_string(),
        plain(&generation.message),
    ]
}

fn one(detail: &GenerationDetail) -> String {
    let GenerationBody { number, at, who, source, message, .. } = &detail.generation;
    let mut out = format!("generation {number}, {at}, by {} ({source}): {}\n", plain(who), plain(message));
    for change in &detail.changes {
        let ObjectRef { kind, namespace, name } = &change.object;
        out.push_str(&format!("{} {kind} {namespace}/{name}\n", change.how));
        out.extend(change.diff.lines().map(|line| format!("    {line}\n")));
    }
    out
}

pub(super) async fn audit(args: AuditArgs) -> Result<Done, CommandError> {
    no_yaml(args.output)?;
    let before = args.before.map(|before| format!("&before={before}")).unwrap_or_default();
    let path = format!("/v1/audit?limit={}{before}", args.limit);
    let found: Vec<AuditBody> = settings::client(&args.server)?.get(&path).await?;
    if args.output == Output::Json {
        return Ok(Done::ok(json(&found)));
    }
    let rows: Vec<Vec<String>> = found
        .iter()
        .map(|entry| {
            let AuditBody { id, at, who, from, action, subject, outcome, detail } = entry;
            vec![
                id.to_string(),
                at.clone(),
                plain(who),
                from.clone(),
                plain(action),
                plain(subject),
                outcome.clone(),
                plain(detail),
            ]
        })
        .collect();
    Ok(Done::ok(table(&["ID", "WHEN", "WHO", "FROM", "ACTION", "SUBJECT", "OUTCOME", "DETAIL"], &rows)))
}
