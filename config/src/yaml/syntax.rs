//! Syntax errors in words that help.

use granit_parser::{ErrorKind, ScanError};

use super::parse::Offset;
use crate::limits::MAX_DEPTH;
use crate::sink::Sink;
use crate::source::Span;

/// Reports a syntax error of the part of a text that begins at `offset`.
pub(super) fn report(sink: &Sink<'_>, error: &ScanError, offset: Offset) {
    let marker = error.marker();
    let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let start = small(marker.byte_offset().unwrap_or(0)).saturating_add(offset.bytes);
    let span = Span { start, end: start, line: small(marker.line()) + offset.lines, column: small(marker.col()) + 1 };
    let (message, fix) = explain(error.kind());
    let span = if is_tab(error.kind()) { find_tab(sink.source.text, span) } else { span };
    sink.error(span, message, fix);
}

fn is_tab(kind: &ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::TabNotAllowed
            | ErrorKind::TabInBlockIndentation
            | ErrorKind::TabInIndentation
            | ErrorKind::TabAtBlockScalarStart
            | ErrorKind::TabInPlainScalar
    )
}

/// The scanner may notice a tab while it still stands on the line above: the next line that is indented by one.
fn find_tab(text: &str, span: Span) -> Span {
    let before = text.get(..span.start as usize).unwrap_or_default();
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let lines = text.get(line_start..).unwrap_or_default().split_inclusive('\n').take(TAB_LINES);
    let mut start = line_start;
    for (number, line) in (span.line..).zip(lines) {
        let indentation = line.len() - line.trim_start_matches([' ', '\t']).len();
        if let Some(tab) = line[..indentation].find('\t') {
            let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            return Span {
                start: small(start + tab),
                end: small(start + tab + 1),
                line: number,
                column: small(tab + 1),
            };
        }
        start += line.len();
    }
    span
}

/// Lines that are looked at for a tab.
const TAB_LINES: usize = 3;

fn explain(kind: &ErrorKind) -> (String, &'static str) {
    match kind {
        kind if is_tab(kind) => {
            ("a tab is used for indentation".to_owned(), "indent with spaces: YAML does not allow tabs")
        }
        ErrorKind::UnclosedFlowCollection { open } => {
            (format!("the bracket `{open}` is never closed"), "close it, or remove it")
        }
        ErrorKind::UnexpectedEofFlowMapping | ErrorKind::UnexpectedEofImplicitFlowMapping => {
            ("the bracket `{` is never closed".to_owned(), "close it, or remove it")
        }
        ErrorKind::UnexpectedEofFlowSequence => {
            ("the bracket `[` is never closed".to_owned(), "close it, or remove it")
        }
        ErrorKind::MismatchedFlowCollectionEnd { open, close } => {
            (format!("`{open}` is closed by `{close}`"), "close brackets in the order in which they were opened")
        }
        ErrorKind::MisplacedFlowCollectionEnd => {
            ("this bracket closes nothing".to_owned(), "remove it, or open the bracket that it closes")
        }
        ErrorKind::ExpectedFlowMappingSeparator | ErrorKind::ExpectedFlowSequenceSeparator => (
            "a comma or the closing bracket is missing before this".to_owned(),
            "separate entries inside `{…}` and `[…]` by commas",
        ),
        ErrorKind::UnclosedQuotedScalar | ErrorKind::DocumentIndicatorInQuotedScalar => {
            ("a quoted text is never closed".to_owned(), "put the closing quote")
        }
        ErrorKind::UnknownQuotedScalarEscape => (
            "this escape is unknown".to_owned(),
            "double every backslash inside \"…\", or use '…', where a backslash is only a backslash",
        ),
        ErrorKind::MappingValueNotAllowed | ErrorKind::MappingKeyNotAllowed => (
            "a `key: value` cannot stand here".to_owned(),
            "give this line the indentation of the entry that it belongs to, or quote the text if its `: ` is meant literally",
        ),
        ErrorKind::SimpleKeyExpected | ErrorKind::InvalidSimpleKey => {
            ("a `:` is missing after this key".to_owned(), "write `key: value`")
        }
        ErrorKind::ExpectedBlockMappingKey
        | ErrorKind::InvalidIndentation
        | ErrorKind::ExpectedBlockSequenceEntry
        | ErrorKind::BlockSequenceEntryNotAllowed
        | ErrorKind::BlockEntryInFlowCollection => (
            "this line is not part of the list or mapping above it".to_owned(),
            "give the entries of one list or mapping the same indentation",
        ),
        ErrorKind::RecursionLimitExceeded => (
            format!("more than {MAX_DEPTH} lists and mappings inside each other"),
            "no setting is that deep: look for a bracket or an indentation too many",
        ),
        ErrorKind::UnexpectedCharacter { character } => {
            (format!("`{}` cannot begin a value", character.escape_default()), "quote the text")
        }
        ErrorKind::InvalidTrailingSingleQuotedScalar | ErrorKind::InvalidTrailingDoubleQuotedScalar => (
            "there is text behind the closing quote".to_owned(),
            "put all of the text inside the quotes, or a comma before the next entry",
        ),
        other => (
            format!("this is not valid YAML: {other}"),
            "look at the indentation, brackets and quotes here and just above",
        ),
    }
}
