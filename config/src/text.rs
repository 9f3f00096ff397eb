//! Words for messages: quoting what was written, and guessing what was meant.

use crate::source::printable;

/// `text` as it may stand inside a message: one line, printable, of bounded length.
#[must_use]
pub fn quoted(text: &str) -> String {
    let mut out: String =
        text.chars().take(MAX_QUOTED).map(|c| if c == '\n' || c == '\r' { ' ' } else { printable(c) }).collect();
    if text.chars().nth(MAX_QUOTED).is_some() {
        out.push('…');
    }
    out
}

/// `` `a`, `b` or `c` ``, shortened when there are many.
#[must_use]
pub fn one_of<S: AsRef<str>>(words: &[S]) -> String {
    let quoted: Vec<String> = words.iter().map(|w| format!("`{}`", w.as_ref())).collect();
    match quoted.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        [init @ .., last] => format!("{} or {last}", init.join(", ")),
    }
}

/// The candidate that `word` is most likely a slip of, if any is near enough.
#[must_use]
pub fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    if word.len() > MAX_GUESSED {
        return None;
    }
    let lower = word.to_ascii_lowercase();
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates {
        // A third of the letters: between words of one or two, any slip makes another word.
        let allowed = (word.len().max(candidate.len()) / 3).min(3);
        if candidate.len().abs_diff(word.len()) > allowed || candidate.len() > MAX_GUESSED {
            continue;
        }
        let distance = distance(&lower, &candidate.to_ascii_lowercase());
        if distance <= allowed && best.is_none_or(|(d, _)| distance < d) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// Optimal string alignment: insertions, deletions, substitutions and swaps of neighbours.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before = vec![0; b.len() + 1];
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let cost = usize::from(a[i - 1] != b[j - 1]);
            row[j] = (above[j] + 1).min(row[j - 1] + 1).min(above[j - 1] + cost);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

/// Characters of a quoted text.
const MAX_QUOTED: usize = 60;
/// Bytes of a word that is worth a guess.
const MAX_GUESSED: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_one_letter_finds_its_word() {
        assert_eq!(nearest("hostanmes", ["hostnames", "rules"]), Some("hostnames"));
        assert_eq!(nearest("paymnets-v1", ["payments-v1", "payments-v2"]), Some("payments-v1"));
        assert_eq!(nearest("acceslog", ["accessLog", "admin"]), Some("accessLog"));
    }

    #[test]
    fn a_different_word_finds_nothing() {
        assert_eq!(nearest("zzz", ["hostnames", "rules"]), None);
        assert_eq!(nearest("d", ["c"]), None);
        assert_eq!(nearest("ap", ["app"]), Some("app"));
    }

    #[test]
    fn quoted_text_is_one_printable_line_of_bounded_length() {
        assert_eq!(quoted("a\nb\u{1b}[31m"), "a b\u{fffd}[31m");
        assert_eq!(quoted(&"x".repeat(1000)).chars().count(), MAX_QUOTED + 1);
    }
}
