//! Whatever is thrown at it, the loader answers: a configuration, or problems that point into the text.

use outrigger_config::{Severity, diff, load};
use proptest::prelude::*;

use crate::examples;

/// One way to damage a text.
#[derive(Debug, Clone)]
enum Damage {
    Cut(usize, usize),
    Insert(usize, String),
    DoubleLine(usize),
    SwapLines(usize, usize),
    DropLine(usize),
    IndentLine(usize, usize),
    ReplaceWord(usize, String),
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<usize>();
    let piece = prop_oneof![
        Just("\t"),
        Just(": "),
        Just("- "),
        Just("{"),
        Just("}"),
        Just("["),
        Just("]"),
        Just("\""),
        Just("'"),
        Just("&a "),
        Just("*a "),
        Just("<<: *a\n"),
        Just("!x "),
        Just("\n---\n"),
        Just("? "),
        Just("| "),
        Just("#"),
        Just("%"),
        Just("\u{0}"),
        Just("\u{feff}"),
        Just("\u{202e}"),
        Just("💥"),
        Just("\r"),
        Just(","),
        Just("\\"),
        Just("@"),
        Just("`"),
    ]
    .prop_map(str::to_owned);
    let word = prop_oneof![
        Just(""),
        Just("~"),
        Just("null"),
        Just("true"),
        Just("0"),
        Just("-1"),
        Just("18446744073709551616"),
        Just("1e9"),
        Just("0s"),
        Just("10"),
        Just("9999999999h"),
        Just("64KB"),
        Just("[]"),
        Just("{}"),
        Just("*"),
        Just("/"),
        Just("::"),
        Just("${"),
        Just("$9"),
        Just("(?x"),
        Just("(a"),
        Just("host"),
        Just("é"),
        Just("0.0.0.0:0"),
        Just("tls"),
        Just("off"),
        Just("strict"),
        Just("passthrough"),
        Just("simple"),
        Just("spiffe://a/*"),
        Just("spiffe://"),
        Just("-----BEGIN"),
        Just("::/0"),
        Just("0.0.0.0/0"),
        Just("255.255.255.255/33"),
        Just("::ffff:1.2.3.4/0"),
        Just("http://[::1]:0/"),
        Just("https://@:/"),
        Just("HS256"),
        Just("a..b"),
    ]
    .prop_map(str::to_owned);
    prop_oneof![
        (at, 0..40usize).prop_map(|(at, len)| Damage::Cut(at, len)),
        (at, prop_oneof![piece, ".{0,8}"]).prop_map(|(at, text)| Damage::Insert(at, text)),
        at.prop_map(Damage::DoubleLine),
        (at, any::<usize>()).prop_map(|(a, b)| Damage::SwapLines(a, b)),
        at.prop_map(Damage::DropLine),
        (at, 0..6usize).prop_map(|(at, by)| Damage::IndentLine(at, by)),
        (at, word).prop_map(|(at, word)| Damage::ReplaceWord(at, word)),
    ]
}

fn apply(text: &str, damage: &Damage) -> String {
    let boundary = |at: usize| {
        let mut at = at % (text.len() + 1);
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
    let count = lines.len().max(1);
    match damage {
        Damage::Cut(at, len) => {
            let start = boundary(*at);
            let end = boundary((start + len).min(text.len())).max(start);
            format!("{}{}", &text[..start], &text[end..])
        }
        Damage::Insert(at, piece) => {
            let at = boundary(*at);
            format!("{}{piece}{}", &text[..at], &text[at..])
        }
        Damage::DoubleLine(at) => {
            if let Some(line) = lines.get(at % count).copied() {
                lines.insert(at % count, line);
            }
            lines.concat()
        }
        Damage::SwapLines(a, b) => {
            if !lines.is_empty() {
                lines.swap(a % count, b % count);
            }
            lines.concat()
        }
        Damage::DropLine(at) => {
            if !lines.is_empty() {
                lines.remove(at % count);
            }
            lines.concat()
        }
        Damage::IndentLine(at, by) => {
            let indented = format!("{}{}", " ".repeat(*by), lines.get(at % count).map_or("", |line| line.trim_start()));
            if let Some(line) = lines.get_mut(at % count) {
                *line = &indented;
            }
            lines.concat()
        }
        Damage::ReplaceWord(at, word) => {
            let at = boundary(*at);
            let delimiter = |c: char| c.is_whitespace() || ",[]{}".contains(c);
            let start = text[..at].rfind(delimiter).map_or(0, |i| i + 1);
            let end = text[at..].find(delimiter).map_or(text.len(), |i| at + i);
            format!("{}{word}{}", &text[..start], &text[end..])
        }
    }
}

/// What must hold of every answer.
fn answers_well(text: &str) -> Result<(), TestCaseError> {
    let lines: Vec<&str> = text.split(['\n', '\r']).collect();
    let problems = match load("a.yaml", text) {
        Ok(loaded) => {
            prop_assert!(loaded.warnings.iter().all(|w| w.severity == Severity::Warning));
            let again = load("a.yaml", text).expect("it loaded before");
            prop_assert!(diff(&loaded.config, &again.config).is_empty());
            loaded.warnings
        }
        Err(problems) => {
            prop_assert!(problems.errors() > 0);
            problems
        }
    };
    for problem in &problems {
        let line = problem.place.line as usize;
        prop_assert!(line >= 1 && line <= lines.len() + 1, "{problem}");
        prop_assert!(!problem.message.is_empty() && !problem.fix.is_empty(), "{problem}");
        prop_assert!(!problem.to_string().contains(|c: char| c.is_control() && c != '\n'), "{problem:?}");
    }
    prop_assert!(serde_json::to_string(&problems).is_ok());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_examples_are_answered(which in any::<usize>(), damages in prop::collection::vec(damage(), 1..6)) {
        let all = examples::all();
        let mut text = all[which % all.len()].1.clone();
        for damage in &damages {
            text = apply(&text, damage);
        }
        answers_well(&text)?;
    }

    #[test]
    fn any_text_is_answered(text in "\\PC*") {
        answers_well(&text)?;
    }

    #[test]
    fn any_yaml_like_text_is_answered(text in "[-a-c:\\[\\]{},&*!|>'\"%@`#? \n\t]{0,200}") {
        answers_well(&text)?;
    }
}
