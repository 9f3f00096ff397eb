//! Field values of which a process makes few, and copies many times: what configurations say.
//!
//! A copy of any other value counts its owners, which is an atomic operation for each copy and each end of one, and a
//! field is copied and dropped several times on its way. These are kept for as long as the process lives, so nobody
//! needs to count.

use std::collections::HashSet;
use std::sync::LazyLock;

use http::HeaderValue;
use parking_lot::Mutex;

use crate::base::limits;

/// The same value, of which copies cost nothing. For what comes of configuration: it is never given back. A value that
/// is long, is no text, or comes when there are as many as may be, stays as it is.
#[must_use]
pub fn lasting(value: HeaderValue) -> HeaderValue {
    static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);
    KNOWN.lock().keep(value, limits::LASTING_VALUES)
}

#[derive(Debug, Default)]
struct Known(HashSet<&'static str>);

impl Known {
    fn keep(&mut self, value: HeaderValue, most: usize) -> HeaderValue {
        let Ok(text) = value.to_str() else { return value };
        if value.is_sensitive() || text.len() > limits::LASTING_VALUE_BYTES {
            return value;
        }
        let known = match self.0.get(text) {
            Some(known) => *known,
            None if self.0.len() < most => {
                let new: &'static str = Box::leak(text.into());
                self.0.insert(new);
                new
            }
            None => return value,
        };
        // It is one: it was read from one.
        HeaderValue::from_static(known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> HeaderValue {
        HeaderValue::try_from(text).expect("a value")
    }

    fn place(value: &HeaderValue) -> *const u8 {
        value.as_bytes().as_ptr()
    }

    #[test]
    fn a_value_is_kept_once() {
        let (one, other) = (lasting(value("15000m")), lasting(value("15000m")));
        assert_eq!(one, "15000m");
        assert_eq!(place(&one), place(&other));
        assert_ne!(place(&one), place(&lasting(value("14999m"))));
    }

    #[test]
    fn no_more_are_kept_than_may_be_and_none_that_is_long_or_sensitive() {
        let mut known = Known::default();
        let kept = known.keep(value("1"), 1);
        assert_eq!(place(&known.keep(value("1"), 1)), place(&kept));
        let more = value("2");
        assert_eq!(known.keep(more.clone(), 1), more);
        let long = value(&"x".repeat(limits::LASTING_VALUE_BYTES + 1));
        assert_eq!(known.keep(long.clone(), 9), long);
        let mut sensitive = value("3");
        sensitive.set_sensitive(true);
        assert!(known.keep(sensitive, 9).is_sensitive());
        let no_text = HeaderValue::from_bytes(b"\xfa").expect("a value");
        assert_eq!(known.keep(no_text.clone(), 9), no_text);
        assert_eq!(known.0.len(), 1);
    }
}
