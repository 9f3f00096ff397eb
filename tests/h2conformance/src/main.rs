//! `h2conformance ADDRESS [--path PATH] [--authority NAME] [--only PREFIX]`: plays the cases against a running server.
//!
//! Prints a line for each, and ends with status 1 when one failed.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use outrigger_h2conformance::{Outcome, Target, all};

fn main() -> anyhow::Result<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    let address =
        arguments.next().context("usage: h2conformance ADDRESS [--path PATH] [--authority NAME] [--only PREFIX]")?;
    let mut target = Target::new(address.parse().with_context(|| format!("not an address: {address}"))?);
    let mut only = String::new();
    while let Some(option) = arguments.next() {
        let value = arguments.next().with_context(|| format!("{option} needs a value"))?;
        match option.as_str() {
            "--path" => target.path = value,
            "--authority" => target.authority = value,
            "--only" => only = value,
            _ => anyhow::bail!("unknown option {option}"),
        }
    }
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(play(&target, &only))
}

async fn play(target: &Target, only: &str) -> anyhow::Result<ExitCode> {
    let mut stdout = std::io::stdout();
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for case in all(target).iter().filter(|case| case.name().starts_with(only)) {
        let result = case.run(target).await;
        match result.outcome {
            Outcome::Passed => passed += 1,
            Outcome::Failed(_) => failed += 1,
            Outcome::Skipped(_) => skipped += 1,
        }
        writeln!(stdout, "{result}")?;
    }
    writeln!(stdout, "{passed} passed, {failed} failed, {skipped} skipped")?;
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
