//! Events of the YAML scanner to a tree, with limits on depth, size and repetition.

use std::collections::{HashMap, HashSet};

use granit_parser::{Event, Marker, Parser, ScalarStyle, ScanError};

use super::{Kind, NodeId, Tree};
use crate::limits::{MAX_ALIASED_NODES, MAX_DEPTH, MAX_NODES};
use crate::sink::Sink;
use crate::source::Span;

/// Where in the whole text the parsed part begins.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Offset {
    pub(super) bytes: u32,
    pub(super) lines: u32,
}

/// Why a part could not be parsed to its end.
#[derive(Debug)]
pub(super) enum Stop {
    /// A syntax error; not reported yet.
    Syntax(ScanError),
    /// A limit, reported.
    Limit,
}

/// Builds nodes of one part of a text into a tree that several parts may share.
pub(super) struct Builder<'b, 't> {
    tree: &'b mut Tree<'t>,
    sink: &'b Sink<'t>,
    offset: Offset,
    /// An alias without an anchor is a mistake only when the whole text was seen.
    whole: bool,
    /// Finished anchors; `None` while the anchored value is still open.
    anchors: HashMap<usize, Option<NodeId>>,
    aliased: usize,
    stack: Vec<Frame>,
    root: Option<NodeId>,
}

/// A collection that is still open.
struct Frame {
    start: Span,
    anchor: usize,
    items: Items,
}

enum Items {
    Seq(Vec<NodeId>),
    Map { key: Option<NodeId>, pairs: Vec<(NodeId, NodeId)>, merges: Vec<(NodeId, NodeId)> },
}

impl<'b, 't> Builder<'b, 't> {
    pub(super) fn new(tree: &'b mut Tree<'t>, sink: &'b Sink<'t>, offset: Offset, whole: bool) -> Self {
        let (anchors, stack) = (HashMap::new(), Vec::new());
        Self { tree, sink, offset, whole, anchors, aliased: 0, stack, root: None }
    }

    /// Parses `text` and returns its root, or `None` where there is no value.
    pub(super) fn run(mut self, text: &'t str) -> Result<Option<NodeId>, Stop> {
        let options = granit_parser::options! {
            emit_unresolved_aliases: true,
            emit_comments: false,
            flow_nesting_limit: MAX_DEPTH,
            block_nesting_limit: MAX_DEPTH,
        };
        let mut documents = 0;
        for event in Parser::new_from_str_with_options(text, options) {
            let (event, span) = event.map_err(Stop::Syntax)?;
            let at = self.span(span);
            if self.tree.nodes.len() >= MAX_NODES {
                self.sink.error(
                    at,
                    format!("the configuration has more than {MAX_NODES} values"),
                    "split it over several proxies, or generate less",
                );
                return Err(Stop::Limit);
            }
            match event {
                Event::DocumentStart(..) => {
                    documents += 1;
                    if documents > 1 {
                        self.sink.error(
                            at,
                            "a second YAML document begins here",
                            "keep one document in a file: remove the `---` and what does not belong",
                        );
                        return Err(Stop::Limit);
                    }
                }
                Event::Scalar(text, style, anchor, tag) => {
                    self.check_tag(at, tag.as_deref());
                    let plain = style == ScalarStyle::Plain;
                    let id = self.tree.add(at, Kind::Scalar { text, plain });
                    self.finish(id, anchor);
                }
                Event::SequenceStart(_, anchor, tag) => {
                    self.check_tag(at, tag.as_deref());
                    self.open(at, anchor, Items::Seq(Vec::new()))?;
                }
                Event::MappingStart(_, anchor, tag) => {
                    self.check_tag(at, tag.as_deref());
                    self.open(at, anchor, Items::Map { key: None, pairs: Vec::new(), merges: Vec::new() })?;
                }
                Event::SequenceEnd | Event::MappingEnd => self.close(at),
                Event::Alias(anchor) => {
                    let id = self.alias(at, anchor)?;
                    self.finish(id, 0);
                }
                Event::UnresolvedAlias(name) => {
                    if self.whole {
                        self.sink.error(
                            at,
                            format!("there is no anchor `&{}` above this alias", shorten(&name)),
                            "define the anchor before it is used, or quote the text if no alias was meant",
                        );
                    }
                    let id = self.tree.add(at, Kind::Broken);
                    self.finish(id, 0);
                }
                // Stream and document marks, and whatever a later parser version adds beside values.
                _ => {}
            }
        }
        Ok(self.root)
    }

    fn span(&self, span: granit_parser::Span) -> Span {
        let offset = |m: Marker| u32::try_from(m.byte_offset().unwrap_or(0)).unwrap_or(u32::MAX);
        let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Span {
            start: offset(span.start) + self.offset.bytes,
            end: offset(span.end) + self.offset.bytes,
            line: small(span.start.line()) + self.offset.lines,
            column: small(span.start.col()) + 1,
        }
    }

    /// `!!str` and its kin say what the reader will check anyway; a tag of somebody else's means something here that
    /// would be lost.
    fn check_tag(&self, at: Span, tag: Option<&granit_parser::Tag>) {
        if let Some(tag) = tag.filter(|t| !t.is_yaml_core_schema()) {
            self.sink.error(
                at,
                format!("the tag `{}` means nothing here", shorten(&tag.original())),
                "remove the tag; a value's meaning comes from its field",
            );
        }
    }

    fn open(&mut self, start: Span, anchor: usize, items: Items) -> Result<(), Stop> {
        if self.stack.len() >= MAX_DEPTH {
            self.too_deep(start);
            return Err(Stop::Limit);
        }
        if anchor != 0 {
            self.anchors.insert(anchor, None);
        }
        self.stack.push(Frame { start, anchor, items });
        Ok(())
    }

    fn too_deep(&self, at: Span) {
        self.sink.error(
            at,
            format!("more than {MAX_DEPTH} lists and mappings inside each other"),
            "no setting is that deep: look for a bracket or an indentation too many",
        );
    }

    fn close(&mut self, end: Span) {
        let Some(Frame { start, anchor, items }) = self.stack.pop() else { return };
        let span = Span { end: end.end.max(start.end), ..start };
        let kind = match items {
            Items::Seq(items) => Kind::Seq(items),
            Items::Map { pairs, merges, .. } => {
                let mut pairs = unique(self.tree, self.sink, pairs);
                for (key, value) in merges {
                    self.merge(&mut pairs, key, value);
                }
                Kind::Map(pairs)
            }
        };
        let id = self.tree.add(span, kind);
        self.finish(id, anchor);
    }

    /// Puts a finished node where it belongs.
    fn finish(&mut self, id: NodeId, anchor: usize) {
        if anchor != 0 {
            self.anchors.insert(anchor, Some(id));
        }
        match self.stack.last_mut().map(|frame| &mut frame.items) {
            None => self.root = Some(id),
            Some(Items::Seq(items)) => items.push(id),
            Some(Items::Map { key, pairs, merges }) => match key.take() {
                None => *key = Some(id),
                Some(name) if is_merge(self.tree, name) => merges.push((name, id)),
                Some(name) => pairs.push((name, id)),
            },
        }
    }

    fn alias(&mut self, at: Span, anchor: usize) -> Result<NodeId, Stop> {
        let Some(Some(id)) = self.anchors.get(&anchor).copied() else {
            self.sink.error(at, "this alias stands inside the value that it names", "write the value out");
            return Ok(self.tree.add(at, Kind::Broken));
        };
        let node = self.tree.node(id);
        self.aliased = self.aliased.saturating_add(node.weight as usize);
        if self.aliased > MAX_ALIASED_NODES {
            self.sink.error(
                at,
                format!("aliases repeat more than {MAX_ALIASED_NODES} values up to here"),
                "write the values out, or give the repeated part a name of its own (a cluster, a route table)",
            );
            return Err(Stop::Limit);
        }
        if self.stack.len() + usize::from(node.height) > MAX_DEPTH {
            self.too_deep(at);
            return Err(Stop::Limit);
        }
        Ok(id)
    }

    /// `<<: *base` or `<<: [*a, *b]`: keys that are already there win.
    fn merge(&self, pairs: &mut Vec<(NodeId, NodeId)>, key: NodeId, value: NodeId) {
        let bases = match &self.tree.node(value).kind {
            Kind::Seq(items) => items.as_slice(),
            _ => std::slice::from_ref(&value),
        };
        for base in bases {
            match &self.tree.node(*base).kind {
                Kind::Map(base) => {
                    let have: HashSet<&str> = pairs.iter().filter_map(|(k, _)| self.tree.text(*k)).collect();
                    let new: Vec<_> =
                        base.iter().filter(|(k, _)| self.tree.text(*k).is_some_and(|k| !have.contains(k))).collect();
                    pairs.extend(new);
                }
                Kind::Broken => {}
                Kind::Scalar { .. } | Kind::Seq(_) => self.sink.error(
                    self.tree.node(key).span,
                    "`<<` merges a mapping, and this is none",
                    "write `<<: *name` where `&name` marks a mapping",
                ),
            }
        }
    }
}

/// Reports keys that are no words and keys that come twice, and keeps the others.
pub(super) fn unique<'t>(tree: &Tree<'t>, sink: &Sink<'t>, pairs: Vec<(NodeId, NodeId)>) -> Vec<(NodeId, NodeId)> {
    let mut seen: HashMap<&str, NodeId> = HashMap::with_capacity(pairs.len());
    let mut kept = Vec::with_capacity(pairs.len());
    for (key, value) in pairs {
        let node = tree.node(key);
        let text = match &node.kind {
            Kind::Scalar { text, .. } if !node.is_null() => text,
            Kind::Broken => continue,
            Kind::Scalar { .. } | Kind::Seq(_) | Kind::Map(_) => {
                sink.error(node.span, "a key must be a word", "write `name: value`; quote the name if it is unusual");
                continue;
            }
        };
        if let Some(first) = seen.get(&**text) {
            sink.error_with(
                node.span,
                (tree.node(*first).span, "the first one is here"),
                (format!("`{}` is set twice", shorten(text)), "keep one of the two".to_owned()),
            );
            continue;
        }
        seen.insert(text, key);
        kept.push((key, value));
    }
    kept
}

fn is_merge(tree: &Tree<'_>, key: NodeId) -> bool {
    matches!(&tree.node(key).kind, Kind::Scalar { text, plain: true } if text == "<<")
}

fn shorten(text: &str) -> String {
    crate::text::quoted(text)
}
