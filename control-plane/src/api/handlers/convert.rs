//! What the control plane has, as the API writes it.

use similar::TextDiff;

use crate::api::limits::MAX_DIFF;
use crate::api::wire::{
    AnswerBody, AuditBody, ChangeResponse, DirectoryStatus, FileStatus, GenerationBody, ObjectChange, ObjectRef,
    Problem, ProxyBody, RefusalBody,
};
use crate::engine::{Altered, Applied, DirectoryState, FileState};
use crate::fleet::{Form, ProxyStatus};
use crate::manifest::{self, ObjectId};
use crate::peer::WorkloadKey;
use crate::store::{Answer, AuditRecord, Change, ChangeKind, Generation, ObjectKey, Verdict};

pub(super) fn applied(applied: Applied) -> ChangeResponse {
    let Applied { generation, base, altered, warnings, impact } = applied;
    ChangeResponse {
        generation,
        base,
        changes: altered.iter().map(altered_object).collect(),
        warnings: warnings.iter().map(problem).collect(),
        impact,
    }
}

fn altered_object(altered: &Altered) -> ObjectChange {
    let Altered { id, before, after } = altered;
    let how = match (before, after) {
        (None, _) => "added",
        (Some(_), Some(_)) => "changed",
        (Some(_), None) => "removed",
    };
    let (before, after) = (before.as_deref().unwrap_or_default(), after.as_deref().unwrap_or_default());
    ObjectChange { object: object(id), how: how.to_owned(), diff: diff(before, after) }
}

pub(super) fn change(change: &Change) -> ObjectChange {
    let how = match change.kind() {
        ChangeKind::Added => "added",
        ChangeKind::Changed => "changed",
        ChangeKind::Removed => "removed",
    };
    let text = |stored: &Option<crate::store::StoredObject>| stored.as_ref().map(|stored| stored.object.text.clone());
    let (before, after) = (text(&change.before), text(&change.after));
    let diff = diff(before.as_deref().unwrap_or_default(), after.as_deref().unwrap_or_default());
    ObjectChange { object: key(&change.key), how: how.to_owned(), diff }
}

/// A unified diff without the heads that name files.
fn diff(before: &str, after: &str) -> String {
    let mut text = TextDiff::from_lines(before, after).unified_diff().context_radius(3).to_string();
    if text.len() > MAX_DIFF {
        let end = (0..=MAX_DIFF).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push_str("\n… the rest is not shown\n");
    }
    text
}

pub(super) fn object(id: &ObjectId) -> ObjectRef {
    ObjectRef { kind: id.kind.to_string(), namespace: id.name.namespace.to_string(), name: id.name.name.to_string() }
}

fn key(key: &ObjectKey) -> ObjectRef {
    ObjectRef { kind: key.kind.to_string(), namespace: key.namespace.to_string(), name: key.name.to_string() }
}

pub(super) fn problem(problem: &manifest::Problem) -> Problem {
    let diagnostic = &problem.diagnostic;
    let text = diagnostic.to_string();
    // Between the line that names the place and the notes at the end stands the line of the file, with carets.
    let excerpt: Vec<&str> = text
        .lines()
        .skip_while(|line| !line.trim_start().starts_with("-->"))
        .skip(1)
        .take_while(|line| !line.trim_start().starts_with('='))
        .collect();
    Problem {
        severity: diagnostic.severity.as_str().to_owned(),
        file: diagnostic.place.file.to_string(),
        line: diagnostic.place.line,
        column: diagnostic.place.column,
        message: diagnostic.message.clone(),
        fix: diagnostic.fix.clone(),
        excerpt: excerpt.join("\n"),
        object: problem.object.as_ref().map(object),
    }
}

pub(super) fn generation(generation: Generation) -> GenerationBody {
    let Generation { number, who, at, source, restores, message, added, changed, removed, objects } = generation;
    GenerationBody {
        number,
        who,
        at: at.to_string(),
        source: source.as_str().to_owned(),
        restores,
        message,
        added,
        changed,
        removed,
        objects,
    }
}

pub(super) fn audit(record: AuditRecord) -> AuditBody {
    let AuditRecord { id, entry } = record;
    AuditBody {
        id,
        at: entry.at.to_string(),
        who: entry.who,
        from: entry.from,
        action: entry.action,
        subject: entry.subject,
        outcome: entry.outcome.as_str().to_owned(),
        detail: entry.detail,
    }
}

pub(super) fn answer(answer: Answer) -> AnswerBody {
    let Answer { proxy, generation, at, verdict } = answer;
    let refusal = match verdict {
        Verdict::Accepted => None,
        Verdict::Refused { kind, resource, field, reason } => Some(RefusalBody { kind, resource, field, reason }),
    };
    AnswerBody { proxy, generation, at: at.to_string(), refusal }
}

/// `left_out` says what a workload's proxy is not told in a form.
pub(super) fn proxy(status: ProxyStatus, left_out: impl Fn(&WorkloadKey, Form) -> Vec<String>) -> ProxyBody {
    let key = status.workload.split_once('/').and_then(|(namespace, name)| WorkloadKey::new(namespace, name));
    let left_out = key.filter(|_| status.form != Form::Outrigger).map(|key| left_out(&key, status.form));
    let refusals = status.kinds.iter().flat_map(|kind| {
        let word = outrigger_xds::Kind::from_type_url(&kind.type_url)
            .map_or_else(|| kind.type_url.clone(), |kind| format!("{kind:?}"));
        kind.refusals.iter().map(move |refused| RefusalBody {
            kind: word.clone(),
            resource: refused.resource.clone(),
            field: refused.field.clone(),
            reason: refused.reason.clone(),
        })
    });
    ProxyBody {
        refusals: refusals.collect(),
        left_out: left_out.unwrap_or_default(),
        state: format!("{:?}", status.state).to_lowercase(),
        proxy: status.workload,
        node: status.node,
        program: status.user_agent,
        generation: status.generation,
        accepted: status.accepted_generation,
        age_ms: status.age,
        address: status.address,
    }
}

pub(super) fn directory(state: DirectoryState) -> DirectoryStatus {
    let DirectoryState { path, files } = state;
    let files = files.into_iter().map(|FileState { file, namespaces, objects, problems }| FileStatus {
        file,
        namespaces,
        objects,
        problems: problems.iter().map(problem).collect(),
    });
    DirectoryStatus { path, files: files.collect() }
}
