//! Saying that the health of endpoints changed, without a line for each when many change at once.

use std::time::Instant;

use parking_lot::Mutex;

use crate::base::limits;

/// What was said of one cluster.
#[derive(Debug, Default)]
pub struct News(Mutex<Said>);

#[derive(Debug, Default)]
struct Said {
    /// Since when lines are counted.
    since: Option<Instant>,
    lines: u32,
    /// Those that were not said.
    unsaid: u64,
}

impl News {
    /// Whether there may be a line; then how many were left out before it.
    pub(in crate::upstream) fn is_news(&self, now: Instant) -> Option<u64> {
        let mut said = self.0.lock();
        let since = *said.since.get_or_insert(now);
        if now.saturating_duration_since(since) >= limits::HEALTH_LOG {
            said.since = Some(now);
            said.lines = 0;
        }
        if said.lines >= limits::HEALTH_LOG_LINES {
            said.unsaid += 1;
            return None;
        }
        said.lines += 1;
        Some(std::mem::take(&mut said.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_lines_in_a_while_and_then_how_many_were_left_out() {
        let news = News::default();
        let start = Instant::now();
        for _ in 0..limits::HEALTH_LOG_LINES {
            assert_eq!(news.is_news(start), Some(0));
        }
        assert_eq!((news.is_news(start), news.is_news(start)), (None, None));
        let later = start + limits::HEALTH_LOG;
        assert_eq!((news.is_news(later), news.is_news(later)), (Some(2), Some(0)));
    }
}
