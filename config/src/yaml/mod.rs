//! YAML as a tree in which every value knows its place.
//!
//! A deserialiser that stops at the first mistake cannot tell people all of them, so the text is first parsed into
//! this tree. What a value should be is decided later, by the reader; here a scalar is only text.

mod parse;
mod recover;
mod syntax;

use std::borrow::Cow;

pub(crate) use recover::{parse, parse_one};

use crate::source::Span;

/// A parsed document.
#[derive(Debug)]
pub(crate) struct Tree<'t> {
    nodes: Vec<Node<'t>>,
    /// `None` for a text without any value.
    pub(crate) root: Option<NodeId>,
    /// The text has syntax errors (already reported) and parts of it are not in the tree.
    pub(crate) incomplete: bool,
}

/// Index of a node in its tree. An alias is the same index in a second place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NodeId(u32);

#[derive(Debug)]
pub(crate) struct Node<'t> {
    pub(crate) span: Span,
    pub(crate) kind: Kind<'t>,
    /// Values in this node with aliases counted in full.
    weight: u32,
    /// Collections inside each other, this one included.
    height: u16,
}

#[derive(Debug)]
pub(crate) enum Kind<'t> {
    Scalar {
        text: Cow<'t, str>,
        /// Written without quotes.
        plain: bool,
    },
    Seq(Vec<NodeId>),
    /// Keys are plain or quoted scalars, each once.
    Map(Vec<(NodeId, NodeId)>),
    /// Something was wrong here and has been reported.
    Broken,
}

impl<'t> Tree<'t> {
    pub(crate) fn node(&self, id: NodeId) -> &Node<'t> {
        &self.nodes[id.0 as usize]
    }

    /// The text of a scalar.
    pub(crate) fn text(&self, id: NodeId) -> Option<&str> {
        match &self.node(id).kind {
            Kind::Scalar { text, .. } => Some(text),
            Kind::Seq(_) | Kind::Map(_) | Kind::Broken => None,
        }
    }

    fn add(&mut self, span: Span, kind: Kind<'t>) -> NodeId {
        let (mut weight, mut height) = (1u32, 0u16);
        let mut count = |id: NodeId, nodes: &[Node<'t>]| {
            let node = &nodes[id.0 as usize];
            weight = weight.saturating_add(node.weight);
            height = height.max(node.height);
        };
        match &kind {
            Kind::Seq(items) => items.iter().for_each(|id| count(*id, &self.nodes)),
            Kind::Map(pairs) => pairs.iter().for_each(|(_, id)| count(*id, &self.nodes)),
            Kind::Scalar { .. } | Kind::Broken => {}
        }
        if matches!(kind, Kind::Seq(_) | Kind::Map(_)) {
            height = height.saturating_add(1);
        }
        let id = NodeId(u32::try_from(self.nodes.len()).unwrap_or(u32::MAX));
        self.nodes.push(Node { span, kind, weight, height });
        id
    }
}

impl Node<'_> {
    /// True for `null`, `~` and nothing at all.
    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.kind, Kind::Scalar { text, plain: true } if matches!(&**text, "" | "~" | "null" | "Null" | "NULL"))
    }
}
