//! Scenario files: commands, each followed by what it is expected to print.
//!
//! A line that begins in the first column is a command or a comment; indented lines below a command are its output.
//! `unit NAME <<END` takes the lines up to `END` as a unit file. With `FLEET_BLESS=1` the file is rewritten with what
//! the commands print now; the diff of that is the review of a change.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;

use super::cluster::Cluster;
use super::{commands, simulate};

const INDENT: &str = "    ";

/// One piece of a file.
#[derive(Debug, PartialEq, Eq)]
enum Piece {
    /// Kept as it is.
    Remark(String),
    Command {
        line: String,
        text: Option<String>,
        expected: Vec<String>,
    },
}

fn parse(script: &str) -> anyhow::Result<Vec<Piece>> {
    let mut pieces: Vec<Piece> = Vec::new();
    let mut lines = script.lines();
    while let Some(line) = lines.next() {
        if let Some(output) = line.strip_prefix(INDENT) {
            match pieces.last_mut() {
                Some(Piece::Command { expected, .. }) => expected.push(output.to_owned()),
                _ => anyhow::bail!("output without a command: {line:?}"),
            }
        } else if line.trim().is_empty() || line.starts_with('#') {
            pieces.push(Piece::Remark(line.to_owned()));
        } else {
            let text = match line.split_once(" <<") {
                None => None,
                Some((_, end)) => {
                    let body = lines.by_ref().take_while(|line| *line != end);
                    Some(body.map(|line| format!("{line}\n")).collect())
                }
            };
            pieces.push(Piece::Command { line: line.to_owned(), text, expected: Vec::new() });
        }
    }
    Ok(pieces)
}

/// Runs a file in a paused runtime of its own and compares what it prints.
///
/// # Panics
/// When it prints something else than the file says, or a command cannot be understood.
pub fn check(path: &Path) {
    let script = std::fs::read_to_string(path).expect("the scenario exists");
    let printed = simulate(async { play(&script).await.with_context(|| path.display().to_string()) });
    if printed == script {
        return;
    }
    if std::env::var_os("FLEET_BLESS").is_some() {
        std::fs::write(path, printed).expect("the scenario can be rewritten");
        return;
    }
    assert!(
        printed == script,
        "{} prints something else (FLEET_BLESS=1 rewrites it):\n{}",
        path.display(),
        difference(&script, &printed)
    );
}

async fn play(script: &str) -> anyhow::Result<String> {
    let pieces = parse(script)?;
    let mut cluster = Cluster::new()?;
    let mut session = commands::Session::default();
    let mut printed = String::new();
    for piece in pieces {
        match piece {
            Piece::Remark(line) => writeln!(printed, "{line}")?,
            Piece::Command { line, text, .. } => {
                writeln!(printed, "{line}")?;
                if let (Some(text), Some((_, end))) = (&text, line.split_once(" <<")) {
                    writeln!(printed, "{text}{end}")?;
                }
                let output = session.run(&mut cluster, &line, text).await;
                for line in output.with_context(|| line.clone())? {
                    writeln!(printed, "{INDENT}{}", same_in_every_run(&line, &cluster))?;
                }
            }
        }
    }
    Ok(printed)
}

/// Without the name of the temporary directory and the numbers of orders, which count transactions.
fn same_in_every_run(line: &str, cluster: &Cluster) -> String {
    let line = line.replace(&cluster.home_path(), "HOME");
    let word = |word: &str| {
        let inner = word.trim_end_matches(',');
        let is_number = inner.len() >= 20 && inner.bytes().all(|b| b.is_ascii_digit() || b == b'-');
        if is_number { word.replace(inner, "NUMBER") } else { word.to_owned() }
    };
    line.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// Lines that differ, with their numbers; the rest of a longer text.
fn difference(expected: &str, printed: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), printed.lines().collect());
    let same = old.iter().zip(&new).take_while(|(old, new)| old == new).count();
    let mut text = format!("first difference at line {}\n", same + 1);
    for line in old.iter().skip(same).take(12) {
        let _ = writeln!(text, "-{line}");
    }
    for line in new.iter().skip(same).take(12) {
        let _ = writeln!(text, "+{line}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_texts_and_outputs_are_told_apart() {
        let pieces =
            parse("# remark\nunit a.service <<END\n[Service]\n  x\nEND\nshow units\n    a\n    b\n").unwrap();
        assert_eq!(pieces.len(), 3);
        let Piece::Command { text, expected, .. } = &pieces[1] else { panic!("{pieces:?}") };
        assert_eq!((text.as_deref(), expected.len()), (Some("[Service]\n  x\n"), 0));
        let Piece::Command { expected, .. } = &pieces[2] else { panic!("{pieces:?}") };
        assert_eq!(expected, &["a", "b"]);
    }

    #[test]
    fn output_before_the_first_command_is_refused() {
        assert!(parse("    x\n").is_err());
    }
}
