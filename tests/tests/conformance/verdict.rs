//! What a case found against what it expects, and the summary of a run.

use std::fmt::{self, Display, Write};

use fleet_tests::lab::ExecOutput;

use super::case::{Case, Command, Request, Section};
use super::pattern::{self, Known};
use super::request::Reply;

/// One step that differs.
#[derive(Debug)]
pub struct Failure {
    /// 0 for what belongs to no line of the file.
    line: usize,
    text: String,
}

impl Failure {
    pub fn new(line: usize, text: String) -> Self {
        Self { line, text }
    }
}

/// How a command's output differs; none if it is as expected.
pub fn output(
    command: &Command,
    stdout: &[String],
    stderr: &[String],
    output: &ExecOutput,
) -> Option<String> {
    let mut text = String::new();
    for (name, expected, found) in
        [("standard output", stdout, &output.stdout), ("standard error", stderr, &output.stderr)]
    {
        let found = lines(found);
        let is_same = if command.is_mixed {
            pattern::are_lines_mixed(expected, &found)
        } else {
            pattern::are_lines(expected, &found)
        };
        if !is_same {
            text.push_str(&diff(name, expected, &found));
        }
    }
    if output.status.code() != Some(command.code) {
        let _infallible =
            writeln!(text, "      exit code: expected {}, found {}", command.code, output.status);
    }
    (!text.is_empty()).then_some(text)
}

/// How an answer differs; none if it is as expected.
pub fn answer(request: &Request, known: &Known, reply: &Reply) -> Option<String> {
    let mut text = String::new();
    let expected = &request.answer;
    if expected.status != reply.status {
        let _infallible =
            writeln!(text, "      status: expected {}, found {}", expected.status, reply.status);
    }
    let mut headers: Vec<(&str, String)> =
        expected.headers.iter().map(|(name, value)| (name.as_str(), known.fill(value))).collect();
    // Said once in the specification, and true of every answer.
    let has = |name: &str| expected.headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
    if !expected.body.is_empty() && !has("content-type") {
        headers.push(("Content-Type", "application/json".to_owned()));
    }
    if !has("server") {
        headers.push(("Server", known.fill("fleetd/<VERSION>")));
    }
    for (name, value) in headers {
        let found = reply.header(name);
        let is_same = match (value.as_str(), found) {
            ("-", found) => found.is_none(),
            (value, Some(found)) => pattern::is_line(value, found),
            (_, None) => false,
        };
        if !is_same {
            let _infallible =
                writeln!(text, "      {name}: expected {value}, found {}", found.unwrap_or("none"));
        }
    }
    let is_json = reply.header("content-type").is_some_and(|value| value.starts_with("application/json"));
    let mut body: Vec<String> = expected.body.iter().map(|line| known.fill(line)).collect();
    if is_json && !body.is_empty() {
        // Written in several lines for the reader; sent as one.
        body = vec![body.iter().map(|line| line.trim_start()).collect()];
    }
    let found = lines(&reply.body);
    let ends_in_newline = is_json && reply.body.ends_with('\n');
    if !pattern::are_lines(&body, &found) || ends_in_newline {
        text.push_str(&diff("body", &body, &found));
    }
    (!text.is_empty()).then_some(text)
}

/// Lines of a text; what follows the last newline counts if there is something.
fn lines(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.split('\n').collect();
    if lines.last() == Some(&"") {
        lines.pop();
    }
    lines
}

/// Both texts, with the lines in which they differ marked.
fn diff(name: &str, expected: &[String], found: &[&str]) -> String {
    let same = |(pattern, line): &(&String, &&str)| pattern::is_line(pattern, line);
    let head = expected.iter().zip(found).take_while(same).count();
    let (rest, left) = (&expected[head..], &found[head..]);
    let tail = rest.iter().rev().zip(left.iter().rev()).take_while(same).count();
    let mut text = format!("      {name}:\n");
    let mut put = |mark: char, line: &str| {
        let _infallible = writeln!(text, "      {mark} {}", line.escape_debug());
    };
    expected[..head].iter().for_each(|line| put(' ', line));
    rest[..rest.len() - tail].iter().for_each(|line| put('-', line));
    left[..left.len() - tail].iter().for_each(|line| put('+', line));
    rest[rest.len() - tail..].iter().for_each(|line| put(' ', line));
    text
}

/// How many cases of which section passed, and how the others failed.
#[derive(Debug)]
pub struct Summary {
    only: String,
    /// Section, its title, cases, passed.
    rows: Vec<(String, String, usize, usize)>,
    failures: String,
}

impl Summary {
    pub fn new(only: &str) -> Self {
        Self { only: only.to_owned(), rows: Vec::new(), failures: String::new() }
    }

    pub fn add(&mut self, section: &Section, case: &Case, failures: Vec<Failure>) {
        if self.rows.last().is_none_or(|row| row.0 != section.number) {
            self.rows.push((section.number.clone(), section.title.clone(), 0, 0));
        }
        if let Some((_, _, cases, passed)) = self.rows.last_mut() {
            *cases += 1;
            *passed += usize::from(failures.is_empty());
        }
        for Failure { line, text } in failures {
            let line = if line == 0 { case.line } else { line };
            let place = format!("{}:{line}", case.file.display());
            let _infallible = write!(self.failures, "{}\n  {place}\n    {text}\n", case.name());
        }
    }

    pub fn has_passed(&self) -> bool {
        self.rows.iter().all(|(_, _, cases, passed)| cases == passed)
    }
}

impl Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.failures)?;
        if !self.only.is_empty() {
            writeln!(f, "only cases with \"{}\" (FLEET_CASE)", self.only)?;
        }
        writeln!(f, "{:<8} {:<32} {:>5} {:>6}", "section", "", "cases", "passed")?;
        for (number, title, cases, passed) in &self.rows {
            writeln!(f, "{number:<8} {title:<32} {cases:>5} {passed:>6}")?;
        }
        let sum = |of: fn(&(String, String, usize, usize)) -> usize| self.rows.iter().map(of).sum::<usize>();
        write!(f, "{:<8} {:<32} {:>5} {:>6}", "all", "", sum(|row| row.2), sum(|row| row.3))
    }
}
