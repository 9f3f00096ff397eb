//! When trust shrinks: pools of connections that were made under more trust take no new requests.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::trust::Revoked;

/// Where roots come from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    /// The bundles of the mesh.
    Mesh,
    /// A bundle that is named for itself.
    File(PathBuf),
}

/// A number for each source that goes up whenever something was taken out of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Epochs {
    /// The highest number given so far.
    last: u64,
    /// Sources that left the configuration stay: they may come back with less.
    sources: BTreeMap<Source, (u64, BTreeSet<[u8; 32]>)>,
    revoked: Revoked,
}

impl Epochs {
    /// After `previous`, with the roots and the revocations of now.
    pub(super) fn next(
        previous: Option<&Self>,
        sources: BTreeMap<Source, BTreeSet<[u8; 32]>>,
        revoked: Revoked,
    ) -> Self {
        let mut next = previous.cloned().unwrap_or_default();
        // A list counts for whichever source its issuer is in.
        let newly_revoked = previous.is_some() && !revoked.is_subset(&next.revoked);
        next.revoked = revoked;
        for (source, roots) in sources {
            let epoch = match next.sources.get(&source) {
                Some((epoch, known)) if known.is_subset(&roots) && !newly_revoked => *epoch,
                Some(_) => {
                    next.last += 1;
                    next.last
                }
                None => next.last,
            };
            next.sources.insert(source, (epoch, roots));
        }
        next
    }

    pub(super) fn of(&self, source: &Source) -> u64 {
        self.sources.get(source).map_or(self.last, |(epoch, _)| *epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roots(which: &[u8]) -> BTreeMap<Source, BTreeSet<[u8; 32]>> {
        BTreeMap::from([(Source::Mesh, which.iter().map(|root| [*root; 32]).collect())])
    }

    fn revoked(which: &[u8]) -> Revoked {
        which.iter().map(|serial| (Box::default(), [*serial].into())).collect()
    }

    #[test]
    fn only_what_is_taken_away_counts() {
        let first = Epochs::next(None, roots(&[1]), revoked(&[7]));
        let added = Epochs::next(Some(&first), roots(&[1, 2]), revoked(&[7]));
        assert_eq!(added.of(&Source::Mesh), first.of(&Source::Mesh), "a root more");
        let removed = Epochs::next(Some(&added), roots(&[2]), revoked(&[7]));
        assert!(removed.of(&Source::Mesh) > added.of(&Source::Mesh), "a root less");
        let revoked_one = Epochs::next(Some(&removed), roots(&[2]), revoked(&[7, 8]));
        assert!(revoked_one.of(&Source::Mesh) > removed.of(&Source::Mesh), "a certificate revoked");
        let expired = Epochs::next(Some(&revoked_one), roots(&[2]), revoked(&[8]));
        assert_eq!(expired.of(&Source::Mesh), revoked_one.of(&Source::Mesh), "an entry left the list");
    }

    #[test]
    fn a_source_that_comes_back_with_less_is_noticed() {
        let first = Epochs::next(None, roots(&[1, 2]), Revoked::default());
        let gone = Epochs::next(Some(&first), BTreeMap::new(), Revoked::default());
        let back = Epochs::next(Some(&gone), roots(&[1]), Revoked::default());
        assert!(back.of(&Source::Mesh) > first.of(&Source::Mesh));
    }
}
