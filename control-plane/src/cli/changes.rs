//! `apply`, `delete`, `diff`, `rollback`.

use super::args::{ApplyArgs, DeleteArgs, DiffArgs, Output, RollbackArgs};
use super::{CommandError, Done, files, json, no_yaml, settings};
use crate::api::wire::{ApplyRequest, ChangeResponse, DeleteRequest, ObjectBody, ObjectRef, RollbackRequest};

pub(super) async fn apply(args: ApplyArgs) -> Result<Done, CommandError> {
    no_yaml(args.output)?;
    let documents = files::read(&args.files)?;
    let request = ApplyRequest { documents, message: args.message, dry_run: args.dry_run, prune: args.prune };
    let response: ChangeResponse = settings::client(&args.server)?.post("/v1/apply", &request).await?;
    Ok(shown(&response, args.dry_run, args.output))
}

pub(super) async fn diff(args: DiffArgs) -> Result<Done, CommandError> {
    no_yaml(args.output)?;
    let documents = files::read(&args.files)?;
    let request = ApplyRequest { documents, dry_run: true, ..ApplyRequest::default() };
    let response: ChangeResponse = settings::client(&args.server)?.post("/v1/apply", &request).await?;
    Ok(shown(&response, true, args.output))
}

pub(super) async fn delete(args: DeleteArgs) -> Result<Done, CommandError> {
    no_yaml(args.output)?;
    let client = settings::client(&args.server)?;
    let objects = match &args.object[..] {
        [] if args.files.is_empty() => {
            return Err(CommandError::Other("name an object, `KIND NAME`, or files with -f".to_owned()));
        }
        [] => Vec::new(),
        [_] => return Err(CommandError::Other("the name of the object is missing: `KIND NAME`".to_owned())),
        [kind, name, ..] => {
            // The server knows kinds as people write them; what it has is named exactly.
            let path =
                format!("/v1/objects?kind={}&namespace={}&name={}", query(kind), query(&args.namespace), query(name));
            let found: Vec<ObjectBody> = client.get(&path).await?;
            if found.is_empty() {
                return Err(CommandError::Other(format!("there is no {kind} {}/{name}", args.namespace)));
            }
            found.into_iter().map(|body| body.object).collect()
        }
    };
    let documents = files::read(&args.files)?;
    let request = DeleteRequest { objects, documents, message: args.message, dry_run: args.dry_run };
    let response: ChangeResponse = client.post("/v1/delete", &request).await?;
    Ok(shown(&response, args.dry_run, args.output))
}

pub(super) async fn rollback(args: RollbackArgs) -> Result<Done, CommandError> {
    no_yaml(args.output)?;
    let request = RollbackRequest { message: args.message, dry_run: args.dry_run };
    let path = format!("/v1/generations/{}/rollback", args.generation);
    let response: ChangeResponse = settings::client(&args.server)?.post(&path, &request).await?;
    Ok(shown(&response, args.dry_run, args.output))
}

fn shown(response: &ChangeResponse, dry_run: bool, output: Output) -> Done {
    if output == Output::Json {
        return Done::ok(json(response));
    }
    let problems: String = response.warnings.iter().map(|warning| warning.render() + "\n").collect();
    let mut out = String::new();
    for change in &response.changes {
        let mark = match &*change.how {
            "added" => '+',
            "removed" => '-',
            _ => '~',
        };
        let ObjectRef { kind, namespace, name } = &change.object;
        out.push_str(&format!("{mark} {kind} {namespace}/{name}\n"));
        if dry_run {
            out.extend(change.diff.lines().map(|line| format!("    {line}\n")));
        }
    }
    if dry_run {
        for proxy in &response.impact.per_proxy {
            out.push_str(&format!("proxy {}\n", proxy.proxy));
            out.extend(proxy.lines.iter().map(|line| format!("    {line}\n")));
        }
        if response.impact.not_listed > 0 {
            out.push_str(&format!("… and {} more proxies\n", response.impact.not_listed));
        }
    }
    match (response.generation, dry_run) {
        (Some(generation), _) => out.push_str(&format!("generation {generation}\n")),
        (None, true) => out.push_str(&format!("would change: {}\n", response.impact.summary)),
        (None, false) => out.push_str(&format!("nothing to change; the generation stays {}\n", response.base)),
    }
    Done { out, problems, failed: false }
}

/// A value in a query.
pub(super) fn query(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
