//! One syntax error must not hide the next: when the whole text does not parse, its sections are parsed one by one.

use super::parse::{Builder, Offset, Stop, unique};
use super::{Kind, Tree, syntax};
use crate::sink::Sink;
use crate::source::Span;

/// The fields at the top of a configuration. A line that begins with one of these, at the margin, begins a section.
pub(crate) const SECTIONS: [&str; 8] =
    ["node", "admin", "accessLog", "workers", "drain", "listeners", "routes", "clusters"];

/// Parses a text. Syntax errors are reported to `sink`; what could be read in spite of them is in the tree.
pub(crate) fn parse<'t>(sink: &Sink<'t>) -> Tree<'t> {
    let text = sink.source.text;
    let mut tree = Tree { nodes: Vec::with_capacity(text.len() / 12), root: None, incomplete: false };
    match Builder::new(&mut tree, sink, Offset::default(), true).run(text) {
        Ok(root) => tree.root = root,
        Err(Stop::Limit) => tree.incomplete = true,
        Err(Stop::Syntax(first)) => {
            tree = Tree { nodes: Vec::new(), root: None, incomplete: true };
            let mut failed = false;
            let mut pairs = Vec::new();
            for (offset, section) in sections(text) {
                match Builder::new(&mut tree, sink, offset, false).run(section) {
                    Ok(Some(root)) => {
                        if let Kind::Map(more) = &tree.node(root).kind {
                            pairs.extend_from_slice(more);
                        }
                    }
                    Ok(None) | Err(Stop::Limit) => {}
                    Err(Stop::Syntax(error)) => {
                        failed = true;
                        syntax::report(sink, &error, offset);
                    }
                }
            }
            if failed {
                let pairs = unique(&tree, sink, pairs);
                tree.root = Some(tree.add(Span::START, Kind::Map(pairs)));
            } else {
                // Each section is sound alone, so the fault is between them and nothing can be said of the parts.
                syntax::report(sink, &first, Offset::default());
                tree.root = None;
            }
        }
    }
    tree
}

/// Parses a text that is one document of any kind. A syntax error ends it: there are no sections to go on with.
pub(crate) fn parse_one<'t>(sink: &Sink<'t>) -> Tree<'t> {
    let text = sink.source.text;
    let mut tree = Tree { nodes: Vec::with_capacity(text.len() / 12), root: None, incomplete: false };
    match Builder::new(&mut tree, sink, Offset::default(), true).run(text) {
        Ok(root) => tree.root = root,
        Err(stop) => {
            if let Stop::Syntax(error) = stop {
                syntax::report(sink, &error, Offset::default());
            }
            tree.incomplete = true;
        }
    }
    tree
}

/// What is above the first section, if anything, and the sections.
fn sections(text: &str) -> Vec<(Offset, &str)> {
    let mut cuts = vec![Offset::default()];
    let mut bytes = 0;
    for (line, content) in text.split_inclusive('\n').enumerate() {
        if bytes > 0 && begins_section(content) {
            cuts.push(Offset { bytes, lines: u32::try_from(line).unwrap_or(u32::MAX) });
        }
        bytes += u32::try_from(content.len()).unwrap_or(u32::MAX);
    }
    let ends = cuts.iter().skip(1).map(|c| c.bytes as usize).chain([text.len()]);
    cuts.iter().zip(ends).map(|(cut, end)| (*cut, text.get(cut.bytes as usize..end).unwrap_or_default())).collect()
}

fn begins_section(line: &str) -> bool {
    let Some((key, rest)) = line.split_once(':') else { return false };
    SECTIONS.contains(&key.trim_end()) && (rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}
